/* Calls to the storage servers, one rpc_client each. Used by RPC threads, the supervisor and the registrar.
 */
#include "node/storage.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/secret.h"
#include "common/strings.h"
#include "proto/storage.pb-c.h"
#include "rpc/rpc.h"

#define STORAGE_SERVICE (&mooring__storage__v1__storage__descriptor)

struct storage {
    const struct node_config *config;
    struct rpc_client **clients; /* in the order of config->servers */
};

struct storage *storage_free(struct storage *storage)
{
    if (!storage)
        return NULL;
    for (size_t i = 0; storage->clients && i < storage->config->servers.count; i++) {
        if (storage->clients[i])
            rpc_client_free(storage->clients[i]);
    }
    free(storage->clients);
    free(storage);
    return NULL;
}

int storage_new(struct storage **ret, const struct node_config *config, struct error *err)
{
    const struct rpc_tls tls = {config->tls_ca, config->tls_cert, config->tls_key};
    struct storage *storage = calloc(1, sizeof(*storage));

    if (storage)
        storage->clients = calloc(config->servers.count + 1, sizeof(*storage->clients));
    if (!storage || !storage->clients) {
        free(storage);
        return error_errno(err, ENOMEM, "cannot keep the storage servers");
    }
    storage->config = config;
    for (size_t i = 0; i < config->servers.count; i++) {
        const struct rpc_client_options options = {
            .endpoint = config->servers.items[i].address,
            .tls = &tls,
            .server_name = config->servers.items[i].id,
        };
        int r = rpc_client_new(&storage->clients[i], &options, err);
        if (r) {
            error_wrap(err, "server %s", config->servers.items[i].id);
            storage_free(storage);
            return r;
        }
    }
    *ret = storage;
    return 0;
}

/* One call to server `index`; on failure the text names the server. */
static int storage_call_server(struct storage *storage, size_t index, const char *method, const void *request,
                               unsigned timeout_ms, void *ret_response, struct error *err)
{
    const struct rpc_call_options options = {.timeout_ms = timeout_ms, .retry = true};
    ProtobufCMessage *response = NULL;

    int r =
        rpc_client_call(storage->clients[index], STORAGE_SERVICE, method, request, &options, &response, err);
    if (r) {
        error_wrap(err, "storage server %s: %s", storage->config->servers.items[index].id, method);
        return r;
    }
    *(ProtobufCMessage **)ret_response = response;
    return 0;
}

/* The same to the server that the volume id names. */
static int storage_call(struct storage *storage, const char *volume_id, const char *method,
                        const void *request, unsigned timeout_ms, void *ret_response, struct error *err)
{
    char server_id[ID_SERVER_MAX + 1];
    int r = id_volume_server(volume_id, server_id, err);

    if (r)
        return r;
    for (size_t i = 0; i < storage->config->servers.count; i++) {
        if (str_equal(storage->config->servers.items[i].id, server_id))
            return storage_call_server(storage, i, method, request, timeout_ms, ret_response, err);
    }
    return error_set(
        err, E_INVALID_ARGUMENT,
        "volume %s is on storage server %s, which this node's configuration lacks: add it to \"servers\"",
        volume_id, server_id);
}

static void storage_free_message(void *message)
{
    ProtobufCMessage *owned = *(ProtobufCMessage **)message;
    if (owned)
        protobuf_c_message_free_unpacked(owned, NULL);
}
#define _cleanup_message_ __attribute__((cleanup(storage_free_message)))

/* ---- attachments ---- */

void storage_attachment_done(struct storage_attachment *attachment)
{
    for (size_t i = 0; i < attachment->portals_count; i++)
        free(attachment->portals[i]);
    free(attachment->portals);
    *attachment = (struct storage_attachment){0};
}

static int storage_attachment_fill(struct storage_attachment *to,
                                   const Mooring__Storage__V1__GetAttachmentResponse *from, struct error *err)
{
    const Mooring__Storage__V1__Volume *volume = from->volume;

    if (!from->attachment || !volume || from->n_portals == 0 ||
        !str_copy(to->volume_id, sizeof(to->volume_id), volume->volume_id) ||
        !str_copy(to->target_name, sizeof(to->target_name), from->target_name))
        return error_set(err, E_CORRUPT,
                         "the storage server's answer lacks the attachment, the volume or portals");
    to->epoch = from->attachment->epoch;
    to->generation = from->attachment->generation;
    to->removing = from->attachment->removing;
    to->readonly = from->attachment->readonly;
    to->write_failed = from->volume->write_failed;
    to->size_bytes = volume->size_bytes;
    to->block_size_bytes = volume->block_size_bytes;
    to->lun = from->lun;
    switch (volume->content) {
    case MOORING__STORAGE__V1__CONTENT__BLANK:
        to->content = STORAGE_BLANK;
        break;
    case MOORING__STORAGE__V1__CONTENT__FORMATTING:
        to->content = STORAGE_FORMATTING;
        break;
    default: /* what this build does not know is never formatted */
        to->content = STORAGE_DATA;
    }
    to->portals = calloc(from->n_portals, sizeof(*to->portals));
    for (size_t i = 0; to->portals && i < from->n_portals; i++) {
        to->portals[i] = strdup(from->portals[i]);
        if (!to->portals[i])
            break;
        to->portals_count++;
    }
    if (to->portals_count != from->n_portals)
        return error_errno(err, ENOMEM, "cannot keep the portals");
    return 0;
}

int storage_attachment_get(struct storage *storage, const char *volume_id, unsigned timeout_ms,
                           struct storage_attachment *ret, struct error *err)
{
    Mooring__Storage__V1__GetAttachmentRequest request = MOORING__STORAGE__V1__GET_ATTACHMENT_REQUEST__INIT;
    _cleanup_message_ Mooring__Storage__V1__GetAttachmentResponse *response = NULL;
    struct storage_attachment attachment = {0};

    request.volume_id = (char *)volume_id;
    request.node_id = (char *)storage->config->node_id;
    int r = storage_call(storage, volume_id, "GetAttachment", &request, timeout_ms, &response, err);
    if (r)
        return r;
    r = storage_attachment_fill(&attachment, response, err);
    if (response->chap_secret)
        secret_wipe(response->chap_secret, strlen(response->chap_secret));
    if (r) {
        storage_attachment_done(&attachment);
        return r;
    }
    *ret = attachment;
    return 0;
}

int storage_generation_grant(struct storage *storage, const char *volume_id, uint64_t epoch, uint64_t holding,
                             bool write_through, unsigned timeout_ms, struct storage_grant *ret,
                             struct error *err)
{
    Mooring__Storage__V1__GrantGenerationRequest request =
        MOORING__STORAGE__V1__GRANT_GENERATION_REQUEST__INIT;
    _cleanup_message_ Mooring__Storage__V1__GrantGenerationResponse *response = NULL;
    struct storage_grant grant;

    request.volume_id = (char *)volume_id;
    request.node_id = (char *)storage->config->node_id;
    request.epoch = epoch;
    request.holding_generation = holding;
    request.write_through = write_through;
    int r = storage_call(storage, volume_id, "GrantGeneration", &request, timeout_ms, &response, err);
    if (r)
        return r;
    grant.generation = response->generation;
    if (!str_copy(grant.chap_name, sizeof(grant.chap_name), response->chap_name) ||
        !str_copy(grant.chap_secret, sizeof(grant.chap_secret), response->chap_secret))
        r = error_set(err, E_CORRUPT, "the storage server granted a name or secret that is too long");
    else
        *ret = grant;
    secret_wipe(&grant, sizeof(grant));
    secret_wipe(response->chap_secret, strlen(response->chap_secret));
    return r;
}

/* ---- format marks ---- */

int storage_format_begin(struct storage *storage, const char *volume_id, uint64_t epoch, uint64_t generation,
                         unsigned timeout_ms, struct error *err)
{
    Mooring__Storage__V1__BeginFormatRequest request = MOORING__STORAGE__V1__BEGIN_FORMAT_REQUEST__INIT;
    _cleanup_message_ Mooring__Storage__V1__BeginFormatResponse *response = NULL;

    request.volume_id = (char *)volume_id;
    request.node_id = (char *)storage->config->node_id;
    request.epoch = epoch;
    request.generation = generation;
    return storage_call(storage, volume_id, "BeginFormat", &request, timeout_ms, &response, err);
}

int storage_format_end(struct storage *storage, const char *volume_id, uint64_t epoch, uint64_t generation,
                       unsigned timeout_ms, struct error *err)
{
    Mooring__Storage__V1__EndFormatRequest request = MOORING__STORAGE__V1__END_FORMAT_REQUEST__INIT;
    _cleanup_message_ Mooring__Storage__V1__EndFormatResponse *response = NULL;

    request.volume_id = (char *)volume_id;
    request.node_id = (char *)storage->config->node_id;
    request.epoch = epoch;
    request.generation = generation;
    return storage_call(storage, volume_id, "EndFormat", &request, timeout_ms, &response, err);
}

/* ---- registration ---- */

int storage_register(struct storage *storage, size_t index, unsigned timeout_ms, bool *ret_fenced,
                     struct error *err)
{
    Mooring__Storage__V1__RegisterNodeRequest request = MOORING__STORAGE__V1__REGISTER_NODE_REQUEST__INIT;
    _cleanup_message_ Mooring__Storage__V1__RegisterNodeResponse *response = NULL;

    request.node_id = (char *)storage->config->node_id;
    request.boot_id = (char *)storage->config->boot_id;
    request.address = (char *)storage->config->address;
    request.volumes_max = (uint32_t)storage->config->volumes_max;
    int r = storage_call_server(storage, index, "RegisterNode", &request, timeout_ms, &response, err);
    if (r)
        return r;
    *ret_fenced = response->fenced;
    return 0;
}
