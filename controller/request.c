/*
 * From CSI's protobuf messages to plain structs, refusing what the specification forbids. Owns nothing but
 * the topologies of a create request until request_create_done(). Run by worker threads, called by service.c.
 */
#include "controller/request.h"

#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "controller/capability.h"
#include "controller/size_range.h"
#include "proto/map.h"
#include "proto/mkfs_options.h"
#include "proto/mount_options.h"

#define MOUNT_FLAGS_MAX 4096
#define FS_TYPE_DEFAULT "ext4" /* the node's, where nobody says one */

/* CSI: U+0000-0008, 000B, 000C, 000E-001F and 007F-009F are banned in names. The last range is C2 80 to C2 9F
 * in UTF-8; protobuf has checked that it is UTF-8, and rpc/ that there is no NUL. */
static bool has_control(const char *text)
{
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if ((*at < 0x20 && *at != '\t' && *at != '\n' && *at != '\r') || *at == 0x7f)
            return true;
        if (at[0] == 0xc2 && at[1] >= 0x80 && at[1] <= 0x9f)
            return true;
    }
    return false;
}

int request_string(const char *field, const char *value, struct error *err)
{
    if (*value == '\0')
        return error_set(err, E_INVALID_ARGUMENT, "%s is required", field);
    if (strlen(value) > REQUEST_STRING_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "%s has more than %d bytes", field, REQUEST_STRING_MAX);
    if (has_control(value))
        return error_set(err, E_INVALID_ARGUMENT, "%s has a control character", field);
    return E_OK;
}

int request_map(const char *field, const void *entries, size_t count, struct error *err)
{
    struct map_entry *const *list = entries;
    size_t total = 0;

    for (size_t i = 0; i < count; i++)
        total += strlen(list[i]->key) + strlen(list[i]->value);
    if (total > REQUEST_MAP_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "%s has more than %d bytes", field, REQUEST_MAP_MAX);
    return E_OK;
}

static int check_mount(const Csi__V1__VolumeCapability__MountVolume *mount, struct error *err)
{
    size_t total = 0;

    for (size_t i = 0; i < mount->n_mount_flags; i++) {
        int r = mount_options_check(mount->mount_flags[i], err);

        if (r != E_OK)
            return r;
        total += strlen(mount->mount_flags[i]);
    }
    if (total > MOUNT_FLAGS_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "mount_flags has more than %d bytes", MOUNT_FLAGS_MAX);
    if (*mount->volume_mount_group != '\0')
        return error_set(
            err, E_INVALID_ARGUMENT,
            "volume_mount_group is not served (VOLUME_MOUNT_GROUP is not advertised); the CO sets the "
            "group itself");
    return E_OK;
}

int request_capability(const Csi__V1__VolumeCapability *message, struct capability *ret, struct error *err)
{
    struct capability capability = {.fs_type = ""};
    int r = E_OK;

    if (!message)
        return error_set(err, E_INVALID_ARGUMENT, "volume_capability is required");
    switch (message->access_type_case) {
    case CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE_BLOCK:
        capability.block = true;
        break;
    case CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE_MOUNT:
        capability.fs_type = message->mount->fs_type;
        r = check_mount(message->mount, err);
        break;
    case CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE__NOT_SET:
    case _CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE__CASE_IS_INT_SIZE:
        r = error_set(err, E_INVALID_ARGUMENT, "volume_capability needs an access type, block or mount");
        break;
    }
    if (r != E_OK)
        return r;
    if (!message->access_mode)
        return error_set(err, E_INVALID_ARGUMENT, "volume_capability needs an access mode");
    capability.mode = (int)message->access_mode->mode;
    r = capability_check(&capability, err);
    if (r == E_OK)
        *ret = capability;
    return r;
}

int request_topology(const Csi__V1__Topology *message, json_t **ret, struct error *err)
{
    json_t *place = json_object();
    int failed = !place;
    int r = request_map("topology", message->segments, message->n_segments, err);

    for (size_t i = 0; r == E_OK && !failed && i < message->n_segments; i++)
        failed =
            json_object_set_new(place, message->segments[i]->key, json_string(message->segments[i]->value));
    if (r == E_OK && failed)
        r = error_set(err, E_INVALID_ARGUMENT, "topology has a key or segment that is not UTF-8");
    if (r != E_OK) {
        json_decref(place);
        return r;
    }
    *ret = place;
    return E_OK;
}

static int take_topologies(Csi__V1__Topology *const *list, size_t count, json_t **ret, struct error *err)
{
    *ret = json_array();
    for (size_t i = 0; *ret && i < count; i++) {
        json_t *place;
        int r = request_topology(list[i], &place, err);

        if (r != E_OK)
            return r;
        json_array_append_new(*ret, place);
    }
    return *ret ? E_OK : error_errno(err, ENOMEM, "accessibility_requirements");
}

static int take_wish(const Csi__V1__TopologyRequirement *message, struct topology_wish *wish,
                     struct error *err)
{
    int r;

    if (!message)
        return E_OK;
    if (message->n_requisite == 0 && message->n_preferred == 0)
        return error_set(err, E_INVALID_ARGUMENT, "accessibility_requirements needs requisite or preferred");
    r = take_topologies(message->requisite, message->n_requisite, &wish->requisite, err);
    if (r == E_OK)
        r = take_topologies(message->preferred, message->n_preferred, &wish->preferred, err);
    return r;
}

static int take_range(const Csi__V1__CapacityRange *message, struct size_range *ret, struct error *err)
{
    if (!message)
        return E_OK;
    if (message->required_bytes == 0 && message->limit_bytes == 0)
        return error_set(err, E_INVALID_ARGUMENT, "capacity_range needs required_bytes or limit_bytes");
    if (message->required_bytes < 0 || message->limit_bytes < 0)
        return error_set(err, E_OUT_OF_RANGE, "capacity_range is negative");
    ret->required_bytes = (uint64_t)message->required_bytes;
    ret->limit_bytes = (uint64_t)message->limit_bytes;
    return E_OK;
}

/* Each capability must be served; the file system types of those that mount become the parameter. */
static int take_capabilities(const Csi__V1__CreateVolumeRequest *message, struct parameters *parameters,
                             bool *ret_mounts, struct error *err)
{
    int r = E_OK;

    if (message->n_volume_capabilities == 0)
        return error_set(err, E_INVALID_ARGUMENT, "volume_capabilities is required");
    for (size_t i = 0; r == E_OK && i < message->n_volume_capabilities; i++) {
        struct capability capability;

        r = request_capability(message->volume_capabilities[i], &capability, err);
        if (r == E_OK)
            r = parameters_set_fs_type(parameters, capability.fs_type, err);
        if (r == E_OK)
            *ret_mounts |= !capability.block;
    }
    return r;
}

static int take_source(const Csi__V1__VolumeContentSource *message, struct create_request *ret,
                       struct error *err)
{
    if (!message)
        return E_OK;
    switch (message->type_case) {
    case CSI__V1__VOLUME_CONTENT_SOURCE__TYPE_SNAPSHOT:
        ret->source_snapshot_id = message->snapshot->snapshot_id;
        return request_string("snapshot_id", ret->source_snapshot_id, err);
    case CSI__V1__VOLUME_CONTENT_SOURCE__TYPE_VOLUME:
        ret->source_volume_id = message->volume->volume_id;
        return request_string("volume_id", ret->source_volume_id, err);
    case CSI__V1__VOLUME_CONTENT_SOURCE__TYPE__NOT_SET:
    case _CSI__V1__VOLUME_CONTENT_SOURCE__TYPE__CASE_IS_INT_SIZE:
        break;
    }
    return error_set(err, E_INVALID_ARGUMENT, "volume_content_source needs a snapshot or a volume");
}

/* Both maps; the mutable ones take precedence (CSI, CreateVolume). */
static int take_parameters(const Csi__V1__CreateVolumeRequest *message, struct parameters *ret,
                           struct error *err)
{
    int r = request_map("parameters", message->parameters, message->n_parameters, err);

    if (r == E_OK)
        r = request_map("mutable_parameters", message->mutable_parameters, message->n_mutable_parameters,
                        err);
    if (r == E_OK)
        r = parameters_parse(message->parameters, message->n_parameters, ret, err);
    if (r == E_OK)
        r = limits_parse(message->mutable_parameters, message->n_mutable_parameters, &ret->limits, err);
    return r;
}

/* What only a volume with a file system has to fit: mkfs's options, and the least size. */
static int take_file_system(struct create_request *request, struct error *err)
{
    const char *fs_type = request->parameters.text[PARAMETER_FS_TYPE];
    const char *options = request->parameters.text[PARAMETER_MKFS_OPTIONS];

    if (fs_type && str_equal(fs_type, "xfs"))
        request->range.floor_bytes = SIZE_XFS_MIN_BYTES;
    return options ? mkfs_options_check(fs_type ? fs_type : FS_TYPE_DEFAULT, options, err) : E_OK;
}

int request_create(const Csi__V1__CreateVolumeRequest *message, struct create_request *ret, struct error *err)
{
    bool mounts = false;
    int r;

    *ret = (struct create_request){.name = message->name};
    r = request_string("name", message->name, err);
    if (r == E_OK)
        r = take_parameters(message, &ret->parameters, err);
    if (r == E_OK)
        r = take_capabilities(message, &ret->parameters, &mounts, err);
    if (r == E_OK)
        r = take_source(message->volume_content_source, ret, err);
    if (r == E_OK)
        r = take_range(message->capacity_range, &ret->range, err);
    if (r == E_OK && mounts)
        r = take_file_system(ret, err);
    if (r == E_OK)
        r = take_wish(message->accessibility_requirements, &ret->wish, err);
    ret->wish.zone = ret->parameters.text[PARAMETER_ZONE];
    return r;
}

void request_create_done(struct create_request *request)
{
    json_decref(request->wish.requisite);
    json_decref(request->wish.preferred);
    *request = (struct create_request){0};
}

/* A snapshot class has no parameters of ours; its provisioner adds keys for people. */
static int refuse_parameters(const char *noun, const void *entries, size_t count, struct error *err)
{
    static const char *const tolerated[] = {
        "csi.storage.k8s.io/volumesnapshot/", "csi.storage.k8s.io/volumesnapshotcontent/",
        "csi.storage.k8s.io/volumegroupsnapshot/", "csi.storage.k8s.io/volumegroupsnapshotcontent/"};
    struct map_entry *const *list = entries;
    int r = request_map("parameters", entries, count, err);

    for (size_t i = 0; r == E_OK && i < count; i++) {
        bool known = false;

        for (size_t j = 0; j < ARRAY_SIZE(tolerated); j++)
            known |= str_starts_with(list[i]->key, tolerated[j]);
        if (!known)
            r = error_set(err, E_INVALID_ARGUMENT, "unknown parameter \"%s\"; a %s has none", list[i]->key,
                          noun);
    }
    return r;
}

int request_snapshot(const Csi__V1__CreateSnapshotRequest *message, struct snapshot_request *ret,
                     struct error *err)
{
    int r;

    *ret = (struct snapshot_request){.name = message->name, .source_volume_id = message->source_volume_id};
    r = request_string("name", message->name, err);
    if (r == E_OK)
        r = request_string("source_volume_id", message->source_volume_id, err);
    if (r == E_OK)
        r = refuse_parameters("snapshot", message->parameters, message->n_parameters, err);
    return r == E_OK ? take_wish(message->accessibility_requirements, &ret->wish, err) : r;
}

void request_snapshot_done(struct snapshot_request *request)
{
    json_decref(request->wish.requisite);
    json_decref(request->wish.preferred);
    *request = (struct snapshot_request){0};
}

static int check_sources(char *const *volume_ids, size_t count, struct error *err)
{
    int r = E_OK;

    if (count == 0)
        return error_set(err, E_INVALID_ARGUMENT, "source_volume_ids is required");
    if (count > GROUP_VOLUMES_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "source_volume_ids has more than %d volumes",
                         GROUP_VOLUMES_MAX);
    for (size_t i = 0; r == E_OK && i < count; i++) {
        r = request_string("source_volume_ids", volume_ids[i], err);
        for (size_t j = 0; r == E_OK && j < i; j++) {
            if (str_equal(volume_ids[i], volume_ids[j]))
                r = error_set(err, E_INVALID_ARGUMENT, "source_volume_ids has %s twice", volume_ids[i]);
        }
    }
    return r;
}

int request_group(const Csi__V1__CreateVolumeGroupSnapshotRequest *message, struct group_request *ret,
                  struct error *err)
{
    int r = request_string("name", message->name, err);

    if (r == E_OK)
        r = check_sources(message->source_volume_ids, message->n_source_volume_ids, err);
    if (r == E_OK)
        r = refuse_parameters("group snapshot", message->parameters, message->n_parameters, err);
    *ret = (struct group_request){.name = message->name,
                                  .source_volume_ids = message->source_volume_ids,
                                  .sources_count = message->n_source_volume_ids};
    return r;
}

int request_expand(const Csi__V1__ControllerExpandVolumeRequest *message, struct size_range *ret_range,
                   struct capability *ret_capability, struct error *err)
{
    int r = request_string("volume_id", message->volume_id, err);

    if (r == E_OK && !message->capacity_range)
        r = error_set(err, E_INVALID_ARGUMENT, "capacity_range is required");
    if (r == E_OK)
        r = take_range(message->capacity_range, ret_range, err);
    if (r == E_OK && message->volume_capability)
        r = request_capability(message->volume_capability, ret_capability, err);
    return r;
}
