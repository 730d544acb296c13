/* device.json and the paths of one volume's processes. Called by attach_device.c and attach_device_end.c. */
#include "node/attach_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "common/secret.h"
#include "common/strings.h"
#include "node/attach.h"
#include "node/stage_record.h"

#define DEVICE_FORMAT 1

void attach_files_done(struct attach_files *paths)
{
    free(paths->volume_dir);
    free(paths->dir);
    free(paths->device_pid);
    free(paths->holder_pid);
    free(paths->holder_socket);
    free(paths->mount_point);
    free(paths->log);
}

int attach_files_init(struct attach_files *paths, const struct node_config *config, const char *volume_id,
                      struct error *err)
{
    paths->boot_id = config->boot_id;
    paths->volume_dir = stage_record_path(config->state_dir, volume_id, NULL);
    paths->dir = stage_record_path(config->state_dir, volume_id, "device");
    paths->device_pid = stage_record_path(config->state_dir, volume_id, "device.pid");
    paths->holder_pid = stage_record_path(config->state_dir, volume_id, "holder.pid");
    paths->holder_socket = stage_record_path(config->state_dir, volume_id, "device/holder.sock");
    paths->mount_point = stage_record_path(config->state_dir, volume_id, "device/fuse");
    paths->log = stage_record_path(config->state_dir, volume_id, "log");
    if (!paths->volume_dir || !paths->dir || !paths->device_pid || !paths->holder_pid ||
        !paths->holder_socket || !paths->mount_point || !paths->log)
        return error_errno(err, ENOMEM, "cannot name the files of volume %s", volume_id);
    return 0;
}

/* jansson keeps strings in memory of its own. */
void attach_files_wipe(json_t *device)
{
    json_t *secret = json_object_get(device, "chap_secret");

    if (json_is_string(secret))
        secret_wipe((char *)json_string_value(secret), json_string_length(secret));
}

int attach_files_load(const struct attach_files *paths, const char *name, json_t **ret, struct error *err)
{
    _cleanup_fd_ int dir_fd = open(paths->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir_fd < 0 && errno == ENOENT)
        return error_set(err, E_NOT_FOUND, "%s is not there", paths->dir);
    if (dir_fd < 0)
        return error_errno(err, errno, "cannot open %s", paths->dir);
    return record_load(dir_fd, name, DEVICE_FORMAT, ret, err);
}

int attach_files_save(const struct attach_files *paths, json_t *object, struct error *err)
{
    _cleanup_fd_ int dir_fd = -1;

    int r = io_make_dirs(paths->dir, 0700, err);
    if (r)
        return r;
    dir_fd = open(paths->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return error_errno(err, errno, "cannot open %s", paths->dir);
    return record_save(dir_fd, "device.json", DEVICE_FORMAT, object, 0600, err);
}

/*
 * The session's ISID (RFC 7143, section 11.12.5: T = 10b, random) lives as long as the attachment, so that a
 * successor's login reinstates its predecessor's session.
 */
static json_t *attach_files_isids(const struct attach_files *paths, uint64_t epoch)
{
    _cleanup_json_ json_t *old = NULL;
    uint8_t random[5];
    char isid[13];

    if (attach_files_load(paths, "device.json", &old, NULL) == 0) {
        json_t *isids = json_object_get(old, "isid");
        attach_files_wipe(old);
        if (json_is_array(isids) && json_integer_value(json_object_get(old, "epoch")) == (json_int_t)epoch)
            return json_incref(isids);
    }
    if (io_random(random, sizeof(random)))
        return NULL;
    snprintf(isid, sizeof(isid), "80%02x%02x%02x%02x%02x", random[0], random[1], random[2], random[3],
             random[4]);
    return json_pack("[s]", isid);
}

static json_t *attach_files_portals(const struct storage_attachment *attachment)
{
    json_t *portals = json_array();

    for (size_t i = 0; portals && i < attachment->portals_count; i++) {
        if (json_array_append_new(portals, json_string(attachment->portals[i])) == 0)
            continue;
        json_decref(portals);
        return NULL;
    }
    return portals;
}

int attach_files_write(const struct node_config *config, const struct attach_files *paths,
                       const struct storage_attachment *attachment, const struct storage_grant *grant,
                       struct error *err)
{
    char initiator[ID_IQN_MAX + 1];
    _cleanup_stage_record_ struct stage_record record = {0};
    int r = stage_record_load(config->state_dir, attachment->volume_id, &record, err);
    if (r)
        return error_wrap(err, "cannot tell how to attach");
    json_t *isids = attach_files_isids(paths, attachment->epoch);
    json_t *portals = attach_files_portals(attachment);

    id_node_iqn(config->node_id, initiator);
    _cleanup_json_ json_t *object = json_pack(
        "{s:s, s:s, s:i, s:o, s:s, s:s, s:I, s:I, s:s, s:s, s:o, s:b, s:I, s:i, s:I, s:s, s:s, s:b, s:b, "
        "s:b, s:I, s:I}",
        "volume_id", attachment->volume_id, "target_name", attachment->target_name, "lun",
        (int)attachment->lun, "portals", portals, "initiator_name", initiator, "node_id", config->node_id,
        "epoch", (json_int_t)attachment->epoch, "generation", (json_int_t)grant->generation, "chap_name",
        grant->chap_name, "chap_secret", grant->chap_secret, "isid", isids, "read_only", attachment->readonly,
        "sessions", (json_int_t)record.sessions, "block_size_bytes", (int)attachment->block_size_bytes,
        "size_bytes", (json_int_t)attachment->size_bytes, "mount_point", paths->mount_point, "attach",
        record.attach, "replay", !config->unsafe_no_replay, "header_digest", config->header_digest,
        "fuse_io_uring", config->fuse_io_uring, "path_timeout_ms", (json_int_t)record.path_timeout_ms,
        "lease_ms", (json_int_t)record.lease_ms);
    if (!object)
        return error_errno(err, ENOMEM, "cannot write device.json of volume %s", attachment->volume_id);
    r = attach_files_save(paths, object, err);
    attach_files_wipe(object);
    return r;
}

/* "end" tells mooring-device what SIGTERM means: the end of the attachment, or of the process alone, whose
 * device then waits in the holder for a successor. */
int attach_files_mark_end(const struct attach_files *paths, bool end, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;

    int r = attach_files_load(paths, "device.json", &object, err);
    if (r)
        return r;
    r = json_object_set_new(object, "end", json_boolean(end))
            ? error_errno(err, ENOMEM, "cannot mark the device's end")
            : attach_files_save(paths, object, err);
    attach_files_wipe(object);
    return r;
}

/* It was told to end: it serves its last users, and nobody new. */
bool attach_files_ending(const struct attach_files *paths)
{
    _cleanup_json_ json_t *object = NULL;
    bool ending = false;

    if (attach_files_load(paths, "device.json", &object, NULL) == 0)
        record_get_optional_bool(object, "end", &ending, NULL);
    attach_files_wipe(object);
    return ending;
}

int attach_files_epoch(const struct attach_files *paths, uint64_t *ret_epoch, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;

    int r = attach_files_load(paths, "device.json", &object, err);
    if (!r)
        r = record_get_uint64(object, "epoch", ret_epoch, err);
    attach_files_wipe(object);
    return r;
}

int attach_files_set_portals(const struct attach_files *paths, const struct storage_attachment *attachment,
                             bool *ret_changed, struct error *err)
{
    _cleanup_json_ json_t *portals = attach_files_portals(attachment);
    _cleanup_json_ json_t *object = NULL;

    if (!portals)
        return error_errno(err, ENOMEM, "cannot write the portals of volume %s", attachment->volume_id);
    int r = attach_files_load(paths, "device.json", &object, err);
    if (r)
        return r;
    bool changed = !json_equal(json_object_get(object, "portals"), portals);
    if (changed)
        r = json_object_set(object, "portals", portals)
                ? error_errno(err, ENOMEM, "cannot write the portals of volume %s", attachment->volume_id)
                : attach_files_save(paths, object, err);
    attach_files_wipe(object);
    if (!r)
        *ret_changed = changed;
    return r;
}
