/* The ways "fuse" and "ublk": a mooring-device and its mooring-holder. Which of the two frontends it uses is
 * device.json's "attach"; the rest is the same. */
#pragma once

#include "node/attach_way.h"

extern const struct attach_way attach_device_way;

/* ---- shared by the files whose names begin so, and attach_portals.c ---- */

struct attach_files;

unsigned attach_device_left_ms(uint64_t deadline_ms);

/* A successor that takes over. The holder is never started here: with a new one the device would begin anew.
 */
int attach_device_succeed(const struct node_config *config, struct storage *storage,
                          const struct attach_files *paths, const char *volume_id, uint64_t epoch,
                          unsigned timeout_ms, struct error *err);
int attach_device_wait(const struct node_config *config, const char *volume_id, uint64_t deadline_ms,
                       struct attach_device *ret, struct error *err);

/* The block device that status.json names, on the heap; NULL when it names none. */
char *attach_device_named(const struct attach_files *paths);

/* *ret: whether the dead process's successor would take over, for what it needs is still there. keeps: also
 * the block device. An error when that cannot be told: nothing is dropped for not knowing. */
int attach_device_holds(const struct attach_files *paths, bool *ret, struct error *err);
int attach_device_keeps(const struct attach_files *paths, bool *ret, struct error *err);

int attach_device_end(const struct node_config *config, struct storage *storage, const char *volume_id,
                      unsigned timeout_ms, struct error *err);
int attach_device_replace(const struct node_config *config, struct storage *storage, const char *volume_id,
                          uint64_t deadline_ms, uint64_t *ret_stalled_ms, struct error *err);
bool attach_device_waits(const struct node_config *config, const char *volume_id);
int attach_device_tell_portals(const struct node_config *config, const struct storage_attachment *attachment,
                               struct error *err);
int attach_device_resize(const struct node_config *config, const char *volume_id, uint64_t size_bytes,
                         uint64_t deadline_ms, struct error *err);
int attach_device_kill(const struct node_config *config, const char *volume_id, struct error *err);
int attach_device_sweep(const struct node_config *config, const char *volume_id, struct error *err);
