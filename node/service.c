/*
 * The CSI Node service on the wire (CSI 1.13): each handler checks the request's required fields, leaves
 * protobuf behind and calls the operation. Runs on the RPC threads.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/choose.h"
#include "node/filesystem.h"
#include "node/node.h"
#include "node/service.h"
#include "proto/context.h"
#include "proto/csi.pb-c.h"
#include "proto/field_limits.h"
#include "proto/map.h"
#include "proto/mount_options.h"
#include "rpc/rpc.h"

#define SERVICE_THREADS_SPARE 16
#define SERVICE_THREADS_MAX 256
#define SERVICE_TIMEOUT_DEFAULT_MS 60000
#define SERVICE_TIMEOUT_MARGIN_MS 200 /* to answer in time with words */

/* ---- what requests have in common ---- */

int service_require(const char *value, const char *field, struct error *err)
{
    return value && *value ? 0 : error_set(err, E_INVALID_ARGUMENT, "%s is missing", field);
}

int service_require_volume(const char *volume_id, struct error *err)
{
    int r = service_require(volume_id, "volume_id", err);

    if (!r && !id_volume_valid(volume_id)) /* none of ours has such an id */
        r = error_set(err, E_NOT_FOUND, "there is no volume \"%s\"", volume_id);
    return r;
}

int service_require_path(const char *path, const char *field, struct error *err)
{
    int r = service_require(path, field, err);

    if (!r && path[0] != '/')
        r = error_set(err, E_INVALID_ARGUMENT, "%s \"%s\" is not an absolute path", field, path);
    return r;
}

bool service_is_block(const Csi__V1__VolumeCapability *capability)
{
    return capability->access_type_case == CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE_BLOCK;
}

int service_require_capability(const Csi__V1__VolumeCapability *capability, struct error *err)
{
    if (!capability)
        return error_set(err, E_INVALID_ARGUMENT, "volume_capability is missing");
    if (capability->access_type_case == CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE__NOT_SET)
        return error_set(err, E_INVALID_ARGUMENT, "volume_capability.access_type is missing");
    if (!capability->access_mode || !capability->access_mode->mode)
        return error_set(err, E_INVALID_ARGUMENT, "volume_capability.access_mode is missing");
    if (!service_is_block(capability) && *capability->mount->volume_mount_group)
        return error_set(err, E_INVALID_ARGUMENT,
                         "volume_mount_group is not served: VOLUME_MOUNT_GROUP is not advertised");
    int mode = capability->access_mode->mode;
    if (mode < 0 || mode >= ACCESS_MODES)
        return error_set(err, E_INVALID_ARGUMENT, "volume_capability.access_mode %d is not known", mode);
    if (!service_is_block(capability) && access_mode_is_shared_writer((enum access_mode)mode))
        return error_set(err, E_PRECONDITION,
                         "access mode %s is for block volumes: ext4 and xfs are file systems of one host",
                         access_mode_name((enum access_mode)mode));
    return 0;
}

unsigned service_timeout_ms(struct rpc_call *call)
{
    int64_t remaining_ms = rpc_call_remaining_ms(call);

    if (remaining_ms > SERVICE_TIMEOUT_DEFAULT_MS)
        return SERVICE_TIMEOUT_DEFAULT_MS;
    return remaining_ms > 2 * SERVICE_TIMEOUT_MARGIN_MS ? (unsigned)remaining_ms - SERVICE_TIMEOUT_MARGIN_MS
                                                        : SERVICE_TIMEOUT_MARGIN_MS;
}

/* ---- NodeStageVolume ---- */

static int service_parse_epoch(const Csi__V1__NodeStageVolumeRequest *request, uint64_t *ret_epoch,
                               struct error *err)
{
    const char *text = map_get(request->publish_context, request->n_publish_context, CONTEXT_EPOCH);
    char *end;

    errno = 0;
    uint64_t epoch = text && *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
    if (!epoch || errno || *end)
        return error_set(err, E_INVALID_ARGUMENT,
                         "publish_context lacks a valid \"" CONTEXT_EPOCH
                         "\": pass on what ControllerPublishVolume answered");
    *ret_epoch = epoch;
    return 0;
}

/* The capability's flags, then the volume's own: comma-separated, on the heap. */
static char *service_mount_options(const Csi__V1__NodeStageVolumeRequest *request)
{
    const char *of_volume =
        map_get(request->volume_context, request->n_volume_context, CONTEXT_MOUNT_OPTIONS);
    char *options = strdup(of_volume ? of_volume : "");

    if (service_is_block(request->volume_capability))
        return options;
    const Csi__V1__VolumeCapability__MountVolume *mount = request->volume_capability->mount;
    for (size_t i = 0; options && i < mount->n_mount_flags; i++) {
        char *longer = str_format("%s%s%s", options, *options ? "," : "", mount->mount_flags[i]);
        free(options);
        options = longer;
    }
    return options;
}

/* The capability's type, or the volume's; "" when neither says. */
static int service_fs_type(const Csi__V1__NodeStageVolumeRequest *request, const char **ret,
                           struct error *err)
{
    const char *fs_type = "";

    if (service_is_block(request->volume_capability)) {
        *ret = "";
        return 0;
    }
    if (request->volume_capability->mount->fs_type)
        fs_type = request->volume_capability->mount->fs_type;
    if (!*fs_type)
        fs_type = map_get(request->volume_context, request->n_volume_context, CONTEXT_FS_TYPE);
    *ret = fs_type ? fs_type : "";
    if (**ret && !filesystem_supported(*ret))
        return error_set(err, E_INVALID_ARGUMENT, "fs_type \"%s\" is not one of ext4, xfs", *ret);
    return 0;
}

static int service_parse_time(const Csi__V1__NodeStageVolumeRequest *request, const char *key,
                              uint64_t min_ms, uint64_t *ret_ms, struct error *err)
{
    const char *text = map_get(request->volume_context, request->n_volume_context, key);
    uint64_t ms = 0;

    if (text && (!time_parse_ms(text, &ms) || (ms && ms < min_ms)))
        return error_set(err, E_INVALID_ARGUMENT,
                         "volume_context \"%s\" is \"%s\": allowed are 0 and times of at least %llu ms", key,
                         text, (unsigned long long)min_ms);
    *ret_ms = ms;
    return 0;
}

/* How to attach: StorageClass parameters, which a person may have written into a PersistentVolume by hand. */
static int service_attach_options(const Csi__V1__NodeStageVolumeRequest *request, struct stage_request *stage,
                                  struct error *err)
{
    const char *attach = map_get(request->volume_context, request->n_volume_context, CONTEXT_ATTACH);
    const char *sessions = map_get(request->volume_context, request->n_volume_context, CONTEXT_SESSIONS);

    stage->attach = attach ? attach : "";
    stage->sessions = 1;
    if (attach && !choose_is_way(attach))
        return error_set(
            err, E_INVALID_ARGUMENT,
            "volume_context \"" CONTEXT_ATTACH "\" is \"%s\", not one of auto, ublk, fuse, iscsi", attach);
    if (sessions && !str_equal(sessions, "1"))
        return error_set(err, E_INVALID_ARGUMENT, "volume_context \"" CONTEXT_SESSIONS "\" is \"%s\", not 1",
                         sessions);
    int r = service_parse_time(request, CONTEXT_PATH_TIMEOUT, CONTEXT_PATH_TIMEOUT_MIN_MS,
                               &stage->path_timeout_ms, err);
    return r ? r : service_parse_time(request, CONTEXT_LEASE, CONTEXT_LEASE_MIN_MS, &stage->lease_ms, err);
}

static int service_stage(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    const Csi__V1__NodeStageVolumeRequest *request = (const Csi__V1__NodeStageVolumeRequest *)message;
    struct stage_request stage = {.volume_id = request->volume_id,
                                  .staging_path = request->staging_target_path};

    (void)response;
    int r = service_require_volume(request->volume_id, err);
    if (!r)
        r = service_require_path(request->staging_target_path, "staging_target_path", err);
    if (!r)
        r = service_require_capability(request->volume_capability, err);
    if (!r)
        r = service_parse_epoch(request, &stage.epoch, err);
    if (!r)
        r = service_fs_type(request, &stage.fs_type, err);
    if (!r)
        r = service_attach_options(request, &stage, err);
    if (r)
        return r;
    _cleanup_free_ char *options = service_mount_options(request);
    if (!options)
        return error_errno(err, ENOMEM, "cannot stage volume %s", request->volume_id);
    r = mount_options_check(options, err);
    if (r)
        return r;
    const char *mkfs = map_get(request->volume_context, request->n_volume_context, CONTEXT_MKFS_OPTIONS);
    stage.mount_options = options;
    stage.mkfs_options = mkfs ? mkfs : "";
    stage.block = service_is_block(request->volume_capability);
    stage.access_mode = (enum access_mode)request->volume_capability->access_mode->mode;
    stage.deadline_ms = time_now_ms() + service_timeout_ms(call);
    return stage_volume(context, &stage, err);
}

static int service_unstage(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                           void *context, struct error *err)
{
    const Csi__V1__NodeUnstageVolumeRequest *request = (const Csi__V1__NodeUnstageVolumeRequest *)message;

    (void)response;
    int r = service_require_volume(request->volume_id, err);
    if (!r)
        r = service_require_path(request->staging_target_path, "staging_target_path", err);
    return r ? r
             : stage_unstage(context, request->volume_id, request->staging_target_path,
                             service_timeout_ms(call), err);
}

/* ---- NodePublishVolume ---- */

static int service_publish(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                           void *context, struct error *err)
{
    const Csi__V1__NodePublishVolumeRequest *request = (const Csi__V1__NodePublishVolumeRequest *)message;

    (void)call;
    (void)response;
    int r = service_require_volume(request->volume_id, err);
    if (!r)
        r = service_require_path(request->target_path, "target_path", err);
    if (!r)
        r = service_require_capability(request->volume_capability, err);
    /* STAGE_UNSTAGE_VOLUME is advertised, so the spec has the CO set it; its absence is FAILED_PRECONDITION.
     */
    if (!r && !*request->staging_target_path)
        r = error_set(err, E_PRECONDITION, "staging_target_path is missing");
    if (r)
        return r;
    const struct publish_request publish = {
        .volume_id = request->volume_id,
        .staging_path = request->staging_target_path,
        .target_path = request->target_path,
        .access_mode = (enum access_mode)request->volume_capability->access_mode->mode,
        .block = service_is_block(request->volume_capability),
        .readonly = request->readonly,
    };
    return publish_volume(context, &publish, err);
}

static int service_unpublish(struct rpc_call *call, const ProtobufCMessage *message,
                             ProtobufCMessage *response, void *context, struct error *err)
{
    const Csi__V1__NodeUnpublishVolumeRequest *request = (const Csi__V1__NodeUnpublishVolumeRequest *)message;

    (void)call;
    (void)response;
    int r = service_require_volume(request->volume_id, err);
    if (!r)
        r = service_require_path(request->target_path, "target_path", err);
    return r ? r : publish_unpublish(context, request->volume_id, request->target_path, err);
}

/* ---- NodeGetVolumeStats ---- */

static int service_add_usage(Csi__V1__NodeGetVolumeStatsResponse *response, const struct stats_usage *usage,
                             int unit)
{
    Csi__V1__VolumeUsage *entry = calloc(1, sizeof(*entry));

    if (!entry)
        return -ENOMEM;
    csi__v1__volume_usage__init(entry);
    entry->total = usage->total;
    entry->used = usage->used;
    entry->available = usage->available;
    entry->unit = unit;
    response->usage[response->n_usage++] = entry;
    return 0;
}

static int service_stats(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    const Csi__V1__NodeGetVolumeStatsRequest *request = (const Csi__V1__NodeGetVolumeStatsRequest *)message;
    Csi__V1__NodeGetVolumeStatsResponse *answer = (Csi__V1__NodeGetVolumeStatsResponse *)response;
    struct stats stats;

    int r = service_require_volume(request->volume_id, err);
    if (!r)
        r = service_require_path(request->volume_path, "volume_path", err);
    if (!r && *request->staging_target_path)
        r = service_require_path(request->staging_target_path, "staging_target_path", err);
    if (!r)
        r = stats_read(context, request->volume_id, request->volume_path, service_timeout_ms(call), &stats,
                       err);
    if (r)
        return r;
    answer->usage = calloc(2, sizeof(*answer->usage));
    if (!answer->usage || service_add_usage(answer, &stats.bytes, CSI__V1__VOLUME_USAGE__UNIT__BYTES) ||
        (stats.has_inodes && service_add_usage(answer, &stats.inodes, CSI__V1__VOLUME_USAGE__UNIT__INODES)))
        return error_errno(err, ENOMEM, "cannot answer");
    return 0;
}

/* ---- NodeGetCapabilities, NodeGetInfo ---- */

static int service_capabilities(struct rpc_call *call, const ProtobufCMessage *message,
                                ProtobufCMessage *response, void *context, struct error *err)
{
    static const int types[] = {
        CSI__V1__NODE_SERVICE_CAPABILITY__RPC__TYPE__STAGE_UNSTAGE_VOLUME,
        CSI__V1__NODE_SERVICE_CAPABILITY__RPC__TYPE__GET_VOLUME_STATS,
        CSI__V1__NODE_SERVICE_CAPABILITY__RPC__TYPE__EXPAND_VOLUME,
        CSI__V1__NODE_SERVICE_CAPABILITY__RPC__TYPE__SINGLE_NODE_MULTI_WRITER,
        CSI__V1__NODE_SERVICE_CAPABILITY__RPC__TYPE__GET_VOLUME_HEALTH,
        CSI__V1__NODE_SERVICE_CAPABILITY__RPC__TYPE__GET_STORAGE_HEALTH,
    };
    Csi__V1__NodeGetCapabilitiesResponse *answer = (Csi__V1__NodeGetCapabilitiesResponse *)response;

    (void)call;
    (void)message;
    (void)context;
    answer->capabilities = calloc(ARRAY_SIZE(types), sizeof(*answer->capabilities));
    for (size_t i = 0; answer->capabilities && i < ARRAY_SIZE(types); i++) {
        Csi__V1__NodeServiceCapability *capability = calloc(1, sizeof(*capability));
        Csi__V1__NodeServiceCapability__RPC *rpc = calloc(1, sizeof(*rpc));
        if (!capability || !rpc) {
            free(capability);
            free(rpc);
            break;
        }
        csi__v1__node_service_capability__init(capability);
        csi__v1__node_service_capability__rpc__init(rpc);
        rpc->type = types[i];
        capability->type_case = CSI__V1__NODE_SERVICE_CAPABILITY__TYPE_RPC;
        capability->rpc = rpc;
        answer->capabilities[answer->n_capabilities++] = capability;
    }
    return answer->n_capabilities == ARRAY_SIZE(types) ? 0 : error_errno(err, ENOMEM, "cannot answer");
}

static int service_info(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                        void *context, struct error *err)
{
    Csi__V1__NodeGetInfoResponse *answer = (Csi__V1__NodeGetInfoResponse *)response;
    const struct node *node = context;
    const char *key;
    json_t *value;

    (void)call;
    (void)message;
    answer->max_volumes_per_node = (int64_t)node->config.volumes_max;
    answer->node_id = strdup(node->config.node_id);
    if (!answer->node_id)
        return error_errno(err, ENOMEM, "cannot answer");
    if (!node->config.topology)
        return 0;
    answer->accessible_topology = calloc(1, sizeof(*answer->accessible_topology));
    if (!answer->accessible_topology)
        return error_errno(err, ENOMEM, "cannot answer");
    csi__v1__topology__init(answer->accessible_topology);
    json_object_foreach(node->config.topology, key, value)
    {
        if (json_is_string(value) &&
            map_add(&answer->accessible_topology->segments, &answer->accessible_topology->n_segments,
                    &csi__v1__topology__segments_entry__descriptor, key, json_string_value(value)))
            return error_errno(err, ENOMEM, "cannot answer");
    }
    return 0;
}

void service_node(struct node *node, struct rpc_service *ret)
{
    static const struct rpc_method methods[] = {
        {"NodeStageVolume", service_stage, false},
        {"NodeUnstageVolume", service_unstage, false},
        {"NodePublishVolume", service_publish, false},
        {"NodeUnpublishVolume", service_unpublish, false},
        {"NodeGetVolumeStats", service_stats, false},
        {"NodeExpandVolume", service_expand, false},
        {"NodeGetVolumeHealth", service_volume_health, false},
        {"NodeGetStorageHealth", service_storage_health, false},
        {"NodeGetInfo", service_info, false},
        {"NodeGetCapabilities", service_capabilities, false},
    };

    *ret = (struct rpc_service){
        .descriptor = &csi__v1__node__descriptor,
        .methods = methods,
        .methods_count = ARRAY_SIZE(methods),
        .context = node,
        .check = field_limits_check,
        /* A call that the kernel keeps (an umount whose storage is away) holds a thread, at most one a
           volume. */
        .threads = MIN((unsigned)node->config.volumes_max + SERVICE_THREADS_SPARE, SERVICE_THREADS_MAX),
    };
}
