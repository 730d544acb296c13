/*
 * The bytes of a volume at one moment: as a snapshot beside it, or as a new volume. The moment is fixed at
 * once (the cut); the bytes are shared with the source by reflink, range by range, in the background, and a
 * change to a range that is not shared yet waits until that one range is. No reader waits, and no writer
 * longer than for one range.
 *
 * What the cut holds: every change that was answered before it was asked for; none that is submitted after
 * it returned; of those in flight meanwhile, each or not, and never one that was sent after the answer to
 * one that is missing.
 *
 * Until a copy is whole and durable it is nothing: a crash leaves no snapshot and no volume of it, and no
 * damage to the source (invariant 7). But a snapshot's cut can be recorded before that, for somebody who goes
 * by it: then a crash, or a failure, leaves a snapshot that is lost. It has no data, every use of it is
 * refused with E_CORRUPT, and nothing else is ever made by its id, until it is deleted.
 *
 * Threads: as store.h; [any] as there.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "datapath/store/record.h"
#include "datapath/store/store.h"

struct snapshot;

#define STORE_COPIES_MAX 4 /* of one volume under way at once; one more is E_BUSY */

/*
 * Cut `source` as spec->id (its name and group_id are taken; provisional when it has a group_id). Returns
 * when the moment is fixed; a reference for the caller. A repeat with equal fields returns the one that
 * stands; E_EXISTS, naming what differs, else; E_CORRUPT when it is lost. E_NO_SPACE when the pool cannot
 * promise what the source has allocated.
 */
int store_snapshot_create(struct store *store, struct volume *source, const struct snapshot_record *spec,
                          struct snapshot **ret, struct error *err);

/* Until it is ready or until_ms of time_now_ms(): E_DEADLINE; else why there is no snapshot after all. */
int snapshot_wait(struct snapshot *snapshot, uint64_t until_ms, struct error *err);

/*
 * Before anybody is told of a moment whose snapshot is not ready: record it, durably. From 0 on the snapshot
 * is ready or becomes it, or is lost, until it is deleted. Writes nothing when it is ready, or when it was
 * recorded. E_BUSY when it came to nothing meanwhile. E_INVALID_ARGUMENT for a member of a group.
 */
int snapshot_record_cut(struct snapshot *snapshot, struct error *err);
bool snapshot_cut_recorded(const struct snapshot *snapshot); /* [any] or it is ready */
/* [any] E_CORRUPT, with the cut's time, why, and the remedy, when it is lost. */
int snapshot_check_lost(struct snapshot *snapshot, struct error *err);

/* 0 also when there is none. Stops the copying of one that is not ready, and E_BUSY while the disk keeps it
 * from stopping: a repeat finds it gone, or waits on. E_PRECONDITION while a volume is being made of it. */
int store_snapshot_delete(struct store *store, const char *snapshot_id, struct error *err);
/* The same, but E_PRECONDITION for one that is not provisional any more. */
int store_snapshot_delete_provisional(struct store *store, const char *snapshot_id, struct error *err);

struct snapshot *store_snapshot_find(struct store *store, const char *snapshot_id); /* [any] */
struct snapshot *store_snapshot_next(struct store *store, const char *after_id);    /* [any] */
struct snapshot *snapshot_ref(struct snapshot *snapshot);                           /* [any] */
struct snapshot *snapshot_unref(struct snapshot *snapshot);                         /* [any] returns NULL */
int snapshot_copy_record(struct snapshot *snapshot, struct snapshot_record *ret);   /* [any] 0 or -ENOMEM */
unsigned snapshot_progress_percent(const struct snapshot *snapshot);                /* [any] 100: ready */
int snapshot_check_readable(const struct snapshot *snapshot, struct error *err);    /* [any] as a volume's */

/* Groups: `held` is remembered until the snapshot is durable, and with it; commit ends "provisional",
 * durably. E_PRECONDITION from commit unless it is ready and held. Both may be repeated. */
int snapshot_mark_held(struct snapshot *snapshot, struct error *err);
int snapshot_commit(struct snapshot *snapshot, struct error *err);

/* Allocated; and what of that nothing else shares, which takes a walk over the extents. */
int snapshot_used_bytes(struct snapshot *snapshot, uint64_t *ret_bytes, struct error *err);
int snapshot_exclusive_bytes(struct snapshot *snapshot, uint64_t *ret_bytes, struct error *err);
int volume_exclusive_bytes(struct volume *volume, uint64_t *ret_bytes, struct error *err);

/*
 * The ranges from from_offset on that may not read as zeroes or, with an older snapshot of the same volume as
 * base, that may differ from it: in order, never overlapping, never a miss. A non-zero return of visit() ends
 * the walk and is returned. E_INVALID_ARGUMENT when base is of another volume or not older; E_PRECONDITION
 * when one is not ready.
 */
typedef int (*extent_visit)(uint64_t offset, uint64_t length, void *context);
int snapshot_extents(struct snapshot *snapshot, struct snapshot *base, uint64_t from_offset,
                     extent_visit visit, void *context, struct error *err);

/* ---- a volume of a volume or a snapshot ---- */

struct copy;

/*
 * Begin to make spec->id (as store_volume_create(); size_bytes at least the source's, block size the source's
 * when 0) out of `volume` or `snapshot`, whichever is not NULL. VOLUME_DATA from birth. A repeat joins the
 * copy under way; when the volume stands with equal fields, *ret is NULL and 0 is returned.
 */
int store_copy_begin(struct store *store, const struct volume_record *spec, struct volume *volume,
                     struct snapshot *snapshot, struct copy **ret, struct error *err);
/* As snapshot_wait(); the volume is found by its id then. The copy goes on when nobody waits. */
int copy_wait(struct copy *copy, uint64_t until_ms, struct error *err);
/* Is this volume being made of another? [any] */
bool store_copy_under_way(struct store *store, const char *volume_id);
unsigned copy_progress_percent(const struct copy *copy); /* [any] */
struct copy *copy_unref(struct copy *copy);              /* returns NULL; NULL is allowed */
