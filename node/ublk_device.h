/*
 * The ublk devices of this host, by sysfs. A name (/dev/ublkb0) and a number are given to another device once
 * one is gone; the kernel's sequence number (diskseq) never is, in one boot. mooring-device tells whose one
 * is by the mark that it carries; here it is what its status.json named while it served, as ublk_note.h keeps
 * it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

#define UBLK_DEVICE_PATH_MAX 31

struct ublk_device {
    char path[UBLK_DEVICE_PATH_MAX + 1];
    uint64_t number; /* dev_t */
    uint64_t sequence;
};

bool ublk_device_is_name(const char *device); /* "/dev/ublkb0" */

/* What has that name now; E_PRECONDITION when nothing has; another error when that cannot be told. */
int ublk_device_look(const char *path, struct ublk_device *ret, struct error *err);

/* Whether this very device is still there; an error when that cannot be told. */
int ublk_device_stands(const struct ublk_device *device, bool *ret, struct error *err);

/* Whether block device `number`, which something is mounted from, is this very device: one that is gone keeps
 * its number until the last of its mounts is. */
bool ublk_device_owns(const struct ublk_device *device, dev_t number);
