/* The ublk devices of this host, by sysfs. Whose one is, mooring-device tells by the mark that it carries;
 * here a name comes from the status.json of a volume. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/error.h"

bool ublk_device_is_name(const char *device); /* "/dev/ublkb0" */

/* It is there; E_PRECONDITION otherwise; another error when that cannot be told. */
int ublk_device_verify(const char *device, struct error *err);

/* device is block device `number`. */
bool ublk_device_is(const char *device, dev_t number);
