/*
 * Inside store/ only: what image.c, image_failed.c, image_stable.c and image_copy.c share of an image.
 * image.c guards its bytes; image_failed.c makes it write-failed; image_stable.c knows what is not stable
 * yet; image_copy.c decides when a change may begin while a copy of it is under way, or while it is held.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "datapath/store/backend.h"
#include "datapath/store/snapshot.h"
#include "datapath/store/store_internal.h"

struct io_list {
    struct image_io *first;
    struct image_io **last;
};

/* See image_stable.c. Counts of changes. */
struct image_stable {
    atomic_uint_fast64_t begun, ended;
    atomic_uint_fast64_t plain; /* begun, without FUA */
    atomic_uint_fast64_t loose; /* ended, and not stable of themselves */
    atomic_uint_fast64_t synced;
    atomic_uint_fast64_t plain_at_flush;
    atomic_uint lone;             /* flushes in a row after one plain change each */
    atomic_uint_fast64_t settled; /* the store's flush clock when a change became stable last */
    uint64_t syncing;             /* of loose, when the sync in flight began; under the image's lock */
    uint64_t sync_begun;          /* and the store's flush clock */
};

struct image {
    struct volume *volume;
    const struct backend_ops *ops;
    struct backend_image *backend;
    atomic_uint gates; /* copies under way, and one for a hold; read without the lock, written with it */

    struct image_stable stable;

    pthread_mutex_t lock; /* guards all below; never held across I/O */
    bool syncing;
    struct io_list riders;             /* answered by the sync in flight; the first one started it */
    struct io_list waiting;            /* arrived after that was submitted */
    atomic_bool recording;             /* "write-failed" is being made durable; read without the lock, too */
    bool unrecorded;                   /* that is still to be done, or the last attempt failed */
    struct io_list failed;             /* answered when it is recorded */
    struct loop_work record;           /* does that, while `recording` */
    char lost_by[ID_SNAPSHOT_MAX + 1]; /* whose flush told of the failure; "": its own */

    struct image_copy *copies[STORE_COPIES_MAX];
    size_t copies_count;
    bool held;
    struct io_list gated;  /* changes that wait for copies, or for the end of the hold */
    pthread_cond_t wanted; /* one came that waits for a copy */
};

static inline void io_list_init(struct io_list *list)
{
    list->first = NULL;
    list->last = &list->first;
}

static inline void io_list_add(struct io_list *list, struct image_io *io)
{
    io->next = NULL;
    *list->last = io;
    list->last = &io->next;
}

static inline void io_list_move(struct io_list *to, struct io_list *from)
{
    if (!from->first)
        return;
    *to->last = from->first;
    to->last = from->last;
    io_list_init(from);
}

static inline void io_list_set_result(struct io_list *list, int result)
{
    for (struct image_io *io = list->first; io; io = io->next)
        io->result = result;
}

/* ---- image.c ---- */

/* done(io, io->result) on each one's own loop, later. From anywhere. */
void image_answer_list(struct io_list *list);

/* A change that was let through the gate goes on, on its own loop. */
void image_change(struct image_io *io);

/* ---- image_failed.c ---- */

/* Whether it takes no changes and no flushes. [any] */
bool image_write_failed(const struct image *image);

/* E_WRITE_FAILED for those, once that is on disk. loop is the one that runs this. */
void image_refuse(struct image *image, struct loop *loop, struct io_list *list);
void image_refuse_one(struct image_io *io);

/* Write-failed; answer the list when that is durable. True: image_record() is the caller's to call. */
bool image_fail_locked(struct image *image, struct io_list *list);
void image_record(struct image *image, struct loop *loop);
/* The same for one, with result as its answer. */
void image_fail_one(struct image_io *io, int result);

/* Write-failed, and image_fail_one() follows: whoever is refused meanwhile has it recorded. */
void image_fail_unrecorded(struct image *image);

/* ---- image_stable.c ---- */

void image_stable_init(struct image *image);

/* A change is about to begin: decides whether it is to be stable of itself (io->stable). */
void image_stable_begin(struct image_io *io);

/* It ended, and is about to be answered, or to be followed by a sync of its own. */
void image_stable_end(struct image_io *io, bool is_stable);

/* Whether another change began since this one did. */
bool image_stable_disturbed(const struct image_io *io);

/* A flush has come. */
void image_stable_flush_locked(struct image *image);

/* Whether all that was answered is stable, so that a flush has nothing to do. */
bool image_stable_is_all(const struct image *image);

/* A sync is about to begin; it ended well. Under the image's lock. */
void image_stable_sync_begin(struct image *image);
void image_stable_sync_end(struct image *image);

/* Whether something of it is lost when the disk's cache is: in flight, answered and not stable, or stable
 * only since `begun` on the store's flush clock. What an earlier process answered is its devices' to send
 * again. */
bool image_stable_may_lose(const struct image *image, uint64_t begun);

/* ---- image_copy.c ---- */

void image_gate_init(struct image *image);
void image_gate_done(struct image *image);

/* True: the change waits, and image_change() will be called for it. */
bool image_gate(struct image_io *io);
