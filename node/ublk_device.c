/* ublk block devices by sysfs. No state; called by attach_device.c. */
#include "node/ublk_device.h"

#include <errno.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"

#define PREFIX "/dev/ublkb"

bool ublk_device_is_name(const char *device)
{
    return str_starts_with(device, PREFIX);
}

/* One of a device's attributes, "259:3\n"; E_NOT_FOUND when the device is gone, or just going. */
static int ublk_device_read(const char *folder, const char *name, char **ret, struct error *err)
{
    _cleanup_free_ char *path = str_format("/sys/%s/%s", folder, name);

    if (!path)
        return error_errno(err, ENOMEM, "cannot look at %s", folder);
    int r = io_read_file(path, 64, ret, NULL, err);
    return r == -ENODEV ? E_NOT_FOUND : r;
}

static int ublk_device_read_sequence(const char *folder, uint64_t *ret, struct error *err)
{
    _cleanup_free_ char *text = NULL;
    const char *rest;

    int r = ublk_device_read(folder, "diskseq", &text, err);
    if (!r && !str_parse_uint64(text, ret, &rest))
        r = error_set(err, -EIO, "/sys/%s/diskseq is not a number", folder);
    return r;
}

static int ublk_device_read_number(const char *folder, uint64_t *ret, struct error *err)
{
    _cleanup_free_ char *text = NULL;
    uint64_t major_number, minor_number;
    const char *rest;

    int r = ublk_device_read(folder, "dev", &text, err);
    if (r)
        return r;
    if (!str_parse_uint64(text, &major_number, &rest) || *rest != ':' ||
        !str_parse_uint64(rest + 1, &minor_number, &rest))
        return error_set(err, -EIO, "/sys/%s/dev is not a device's number", folder);
    *ret = makedev((unsigned)major_number, (unsigned)minor_number);
    return 0;
}

int ublk_device_look(const char *path, struct ublk_device *ret, struct error *err)
{
    struct ublk_device device = {0};
    _cleanup_free_ char *folder = NULL;

    if (!ublk_device_is_name(path) || !str_copy(device.path, sizeof(device.path), path))
        return error_set(err, E_PRECONDITION, "%s is no ublk device's name", path);
    folder = str_format("block/%s", path + strlen("/dev/"));
    if (!folder)
        return error_errno(err, ENOMEM, "cannot look at %s", path);
    int r = ublk_device_read_number(folder, &device.number, err);
    if (!r)
        r = ublk_device_read_sequence(folder, &device.sequence, err);
    if (r == E_NOT_FOUND) {
        error_done(err);
        return error_set(err, E_PRECONDITION, "%s is not there any more", path);
    }
    if (!r)
        *ret = device;
    return r;
}

int ublk_device_stands(const struct ublk_device *device, bool *ret, struct error *err)
{
    struct ublk_device there = {0};

    int r = ublk_device_look(device->path, &there, err);
    if (r && r != E_PRECONDITION)
        return r;
    error_done(err);
    *ret = !r && there.number == device->number && there.sequence == device->sequence;
    return 0;
}

bool ublk_device_owns(const struct ublk_device *device, dev_t number)
{
    _cleanup_free_ char *folder = str_format("dev/block/%u:%u", major(number), minor(number));
    uint64_t sequence = 0;

    if (!folder || device->number != number)
        return false;
    int r = ublk_device_read_sequence(folder, &sequence, NULL);
    return r == E_NOT_FOUND || (!r && sequence == device->sequence);
}
