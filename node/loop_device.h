/* The loop devices of this host, found by their backing files: ours lie below a volume's folder, others are
 * not touched. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/error.h"

/* device ("/dev/loop3") is backed by the file `volume` in mount_point; E_PRECONDITION, naming both,
 * otherwise. */
int loop_device_verify(const char *device, const char *mount_point, struct error *err);

/* Block device `number` is a loop device whose backing file is in mount_point. */
bool loop_device_is_ours(dev_t number, const char *mount_point);

/* *ret: whether any loop device has its backing file in mount_point. An error when that cannot be told. */
int loop_device_look(const char *mount_point, bool *ret, struct error *err);

/* Detach each loop device whose backing file is in mount_point. 0 also when there is none. */
int loop_device_release(const char *mount_point, struct error *err);
