/*
 * The Storage service's table: each call, who may make it, and what all calls have in common. Asked by rpc/'s
 * worker threads before each handler.
 */
#include "datapath/target/storage_service.h"

#include <stddef.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/target/job.h"
#include "datapath/target/server.h"

/* Waiting for a drain holds a thread. */
_Static_assert(JOB_WAITERS_MAX < SERVICE_THREADS, "some threads never wait for a job");

enum service_role {
    ROLE_C = 1,
    ROLE_N = 2, /* a node; a request that names a node must name this one */
    ROLE_O = 4,
    ROLE_N_OWN = ROLE_N, /* a node, and the handler checks whose object it is */
};

static const struct service_right {
    const char *method;
    unsigned roles;
} rights[] = {
    {"GetServer", ROLE_C | ROLE_N | ROLE_O},
    {"ClaimName", ROLE_C},
    {"ReleaseName", ROLE_C},
    {"CreateVolume", ROLE_C},
    {"DeleteVolume", ROLE_C},
    {"GetVolume", ROLE_C | ROLE_O | ROLE_N_OWN},
    {"ListVolumes", ROLE_C | ROLE_O},
    {"ExpandVolume", ROLE_C},
    {"ModifyVolume", ROLE_C},
    {"CreateSnapshot", ROLE_C},
    {"DeleteSnapshot", ROLE_C},
    {"GetSnapshot", ROLE_C | ROLE_O},
    {"ListSnapshots", ROLE_C | ROLE_O},
    {"HoldVolumes", ROLE_C},
    {"ReleaseVolumes", ROLE_C},
    {"CommitSnapshots", ROLE_C},
    {"ListExtents", ROLE_C},
    {"AttachVolume", ROLE_C},
    {"DetachVolume", ROLE_C},
    {"GetAttachment", ROLE_N | ROLE_O},
    {"GrantGeneration", ROLE_N},
    {"BeginFormat", ROLE_N},
    {"EndFormat", ROLE_N},
    {"RegisterNode", ROLE_N},
    {"ListNodes", ROLE_C | ROLE_O},
    {"FenceNode", ROLE_C | ROLE_O},
    {"UnfenceNode", ROLE_O},
    {"ListSessions", ROLE_C | ROLE_O},
    {"ClearWriteFailed", ROLE_O},
    {"GetScrub", ROLE_C | ROLE_O},
    {"StartScrub", ROLE_O},
};

static const struct rpc_method changing[] = {
    {"ClaimName", service_claim_name, false},
    {"ReleaseName", service_release_name, false},
    {"CreateVolume", service_create_volume, false},
    {"DeleteVolume", service_delete_volume, false},
    {"AttachVolume", service_attach_volume, false},
    {"DetachVolume", service_detach_volume, false},
    {"GrantGeneration", service_grant_generation, false},
    {"BeginFormat", service_begin_format, false},
    {"EndFormat", service_end_format, false},
    {"ClearWriteFailed", service_clear_write_failed, false},
    {"ExpandVolume", service_expand_volume, false},
    {"ModifyVolume", service_modify_volume, false},
    {"CreateSnapshot", service_create_snapshot, false},
    {"DeleteSnapshot", service_delete_snapshot, false},
    {"CommitSnapshots", service_commit_snapshots, false},
};

static const struct rpc_method looking[] = {
    {"GetVolume", service_get_volume, false},         {"ListVolumes", service_list_volumes, false},
    {"GetAttachment", service_get_attachment, false}, {"ListSessions", service_list_sessions, false},
    {"GetSnapshot", service_get_snapshot, false},     {"ListSnapshots", service_list_snapshots, false},
};

static const struct rpc_method prompt[] = {
    {"GetServer", service_get_server, false},
    {"ListNodes", service_list_nodes, false},
    {"GetScrub", service_get_scrub, false},
    {"StartScrub", service_start_scrub, false},
};

static const struct rpc_method heartbeats[] = {
    {"RegisterNode", service_register_node, false},
};

static const struct rpc_method fences[] = {
    {"FenceNode", service_fence_node, false},
    {"UnfenceNode", service_unfence_node, false},
};

/* A hold ends by itself: what ends it, or makes it, waits for nothing else. */
static const struct rpc_method holds[] = {
    {"HoldVolumes", service_hold_volumes, false},
    {"ReleaseVolumes", service_release_volumes, false},
};

static const struct rpc_method streams[] = {
    {"ListExtents", service_list_extents, true},
};

/* Each group has threads of its own, so that what one of them waits for, be it a disk that does not answer,
 * keeps none of the others: a server that is busy still says so, hears heartbeats and fences nodes. */
static const struct service_group {
    const struct rpc_method *methods;
    size_t count;
    unsigned threads;
} groups[STORAGE_SERVICES] = {
    {changing, ARRAY_SIZE(changing), SERVICE_THREADS},
    {looking, ARRAY_SIZE(looking), 8},
    {prompt, ARRAY_SIZE(prompt), 2}, /* memory only */
    {heartbeats, ARRAY_SIZE(heartbeats), 4},
    {fences, ARRAY_SIZE(fences), FENCES_MAX},
    {holds, ARRAY_SIZE(holds), 4},
    {streams, ARRAY_SIZE(streams), 4}, /* at the pace of who reads them */
};

static unsigned service_roles_of(const char *method)
{
    for (size_t i = 0; i < ARRAY_SIZE(rights); i++)
        if (str_equal(rights[i].method, method))
            return rights[i].roles;
    return 0;
}

static unsigned service_peer_role(const struct rpc_peer *peer)
{
    switch (peer->role) {
    case RPC_ROLE_CONTROLLER:
        return ROLE_C;
    case RPC_ROLE_NODE:
        return ROLE_N;
    case RPC_ROLE_OPERATOR:
        return ROLE_O;
    case RPC_ROLE_NONE:
    case RPC_ROLE_LOCAL:
    case RPC_ROLE_SERVER:
        break;
    }
    return 0;
}

/* The request's node_id, or NULL when its message has none. */
static const char *service_request_node(const ProtobufCMessage *request)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(request->descriptor, "node_id");
    return field ? *(char *const *)((const char *)request + field->offset) : NULL;
}

static int service_authorize(const struct rpc_peer *peer, const char *method, const ProtobufCMessage *request,
                             void *context, struct error *err)
{
    const struct storage_service *storage = context;
    unsigned role = service_peer_role(peer);
    if (!(service_roles_of(method) & role))
        return error_set(err, E_PERMISSION, "%s is not for the role that this certificate carries", method);
    const char *node_id = service_request_node(request);
    if (role == ROLE_N && node_id && !str_equal(node_id, peer->id))
        return error_set(err, E_PERMISSION, "node %s may not call %s for node \"%.128s\"", peer->id, method,
                         node_id);
    if (!server_ready(storage->server))
        return error_set(err, E_UNAVAILABLE, "storage server %s has not opened its pool yet, or stops",
                         storage->server->settings->server_id);
    return 0;
}

void storage_service_init(struct storage_service *storage, struct server *server)
{
    *storage = (struct storage_service){.server = server};
    for (size_t i = 0; i < STORAGE_SERVICES; i++)
        storage->services[i] = (struct rpc_service){.descriptor = &mooring__storage__v1__storage__descriptor,
                                                    .methods = groups[i].methods,
                                                    .methods_count = groups[i].count,
                                                    .context = storage,
                                                    .authorize = service_authorize,
                                                    .threads = groups[i].threads};
    pthread_mutex_init(&storage->fences_lock, NULL);
    nodes_seen_init(&storage->seen);
    for (size_t i = 0; i < SERVICE_NAME_LOCKS; i++)
        pthread_mutex_init(&storage->name_locks[i], NULL);
}

void storage_service_done(struct storage_service *storage)
{
    nodes_seen_done(&storage->seen);
    pthread_mutex_destroy(&storage->fences_lock);
    for (size_t i = 0; i < SERVICE_NAME_LOCKS; i++)
        pthread_mutex_destroy(&storage->name_locks[i]);
}

int service_check_volume_id(struct storage_service *storage, const char *volume_id, struct error *err)
{
    char server_id[ID_SERVER_MAX + 1];
    int code = id_volume_server(volume_id, server_id, err);
    if (code)
        return code;
    if (!str_equal(server_id, storage->server->settings->server_id))
        return error_set(err, E_INVALID_ARGUMENT, "volume %s is of storage server %s, and this one is %s",
                         volume_id, server_id, storage->server->settings->server_id);
    return 0;
}

int service_find_volume(struct storage_service *storage, const char *volume_id, struct volume **ret,
                        struct error *err)
{
    int code = service_check_volume_id(storage, volume_id, err);
    if (code)
        return code;
    struct volume *volume = store_volume_find(storage->server->store, volume_id);
    if (!volume)
        return error_set(err, E_NOT_FOUND, "there is no volume %s", volume_id);
    code = volume_check_readable(volume, err);
    if (code) {
        volume_unref(volume);
        return code;
    }
    *ret = volume;
    return 0;
}

int service_check_node_id(const char *node_id, struct error *err)
{
    if (id_node_valid(node_id))
        return 0;
    return error_set(err, E_INVALID_ARGUMENT, "\"%.128s\" is not a node id: 1 to %d of [a-z0-9.-]", node_id,
                     ID_NODE_MAX);
}
