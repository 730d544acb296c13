/*
 * mooring volume mount and unmount: what a CO does on a node, by hand, over the sockets of the controller and
 * of this host's node service. Nothing is kept: ControllerPublishVolume is asked again for the publish
 * context, and answers the same. Run by main().
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/csi.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/id.h"
#include "common/io.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"
#include "proto/map.h"

#define STAGING_DIR "/var/lib/mooring/staging"

struct mount_request {
    const char *volume; /* id or name */
    const char *target;
    const char *staging;
    struct csi_capability capability;
    bool readonly;
    Csi__V1__ControllerGetVolumeResponse *found;
    Csi__V1__ControllerPublishVolumeResponse *published;
    char node_id[ID_NODE_MAX + 1];
};

static int get_node_id(struct cli *cli, char ret_node_id[ID_NODE_MAX + 1], struct error *err)
{
    Csi__V1__NodeGetInfoRequest request = CSI__V1__NODE_GET_INFO_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    bool fits;
    int r = csi_call_node(cli, "NodeGetInfo", &request.base, &message, err);

    if (r != E_OK)
        return r;
    fits = str_copy(ret_node_id, ID_NODE_MAX + 1, ((Csi__V1__NodeGetInfoResponse *)message)->node_id);
    protobuf_c_message_free_unpacked(message, NULL);
    return fits ? E_OK : error_set(err, -EPROTO, "the node's id is too long");
}

/* CSI: the CO makes the staging directory and the target's parent; the target itself is the plugin's. */
static int make_dirs(const struct mount_request *mount, struct error *err)
{
    _cleanup_free_ char *parent = strdup(mount->target);
    char *slash = parent ? strrchr(parent, '/') : NULL;
    int r;

    if (!slash)
        return error_set(err, E_INVALID_ARGUMENT, "--target \"%s\" is not an absolute path", mount->target);
    *slash = '\0';
    r = io_make_dirs(mount->staging, 0750, err);
    return r == E_OK && slash != parent ? io_make_dirs(parent, 0755, err) : r;
}

static int publish_controller(struct cli *cli, struct mount_request *mount, struct error *err)
{
    Csi__V1__ControllerPublishVolumeRequest request = CSI__V1__CONTROLLER_PUBLISH_VOLUME_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    int r;

    request.volume_id = mount->found->volume->volume_id;
    request.node_id = mount->node_id;
    request.volume_capability = &mount->capability.message;
    request.readonly = mount->readonly;
    r = csi_call_controller(cli, "ControllerPublishVolume", &request.base, &message, err);
    mount->published = (Csi__V1__ControllerPublishVolumeResponse *)message;
    return r;
}

/* Each message has an entry type of its own for the same map; the layout is one (proto/map.h). */
static int copy_map(const void *from, size_t from_count, void *to, size_t *to_count,
                    const ProtobufCMessageDescriptor *entry_descriptor)
{
    struct map_entry *const *list = from;
    int r = E_OK;

    for (size_t i = 0; r == E_OK && i < from_count; i++)
        r = map_add(to, to_count, entry_descriptor, list[i]->key, list[i]->value);
    return r;
}

static int stage(struct cli *cli, const struct mount_request *mount, struct error *err)
{
    const Csi__V1__Volume *volume = mount->found->volume;
    const Csi__V1__ControllerPublishVolumeResponse *published = mount->published;
    Csi__V1__NodeStageVolumeRequest request = CSI__V1__NODE_STAGE_VOLUME_REQUEST__INIT;
    int r = copy_map(published->publish_context, published->n_publish_context, &request.publish_context,
                     &request.n_publish_context,
                     &csi__v1__node_stage_volume_request__publish_context_entry__descriptor);

    if (r == E_OK)
        r = copy_map(volume->volume_context, volume->n_volume_context, &request.volume_context,
                     &request.n_volume_context,
                     &csi__v1__node_stage_volume_request__volume_context_entry__descriptor);
    request.volume_id = volume->volume_id;
    request.staging_target_path = (char *)mount->staging;
    request.volume_capability = (Csi__V1__VolumeCapability *)&mount->capability.message;
    r = r == E_OK ? csi_call_node(cli, "NodeStageVolume", &request.base, NULL, err)
                  : error_errno(err, ENOMEM, "NodeStageVolume");
    csi_map_free(request.publish_context, request.n_publish_context);
    csi_map_free(request.volume_context, request.n_volume_context);
    return r;
}

static int publish_node(struct cli *cli, const struct mount_request *mount, struct error *err)
{
    const Csi__V1__Volume *volume = mount->found->volume;
    const Csi__V1__ControllerPublishVolumeResponse *published = mount->published;
    Csi__V1__NodePublishVolumeRequest request = CSI__V1__NODE_PUBLISH_VOLUME_REQUEST__INIT;
    int r = copy_map(published->publish_context, published->n_publish_context, &request.publish_context,
                     &request.n_publish_context,
                     &csi__v1__node_publish_volume_request__publish_context_entry__descriptor);

    if (r == E_OK)
        r = copy_map(volume->volume_context, volume->n_volume_context, &request.volume_context,
                     &request.n_volume_context,
                     &csi__v1__node_publish_volume_request__volume_context_entry__descriptor);
    request.volume_id = volume->volume_id;
    request.staging_target_path = (char *)mount->staging;
    request.target_path = (char *)mount->target;
    request.volume_capability = (Csi__V1__VolumeCapability *)&mount->capability.message;
    request.readonly = mount->readonly;
    r = r == E_OK ? csi_call_node(cli, "NodePublishVolume", &request.base, NULL, err)
                  : error_errno(err, ENOMEM, "NodePublishVolume");
    csi_map_free(request.publish_context, request.n_publish_context);
    csi_map_free(request.volume_context, request.n_volume_context);
    return r;
}

static int print_mounted(struct cli *cli, const struct mount_request *mount, struct error *err)
{
    static const struct output_column columns[] = {
        {"volume_id", "volume", OUTPUT_TEXT},
        {"node_id", "node", OUTPUT_TEXT},
        {"target", "mounted at", OUTPUT_TEXT},
        {"staging", "staged at", OUTPUT_TEXT},
    };
    _cleanup_json_ json_t *object =
        json_pack("{s:s, s:s, s:s, s:s}", "volume_id", mount->found->volume->volume_id, "node_id",
                  mount->node_id, "target", mount->target, "staging", mount->staging);

    return output_object(cli, stdout, object, columns, ARRAY_SIZE(columns), err);
}

static int run_mount(struct cli *cli, struct mount_request *mount, struct error *err)
{
    _cleanup_free_ char *staging = NULL;
    int r = get_node_id(cli, mount->node_id, err);

    if (r == E_OK)
        r = csi_find_volume(cli, mount->volume, &mount->found, err);
    if (r == E_OK && !mount->staging)
        mount->staging = staging = str_format(STAGING_DIR "/%s", mount->found->volume->volume_id);
    if (r == E_OK && !mount->staging)
        r = error_errno(err, ENOMEM, "the staging path");
    if (r == E_OK)
        r = make_dirs(mount, err);
    if (r == E_OK)
        r = publish_controller(cli, mount, err);
    if (r == E_OK)
        r = stage(cli, mount, err);
    if (r == E_OK)
        r = publish_node(cli, mount, err);
    if (r == E_OK)
        r = print_mounted(cli, mount, err);
    if (mount->found)
        protobuf_c_message_free_unpacked(&mount->found->base, NULL);
    if (mount->published)
        protobuf_c_message_free_unpacked(&mount->published->base, NULL);
    return r;
}

int mount_mount(struct cli *cli, int argc, char **argv, struct error *err)
{
    struct mount_request mount = {0};
    const char *fs_type = NULL, *access_mode = NULL;
    bool block = false;
    const struct option_spec options[] = {
        {.name = "target",
         .argument = "PATH",
         .help = "where it shall appear",
         .value = &mount.target,
         .required = true},
        {.name = "staging",
         .argument = "PATH",
         .help = "else " STAGING_DIR "/<volume>",
         .value = &mount.staging},
        {.name = "fs-type", .argument = "TYPE", .help = "ext4 or xfs, for a blank volume", .value = &fs_type},
        {.name = "access-mode", .argument = "MODE", .help = CSI_ACCESS_MODES, .value = &access_mode},
        {.name = "block", .help = "as a block device at the target", .flag = &block},
        {.name = "read-only", .help = "for reading only", .flag = &mount.readonly},
        {.name = "node-socket", .argument = "ENDPOINT", .help = "of mooring-node", .value = &cli->node},
    };
    const struct cli_usage usage = {
        "mooring volume mount",
        "Attach a volume to this node, make a file system if it is blank, and mount it. Can be repeated.",
        "VOLUME|NAME",
        options,
        ARRAY_SIZE(options),
        1,
        1};
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = csi_capability_init(&mount.capability, access_mode, block, fs_type, err);
    if (r != E_OK)
        return r;
    mount.volume = argv[operand];
    return run_mount(cli, &mount, err);
}

/* ---- unmount ---- */

struct unmount_request {
    const char *volume_id;
    const char *target;
    const char *staging;
    bool keep_staged;
    bool detach;
};

static int detach(struct cli *cli, const struct unmount_request *unmount, struct error *err)
{
    Csi__V1__ControllerUnpublishVolumeRequest request = CSI__V1__CONTROLLER_UNPUBLISH_VOLUME_REQUEST__INIT;
    char node_id[ID_NODE_MAX + 1];
    int r = get_node_id(cli, node_id, err);

    if (r != E_OK)
        return r;
    request.volume_id = (char *)unmount->volume_id;
    request.node_id = node_id;
    return csi_call_controller(cli, "ControllerUnpublishVolume", &request.base, NULL, err);
}

static int unstage(struct cli *cli, const struct unmount_request *unmount, struct error *err)
{
    Csi__V1__NodeUnstageVolumeRequest request = CSI__V1__NODE_UNSTAGE_VOLUME_REQUEST__INIT;
    _cleanup_free_ char *staging = str_format(STAGING_DIR "/%s", unmount->volume_id);

    if (!staging)
        return error_errno(err, ENOMEM, "the staging path");
    request.volume_id = (char *)unmount->volume_id;
    request.staging_target_path = unmount->staging ? (char *)unmount->staging : staging;
    return csi_call_node(cli, "NodeUnstageVolume", &request.base, NULL, err);
}

static int unpublish(struct cli *cli, const struct unmount_request *unmount, struct error *err)
{
    Csi__V1__NodeUnpublishVolumeRequest request = CSI__V1__NODE_UNPUBLISH_VOLUME_REQUEST__INIT;

    request.volume_id = (char *)unmount->volume_id;
    request.target_path = (char *)unmount->target;
    return csi_call_node(cli, "NodeUnpublishVolume", &request.base, NULL, err);
}

int mount_unmount(struct cli *cli, int argc, char **argv, struct error *err)
{
    struct unmount_request unmount = {0};
    const struct option_spec options[] = {
        {.name = "target",
         .argument = "PATH",
         .help = "where it is mounted",
         .value = &unmount.target,
         .required = true},
        {.name = "staging",
         .argument = "PATH",
         .help = "else " STAGING_DIR "/<volume>",
         .value = &unmount.staging},
        {.name = "keep-staged", .help = "it has other targets", .flag = &unmount.keep_staged},
        {.name = "detach", .help = "and detach it from this node", .flag = &unmount.detach},
        {.name = "node-socket", .argument = "ENDPOINT", .help = "of mooring-node", .value = &cli->node},
    };
    const struct cli_usage usage = {"mooring volume unmount",
                                    "Unmount a volume on this node. OK when it is not mounted.",
                                    "VOLUME",
                                    options,
                                    ARRAY_SIZE(options),
                                    1,
                                    1};
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK && unmount.keep_staged && unmount.detach)
        r = error_set(err, E_INVALID_ARGUMENT, "--keep-staged and --detach exclude each other");
    if (r == E_OK && !id_volume_valid(argv[operand]))
        r = error_set(err, E_INVALID_ARGUMENT,
                      "\"%s\" is not a volume id; unmount takes the id, which mooring volume list shows",
                      argv[operand]);
    if (r != E_OK)
        return r;
    unmount.volume_id = argv[operand];
    r = unpublish(cli, &unmount, err);
    if (r == E_OK && !unmount.keep_staged)
        r = unstage(cli, &unmount, err);
    if (r == E_OK && unmount.detach)
        r = detach(cli, &unmount, err);
    return r;
}
