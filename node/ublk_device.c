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

static int ublk_device_number(const char *device, dev_t *ret, struct error *err)
{
    _cleanup_free_ char *path = str_format("/sys/block/%s/dev", device + strlen("/dev/"));
    _cleanup_free_ char *text = NULL;
    uint64_t major_number, minor_number;
    const char *rest;

    if (!path)
        return error_errno(err, ENOMEM, "cannot look at %s", device);
    int r = io_read_file(path, 64, &text, NULL, err);
    if (r && r != E_NOT_FOUND && r != -ENODEV)
        return r;
    error_done(err);
    if (r || !str_parse_uint64(text, &major_number, &rest) || *rest != ':' ||
        !str_parse_uint64(rest + 1, &minor_number, &rest))
        return error_set(err, E_PRECONDITION, "%s is not there any more", device);
    *ret = makedev((unsigned)major_number, (unsigned)minor_number);
    return 0;
}

int ublk_device_verify(const char *device, struct error *err)
{
    dev_t number;

    return ublk_device_number(device, &number, err);
}

bool ublk_device_is(const char *device, dev_t number)
{
    dev_t there;

    return ublk_device_number(device, &there, NULL) == 0 && there == number;
}
