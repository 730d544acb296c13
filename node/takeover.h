/*
 * Whether a successor of a mooring-device that died would take over what it left, or begin anew. Asks the
 * kernel, not the holder: the holder admits nobody but devices. Blocks briefly.
 */
#pragma once

#include <stdbool.h>

#include "common/error.h"

/*
 * *ret: the holder of this pid file lives, keeps /dev/fuse descriptors, and the mount that they serve stands:
 * a successor serves what waits, and delivers what its predecessor had answered but not flushed. An error
 * when one of it cannot be told: that it holds nothing is never concluded from not knowing.
 */
int takeover_holds(const char *holder_pid, const char *mount_point, bool *ret, struct error *err);

/* The same of the replay log, for a device that the kernel keeps by itself. A holder that took the place of
 * one that ended has none before its device has handed it over. */
int takeover_holds_log(const char *holder_pid, bool *ret, struct error *err);

/* And the block device is still there, under the number that bind mounts and containers know it by. */
int takeover_keeps_device(const char *holder_pid, const char *mount_point, bool *ret, struct error *err);
