/* The CLI as a client of CSI. Owns a client for the time of one call; run by main(). */
#include "cli/csi.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "proto/context.h"
#include "proto/map.h"

#define BUSY_PAUSE_NS 200000000

/* Once, or with --retry while someone is busy or away and time is left. */
static int call_until(const struct cli *cli, struct rpc_client *client,
                      const ProtobufCServiceDescriptor *service, const char *method,
                      const ProtobufCMessage *request, ProtobufCMessage **ret_response, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + cli->timeout_ms;

    for (;;) {
        uint64_t now_ms = time_now_ms();
        struct rpc_call_options options = {
            .timeout_ms = (unsigned)MAX(deadline_ms, now_ms + 1) - (unsigned)now_ms, .retry = cli->retry};
        int r = rpc_client_call(client, service, method, request, &options, ret_response, err);

        if ((r != E_BUSY && r != E_STALE && r != E_UNAVAILABLE) || !cli->retry ||
            time_now_ms() >= deadline_ms)
            return r;
        nanosleep(&(struct timespec){.tv_nsec = BUSY_PAUSE_NS}, NULL);
    }
}

/* The likeliest reason by far why a call on a socket finds nobody. */
static const char *socket_hint(const char *endpoint)
{
    const char *path = str_starts_with(endpoint, "unix://") ? endpoint + strlen("unix://") : endpoint;

    return access(path, F_OK) == 0 ? ""
                                   : " (it is not running here; start it, or name its socket with --config)";
}

static int call(const struct cli *cli, const char *endpoint, const char *who,
                const ProtobufCServiceDescriptor *service, const char *method,
                const ProtobufCMessage *request, ProtobufCMessage **ret_response, struct error *err)
{
    const struct rpc_client_options options = {.endpoint = endpoint};
    ProtobufCMessage *response = NULL;
    struct rpc_client *client;
    int r = rpc_client_new(&client, &options, err);

    if (r != E_OK)
        return r;
    r = call_until(cli, client, service, method, request, &response, err);
    rpc_client_free(client);
    if (r == E_UNAVAILABLE || r == E_DEADLINE)
        error_wrap(err, "%s at %s%s", who, endpoint, socket_hint(endpoint));
    if (r != E_OK)
        return r;
    if (ret_response)
        *ret_response = response;
    else
        protobuf_c_message_free_unpacked(response, NULL);
    return E_OK;
}

int csi_call_controller(const struct cli *cli, const char *method, const ProtobufCMessage *request,
                        ProtobufCMessage **ret_response, struct error *err)
{
    return call(cli, cli->controller, "mooring-controller", &csi__v1__controller__descriptor, method, request,
                ret_response, err);
}

int csi_call_node(const struct cli *cli, const char *method, const ProtobufCMessage *request,
                  ProtobufCMessage **ret_response, struct error *err)
{
    return call(cli, cli->node, "mooring-node", &csi__v1__node__descriptor, method, request, ret_response,
                err);
}

int csi_call_node_service(const struct cli *cli, const ProtobufCServiceDescriptor *service,
                          const char *method, const ProtobufCMessage *request,
                          ProtobufCMessage **ret_response, struct error *err)
{
    return call(cli, cli->node, "mooring-node", service, method, request, ret_response, err);
}

/* ---- volumes ---- */

int csi_each_volume(const struct cli *cli,
                    int (*each)(const Csi__V1__ListVolumesResponse__Entry *entry, void *context,
                                struct error *err),
                    void *context, struct error *err)
{
    _cleanup_free_ char *token = NULL;
    int r = E_OK;

    do {
        Csi__V1__ListVolumesRequest request = CSI__V1__LIST_VOLUMES_REQUEST__INIT;
        Csi__V1__ListVolumesResponse *page;
        ProtobufCMessage *message = NULL;

        if (token)
            request.starting_token = token;
        r = csi_call_controller(cli, "ListVolumes", &request.base, &message, err);
        if (r != E_OK)
            return r;
        page = (Csi__V1__ListVolumesResponse *)message;
        for (size_t i = 0; r == E_OK && i < page->n_entries; i++)
            r = each(page->entries[i], context, err);
        free(token);
        token = *page->next_token != '\0' ? strdup(page->next_token) : NULL;
        protobuf_c_message_free_unpacked(message, NULL);
    } while (r == E_OK && token);
    return r;
}

struct search {
    const char *name;
    char id[ID_VOLUME_MAX + 1];
};

static int compare_name(const Csi__V1__ListVolumesResponse__Entry *entry, void *context, struct error *err)
{
    struct search *search = context;
    const char *name = map_get(entry->volume->volume_context, entry->volume->n_volume_context, CONTEXT_NAME);

    (void)err;
    if (name && str_equal(name, search->name))
        str_copy(search->id, sizeof(search->id), entry->volume->volume_id);
    return E_OK;
}

int csi_find_volume(const struct cli *cli, const char *id_or_name, Csi__V1__ControllerGetVolumeResponse **ret,
                    struct error *err)
{
    Csi__V1__ControllerGetVolumeRequest request = CSI__V1__CONTROLLER_GET_VOLUME_REQUEST__INIT;
    struct search search = {.name = id_or_name};
    ProtobufCMessage *message = NULL;
    int r = E_OK;

    if (id_volume_valid(id_or_name))
        str_copy(search.id, sizeof(search.id), id_or_name);
    else
        r = csi_each_volume(cli, compare_name, &search, err);
    if (r == E_OK && search.id[0] == '\0')
        r = error_set(err, E_NOT_FOUND, "there is no volume \"%s\"; see mooring volume list", id_or_name);
    if (r != E_OK)
        return r;
    request.volume_id = search.id;
    r = csi_call_controller(cli, "ControllerGetVolume", &request.base, &message, err);
    if (r == E_OK)
        *ret = (Csi__V1__ControllerGetVolumeResponse *)message;
    return r;
}

/* ---- messages ---- */

static int parse_access_mode(const char *name, Csi__V1__VolumeCapability__AccessMode__Mode *ret,
                             struct error *err)
{
    static const char *const names[] = {
        NULL, /* UNKNOWN */
        "single-node-writer",
        "single-node-reader-only",
        "multi-node-reader-only",
        "multi-node-single-writer",
        "multi-node-multi-writer",
        "single-node-single-writer",
        "single-node-multi-writer",
    };

    for (size_t i = 1; i < ARRAY_SIZE(names); i++) {
        if (str_equal(names[i], name)) {
            *ret = (Csi__V1__VolumeCapability__AccessMode__Mode)i;
            return E_OK;
        }
    }
    return error_set(err, E_INVALID_ARGUMENT, "access mode \"%s\" is none of " CSI_ACCESS_MODES, name);
}

int csi_capability_init(struct csi_capability *capability, const char *access_mode, bool block,
                        const char *fs_type, struct error *err)
{
    if (block && fs_type)
        return error_set(err, E_INVALID_ARGUMENT, "--block and --fs-type exclude each other");
    csi__v1__volume_capability__init(&capability->message);
    csi__v1__volume_capability__access_mode__init(&capability->mode);
    csi__v1__volume_capability__block_volume__init(&capability->block);
    csi__v1__volume_capability__mount_volume__init(&capability->mount);
    capability->message.access_mode = &capability->mode;
    if (block) {
        capability->message.access_type_case = CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE_BLOCK;
        capability->message.block = &capability->block;
    } else {
        capability->message.access_type_case = CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE_MOUNT;
        capability->message.mount = &capability->mount;
        if (fs_type)
            capability->mount.fs_type = (char *)fs_type;
    }
    return parse_access_mode(access_mode ? access_mode : "single-node-writer", &capability->mode.mode, err);
}

int csi_map_fill(void *entries, size_t *count, const ProtobufCMessageDescriptor *entry_descriptor,
                 int words_count, char **words, struct error *err)
{
    for (int i = 0; i < words_count; i++) {
        _cleanup_free_ char *key = strdup(words[i]);
        char *equals = key ? strchr(key, '=') : NULL;

        if (key && !equals)
            return error_set(err, E_INVALID_ARGUMENT, "\"%s\" is not PARAMETER=VALUE", words[i]);
        if (equals)
            *equals = '\0';
        if (!key || map_add(entries, count, entry_descriptor, key, equals + 1) != E_OK)
            return error_errno(err, ENOMEM, "parameters");
    }
    return E_OK;
}

void csi_map_free(void *entries, size_t count)
{
    struct map_entry **list = entries;

    for (size_t i = 0; i < count; i++)
        protobuf_c_message_free_unpacked(&list[i]->base, NULL);
    free(list);
}

json_t *csi_map_to_json(const void *entries, size_t count)
{
    struct map_entry *const *list = entries;
    json_t *object = json_object();

    for (size_t i = 0; object && i < count; i++)
        json_object_set_new(object, list[i]->key, json_string(list[i]->value));
    return object;
}
