/*
 * The Storage service's calls that change a volume while it is in use: its size and its limits. Worker
 * threads; what is recorded is then told to the volume's owner loop, and the call answers when its sessions
 * go by it.
 */
#include <errno.h>
#include <semaphore.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/target/export.h"
#include "datapath/target/reactor.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

#define BURST_MAX_S 3600

/* ---- telling the owner ---- */

struct change_notice {
    struct loop_message message;
    struct volume *volume;
    int code;
    sem_t taken;
};

/* On the owner loop. */
static void change_notice_run(struct loop_message *message)
{
    struct change_notice *notice = container_of(message, struct change_notice, message);
    struct export *export = export_find(notice->volume);
    notice->code = export ? export_record_changed(export) : 0;
    sem_post(&notice->taken);
}

/* Also after a change that was none: it may be the repeat of one that was recorded and not told. */
static int change_tell(struct storage_service *storage, struct volume *volume, struct error *err)
{
    struct change_notice notice = {.message = {.run = change_notice_run}, .volume = volume};
    sem_init(&notice.taken, 0, 0);
    loop_post(server_owner(storage->server, volume_id(volume))->loop, &notice.message);
    while (sem_wait(&notice.taken) < 0)
        ;
    sem_destroy(&notice.taken);
    return notice.code ? error_errno(err, -notice.code, "volume %s", volume_id(volume)) : 0;
}

/* ---- the calls ---- */

static int service_changed(struct storage_service *storage, struct volume *volume,
                           Mooring__Storage__V1__Volume **ret_message, struct error *err)
{
    int code = change_tell(storage, volume, err);
    if (code)
        return code;
    *ret_message = service_volume_of(storage, volume, err);
    return *ret_message ? 0 : err->code;
}

static int service_expand(struct volume *volume, const Mooring__Storage__V1__ExpandVolumeRequest *expand,
                          struct error *err)
{
    uint64_t before_bytes = volume_size_bytes(volume);
    int code = volume_operation_begin(volume, "expand", err);
    if (code)
        return code;
    code = volume_expand(volume, expand->size_bytes, expand->record_generation, err);
    volume_operation_end(volume);
    if (code == 0 && volume_size_bytes(volume) != before_bytes)
        log_info("volume %s has %lu bytes now, and had %lu", volume_id(volume),
                 (unsigned long)volume_size_bytes(volume), (unsigned long)before_bytes);
    return code;
}

int service_expand_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err)
{
    const Mooring__Storage__V1__ExpandVolumeRequest *expand =
        (const Mooring__Storage__V1__ExpandVolumeRequest *)request;
    Mooring__Storage__V1__ExpandVolumeResponse *answer =
        (Mooring__Storage__V1__ExpandVolumeResponse *)response;
    struct volume *volume;
    (void)call;
    int code = service_find_volume(context, expand->volume_id, &volume, err);
    if (code)
        return code;
    code = service_expand(volume, expand, err);
    if (code == 0)
        code = service_changed(context, volume, &answer->volume, err);
    volume_unref(volume);
    return code;
}

int service_limits(const Mooring__Storage__V1__Limits *limits, struct volume_limits *ret, struct error *err)
{
    struct volume_limits wanted = {0};
    if (limits)
        wanted = (struct volume_limits){
            .iops = limits->iops, .bytes_per_s = limits->bytes_per_s, .burst_s = limits->burst_s};
    if (wanted.burst_s > BURST_MAX_S)
        return error_set(err, E_INVALID_ARGUMENT, "a burst of %u s: it is at most %d s", wanted.burst_s,
                         BURST_MAX_S);
    if (!wanted.iops && !wanted.bytes_per_s)
        wanted.burst_s = 0;
    *ret = wanted;
    return 0;
}

int service_modify_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err)
{
    const Mooring__Storage__V1__ModifyVolumeRequest *modify =
        (const Mooring__Storage__V1__ModifyVolumeRequest *)request;
    Mooring__Storage__V1__ModifyVolumeResponse *answer =
        (Mooring__Storage__V1__ModifyVolumeResponse *)response;
    struct volume_limits limits;
    struct volume *volume;
    (void)call;
    int code = service_limits(modify->limits, &limits, err);
    if (code == 0)
        code = service_find_volume(context, modify->volume_id, &volume, err);
    if (code)
        return code;
    code = volume_operation_begin(volume, "modify", err);
    if (code == 0) {
        code = volume_set_limits(volume, &limits, modify->record_generation, err);
        volume_operation_end(volume);
    }
    if (code == 0)
        code = service_changed(context, volume, &answer->volume, err);
    volume_unref(volume);
    return code;
}
