/* ublk block devices by sysfs. No state; called by attach_device.c. */
#include "node/ublk_device.h"

#include <sys/sysmacros.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"

#define PREFIX "/dev/ublkb"

bool ublk_device_is_name(const char *device)
{
    return str_starts_with(device, PREFIX);
}

static bool ublk_device_number(const char *device, dev_t *ret)
{
    _cleanup_free_ char *path = str_format("/sys/block/%s/dev", device + strlen("/dev/"));
    _cleanup_free_ char *text = NULL;
    uint64_t major_number, minor_number;
    const char *rest;

    if (!path || io_read_file(path, 64, &text, NULL, NULL) || !str_parse_uint64(text, &major_number, &rest) ||
        *rest != ':' || !str_parse_uint64(rest + 1, &minor_number, &rest))
        return false;
    *ret = makedev((unsigned)major_number, (unsigned)minor_number);
    return true;
}

int ublk_device_verify(const char *device, struct error *err)
{
    dev_t number;

    if (!ublk_device_number(device, &number))
        return error_set(err, E_PRECONDITION, "%s is not there any more", device);
    return 0;
}

bool ublk_device_is(const char *device, dev_t number)
{
    dev_t there;

    return ublk_device_number(device, &there) && there == number;
}
