/* The Storage service's calls about attachments: attach, detach, secrets, generations, format marks. Worker
 * threads. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/secret.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/store/content.h"
#include "datapath/target/format.h"
#include "datapath/target/grant.h"
#include "datapath/target/removal.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

/* ---- attach ---- */

static int service_attach_answer(struct storage_service *storage, struct volume *volume,
                                 const struct attachment *attachment,
                                 Mooring__Storage__V1__AttachVolumeResponse *answer, struct error *err)
{
    answer->attachment = service_attachment_message(attachment);
    answer->target_name = service_iqn(volume_id(volume));
    answer->lun = 0;
    if (!answer->attachment || !answer->target_name ||
        service_portals(storage->server, &answer->portals, &answer->n_portals) != 0)
        return error_errno(err, ENOMEM, "volume %s", volume_id(volume));
    answer->volume = service_volume_of(storage, volume, err);
    return answer->volume ? 0 : err->code;
}

static int service_attach(struct storage_service *storage, struct volume *volume,
                          const Mooring__Storage__V1__AttachVolumeRequest *attach, struct attachment *ret,
                          struct error *err)
{
    int code = volume_operation_begin(volume, "attach", err);
    if (code)
        return code;
    code =
        store_attach(storage->server->store, volume, attach->node_id, (enum access_mode)attach->access_mode,
                     attach->readonly, attach->record_generation, ret, err);
    volume_operation_end(volume);
    return code;
}

int service_attach_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err)
{
    const Mooring__Storage__V1__AttachVolumeRequest *attach =
        (const Mooring__Storage__V1__AttachVolumeRequest *)request;
    struct storage_service *storage = context;
    struct attachment attachment;
    struct volume *volume;
    (void)call;
    int code = service_check_node_id(attach->node_id, err);
    if (code == 0)
        code = service_find_volume(storage, attach->volume_id, &volume, err);
    if (code)
        return code;
    code = service_attach(storage, volume, attach, &attachment, err);
    if (code == 0) {
        code = service_attach_answer(storage, volume, &attachment,
                                     (Mooring__Storage__V1__AttachVolumeResponse *)response, err);
        secret_wipe(&attachment, sizeof(attachment));
    }
    volume_unref(volume);
    return code;
}

/* ---- detach ---- */

struct absence {
    const char *node_id;
    uint64_t record_generation;
};

/* The record grows though nothing in it changes: an attach that was decided before is stale from now on. */
static int absence_edit(struct volume_record *record, void *context, struct error *err)
{
    const struct absence *absence = context;
    if (absence->record_generation != record->record_generation)
        return error_set(err, E_STALE,
                         "volume %s has changed since the detach from node %s was decided: record generation "
                         "%lu, not %lu",
                         record->id, absence->node_id, (unsigned long)record->record_generation,
                         (unsigned long)absence->record_generation);
    return volume_record_attachment(record, absence->node_id)
               ? error_set(err, E_INVALID_ARGUMENT,
                           "volume %s is attached to node %s: a detach needs the attachment's epoch",
                           record->id, absence->node_id)
               : 0;
}

static int service_detach_absent(struct volume *volume, const char *node_id, uint64_t record_generation,
                                 struct error *err)
{
    struct absence absence = {.node_id = node_id, .record_generation = record_generation};
    if (record_generation == 0)
        return error_set(err, E_INVALID_ARGUMENT,
                         "volume %s: a detach from node %s needs the epoch or the record generation that it "
                         "was decided on: is the controller older than this server?",
                         volume_id(volume), node_id);
    int code = volume_operation_begin(volume, "detach", err);
    if (code)
        return code;
    code = volume_update(volume, absence_edit, &absence, err);
    volume_operation_end(volume);
    return code;
}

static int service_detach(struct storage_service *storage, struct rpc_call *call, struct volume *volume,
                          const Mooring__Storage__V1__DetachVolumeRequest *detach, struct error *err)
{
    struct job *job;
    if (detach->node_id[0] && detach->epoch == 0)
        return service_detach_absent(volume, detach->node_id, detach->record_generation, err);
    int code = removal_start(storage->server, volume, detach->node_id, detach->epoch, &job, err);
    if (code)
        return code;
    code = job_wait(job, call, err);
    job_unref(job);
    return code;
}

int service_detach_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err)
{
    const Mooring__Storage__V1__DetachVolumeRequest *detach =
        (const Mooring__Storage__V1__DetachVolumeRequest *)request;
    struct storage_service *storage = context;
    struct volume *volume;
    (void)response;
    int code = detach->node_id[0] ? service_check_node_id(detach->node_id, err) : 0;
    if (code == 0)
        code = service_find_volume(storage, detach->volume_id, &volume, err);
    if (code)
        return code == E_NOT_FOUND ? 0 : code; /* what does not exist is attached to nobody */
    code = service_detach(storage, call, volume, detach, err);
    volume_unref(volume);
    return code == E_NOT_FOUND ? 0 : code;
}

/* ---- what a node needs ---- */

static int service_attachment_answer(struct storage_service *storage, struct volume *volume,
                                     const struct attachment *attachment,
                                     Mooring__Storage__V1__GetAttachmentResponse *answer, struct error *err)
{
    char name[ID_CHAP_NAME_MAX + 1];
    id_chap_name(volume_id(volume), attachment->epoch, 0, name);
    answer->attachment = service_attachment_message(attachment);
    answer->target_name = service_iqn(volume_id(volume));
    answer->lun = 0;
    answer->chap_name = strdup(name);
    answer->chap_secret = strdup(attachment->secret);
    if (!answer->attachment || !answer->target_name || !answer->chap_name || !answer->chap_secret ||
        service_portals(storage->server, &answer->portals, &answer->n_portals) != 0)
        return error_errno(err, ENOMEM, "volume %s", volume_id(volume));
    answer->volume = service_volume_of(storage, volume, err);
    return answer->volume ? 0 : err->code;
}

int service_get_attachment(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                           void *context, struct error *err)
{
    const Mooring__Storage__V1__GetAttachmentRequest *get =
        (const Mooring__Storage__V1__GetAttachmentRequest *)request;
    struct storage_service *storage = context;
    struct volume_record record = {0};
    struct volume *volume;
    (void)call;
    int code = service_find_volume(storage, get->volume_id, &volume, err);
    if (code)
        return code;
    if (volume_snapshot_record(volume, &record) != 0) {
        code = error_errno(err, ENOMEM, "volume %s", get->volume_id);
    } else {
        const struct attachment *attachment = volume_record_attachment(&record, get->node_id);
        if (attachment)
            code = service_attachment_answer(storage, volume, attachment,
                                             (Mooring__Storage__V1__GetAttachmentResponse *)response, err);
        else
            code = error_set(err, E_NOT_FOUND, "volume %s is not attached to node %.128s", get->volume_id,
                             get->node_id);
        volume_record_done(&record);
    }
    volume_unref(volume);
    return code;
}

static int service_grant_answer(const struct job *job, const char *volume_id, uint64_t epoch,
                                Mooring__Storage__V1__GrantGenerationResponse *answer, struct error *err)
{
    struct grant_result result;
    char name[ID_CHAP_NAME_MAX + 1];
    grant_result(job, &result);
    id_chap_name(volume_id, epoch, result.generation, name);
    answer->generation = result.generation;
    answer->chap_name = strdup(name);
    answer->chap_secret = strdup(result.secret);
    secret_wipe(&result, sizeof(result));
    return answer->chap_name && answer->chap_secret ? 0 : error_errno(err, ENOMEM, "volume %s", volume_id);
}

int service_grant_generation(struct rpc_call *call, const ProtobufCMessage *request,
                             ProtobufCMessage *response, void *context, struct error *err)
{
    const Mooring__Storage__V1__GrantGenerationRequest *grant =
        (const Mooring__Storage__V1__GrantGenerationRequest *)request;
    struct storage_service *storage = context;
    struct volume *volume;
    struct job *job;
    int code = service_find_volume(storage, grant->volume_id, &volume, err);
    if (code)
        return code;
    code = grant_start(storage->server, volume, grant->node_id, grant->epoch, grant->holding_generation,
                       grant->write_through, &job, err);
    if (code == 0) {
        code = job_wait(job, call, err);
        if (code == 0)
            code = service_grant_answer(job, grant->volume_id, grant->epoch,
                                        (Mooring__Storage__V1__GrantGenerationResponse *)response, err);
        job_unref(job);
    }
    volume_unref(volume);
    return code;
}

/* ---- format marks ---- */

int service_begin_format(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    const Mooring__Storage__V1__BeginFormatRequest *begin =
        (const Mooring__Storage__V1__BeginFormatRequest *)request;
    struct storage_service *storage = context;
    struct volume *volume;
    struct job *job;
    int code = service_find_volume(storage, begin->volume_id, &volume, err);
    if (code)
        return code;
    code = format_start(storage->server, volume, begin->node_id, begin->epoch, begin->generation, &job, err);
    if (code == 0) {
        code = job_wait(job, call, err);
        if (code == 0)
            ((Mooring__Storage__V1__BeginFormatResponse *)response)->discarded = format_discarded(job);
        job_unref(job);
    }
    volume_unref(volume);
    return code;
}

static int end_format_edit(struct volume_record *record, void *context, struct error *err)
{
    const Mooring__Storage__V1__EndFormatRequest *end = context;
    return content_format_end(record, end->node_id, end->epoch, end->generation, err);
}

int service_end_format(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err)
{
    const Mooring__Storage__V1__EndFormatRequest *end =
        (const Mooring__Storage__V1__EndFormatRequest *)request;
    struct volume *volume;
    (void)call;
    (void)response;
    int code = service_find_volume(context, end->volume_id, &volume, err);
    if (code)
        return code;
    code = volume_operation_begin(volume, "end format", err);
    if (code == 0) {
        code = volume_update(volume, end_format_edit, (void *)(uintptr_t)end, err);
        volume_operation_end(volume);
    }
    volume_unref(volume);
    return code;
}
