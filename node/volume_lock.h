/*
 * One operation per volume at a time (invariant 8): the second gets E_BUSY with what runs and for how long.
 * Thread-safe.
 */
#pragma once

#include "common/error.h"

struct volume_locks;

int volume_locks_new(struct volume_locks **ret);
struct volume_locks *volume_locks_free(struct volume_locks *locks);

/* what must outlive the lock: a literal such as "NodeStageVolume". */
int volume_lock_try(struct volume_locks *locks, const char *volume_id, const char *what, struct error *err);
void volume_lock_release(struct volume_locks *locks, const char *volume_id);
