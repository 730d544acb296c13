/*
 * One operation per volume at a time (invariant 8): the second gets E_BUSY with what runs and for how long.
 * Thread-safe.
 */
#pragma once

#include <stdbool.h>

#include "common/error.h"

struct volume_locks;

int volume_locks_new(struct volume_locks **ret);
struct volume_locks *volume_locks_free(struct volume_locks *locks);

/* what must outlive the lock: a literal such as "NodeStageVolume". A round that has the lock is waited for,
 * up to 2 s. */
int volume_lock_try(struct volume_locks *locks, const char *volume_id, const char *what, struct error *err);

/* For the supervisor's rounds, which come by again: never waits, and is never the reason that a caller is
 * told to try again, unless it takes long. */
int volume_lock_try_round(struct volume_locks *locks, const char *volume_id, const char *what,
                          struct error *err);
void volume_lock_release(struct volume_locks *locks, const char *volume_id);

/*
 * A holder whose next step may wait for I/O on the volume lends the lock, so that the supervisor can start a
 * successor of a device process that dies meanwhile: without one, that step would never end. reclaim waits
 * until what was borrowed is back.
 */
void volume_lock_lend(struct volume_locks *locks, const char *volume_id);
void volume_lock_reclaim(struct volume_locks *locks, const char *volume_id);
bool volume_lock_borrow(struct volume_locks *locks, const char *volume_id);
void volume_lock_return(struct volume_locks *locks, const char *volume_id);
