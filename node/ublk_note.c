/* Reading and writing ublk.json. Called by attach_device.c, on RPC threads and the supervisor's. */
#include "node/ublk_note.h"

#include <errno.h>
#include <fcntl.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "common/strings.h"

#define NOTE_FORMAT 1
#define NOTE_NAME "ublk.json"

static int ublk_note_open_dir(const struct attach_files *paths, int *ret_fd, struct error *err)
{
    *ret_fd = open(paths->volume_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*ret_fd < 0 && errno == ENOENT)
        return error_set(err, E_NOT_FOUND, "%s is not there", paths->volume_dir);
    return *ret_fd < 0 ? error_errno(err, errno, "cannot open %s", paths->volume_dir) : 0;
}

int ublk_note_load(const struct attach_files *paths, struct ublk_device *ret, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    struct ublk_device device = {0};
    const char *boot_id, *path;
    _cleanup_fd_ int dir_fd = -1;

    int r = ublk_note_open_dir(paths, &dir_fd, err);
    if (!r)
        r = record_load(dir_fd, NOTE_NAME, NOTE_FORMAT, &object, err);
    if (r)
        return r;
    if ((r = record_get_string(object, "boot_id", &boot_id, err)) ||
        (r = record_get_string(object, "device", &path, err)) ||
        (r = record_get_uint64(object, "number", &device.number, err)) ||
        (r = record_get_uint64(object, "sequence", &device.sequence, err)))
        return error_wrap(err, "%s/" NOTE_NAME, paths->volume_dir);
    if (!str_equal(boot_id, paths->boot_id))
        return error_set(err, E_NOT_FOUND, "%s/" NOTE_NAME " is of an earlier boot", paths->volume_dir);
    if (!str_copy(device.path, sizeof(device.path), path))
        return error_set(err, E_CORRUPT, "%s/" NOTE_NAME ": \"device\" is too long", paths->volume_dir);
    *ret = device;
    return 0;
}

int ublk_note_save(const struct attach_files *paths, const struct ublk_device *device, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    struct ublk_device noted = {0};
    _cleanup_fd_ int dir_fd = -1;

    if (ublk_note_load(paths, &noted, NULL) == 0 && str_equal(noted.path, device->path) &&
        noted.number == device->number && noted.sequence == device->sequence)
        return 0;
    object = json_pack("{s:s, s:s, s:I, s:I}", "boot_id", paths->boot_id, "device", device->path, "number",
                       (json_int_t)device->number, "sequence", (json_int_t)device->sequence);
    if (!object)
        return error_errno(err, ENOMEM, "cannot write %s/" NOTE_NAME, paths->volume_dir);
    int r = ublk_note_open_dir(paths, &dir_fd, err);
    return r ? r : record_save(dir_fd, NOTE_NAME, NOTE_FORMAT, object, 0600, err);
}
