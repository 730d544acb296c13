/*
 * Inside store/ only: the copying behind snapshots and clones. copy.c runs it, a thread for each;
 * image_copy.c knows which ranges are shared; snapshot.c and store_copy.c say what becomes of it.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "datapath/store/snapshot.h"
#include "datapath/store/store_internal.h"

/* ---- image_copy.c ---- */

struct image_copy;

int image_copy_new(uint64_t size_bytes, struct image_copy **ret); /* 0 or -ENOMEM */
struct image_copy *image_copy_free(struct image_copy *copy);      /* NULL is fine; returns NULL */

/* The cut: see the head of image_copy.c. Takes the image's lock only. E_BUSY at STORE_COPIES_MAX, and when
 * the volume is larger than the copy by now. A copy of what nobody changes does without. [any] */
int image_copy_begin(struct image *image, struct image_copy *copy, struct error *err);
void image_copy_end(struct image_copy *copy); /* nobody waits for it any more, whatever is shared */

/* What to share next: ranges that a change waits for (wanted), else as much as there is in a run. False when
 * all is shared. */
bool image_copy_next(struct image_copy *copy, uint64_t *ret_offset, uint64_t *ret_end, bool *ret_wanted);
/* The last end of ranges up to end, at least one range after offset, which begins one. */
uint64_t image_copy_round(const struct image_copy *copy, uint64_t offset, uint64_t end);
void image_copy_shared(struct image_copy *copy, uint64_t offset, uint64_t end);
void image_copy_pause(struct image_copy *copy, uint64_t pause_ns); /* or until a range is wanted */
unsigned image_copy_percent(const struct image_copy *copy);        /* [any] */

/* ---- copy.c ---- */

struct copy {
    struct store *store;
    atomic_uint refs;
    char id[ID_SNAPSHOT_MAX + 1];        /* of what is being made */
    char source_id[ID_SNAPSHOT_MAX + 1]; /* of what it is made of */

    /* The source, and what is made of it: each a reference, until it has ended. */
    struct volume *volume;       /* the source, or NULL: then a snapshot is */
    struct snapshot *from;       /* the source, or NULL */
    struct snapshot *made;       /* or NULL: a volume is made */
    struct volume_record record; /* of the volume to be made */

    struct image_copy *ranges;
    struct backend_image *source;
    struct backend_copy *backend;
    _Atomic uint64_t cancelled_ms; /* when it was told to stop first; 0: it was not */

    pthread_mutex_t lock; /* guards the outcome */
    pthread_cond_t ended_cond;
    bool ended;
    int result;
    char *words; /* why result is not 0; NULL when memory ran out */
};

/* One for id, of `size_bytes` out of an image that it takes over, whatever it returns. */
int copy_new(struct store *store, const char *id, const char *source_id, struct backend_image *source,
             uint64_t size_bytes, struct copy **ret, struct error *err);
struct copy *copy_ref(struct copy *copy);

/*
 * Enter it in the store's list and, for a volume's copy, cut. Under the index lock, so that `sequence` and
 * the cuts have one order. E_BUSY when too many are under way.
 */
int copy_enter_locked(struct copy *copy, struct image *image, struct error *err);

/* Start the thread of a copy that has been entered. When it cannot, the copy ends at once, as failed. */
void copy_start(struct copy *copy);

/* The one under way for id: a reference, or NULL. [any] */
struct copy *copy_find(struct store *store, const char *id);
/* Stop the one under way for id, if any, and wait until it has ended, one way or the other. E_BUSY when what
 * it waits for, a disk, takes long: it ends as soon as that does. */
int copy_stop(struct store *store, const char *id, struct error *err);
void copy_stop_all(struct store *store);
bool copy_reads_locked(const struct store *store, const char *source_id); /* index lock */

/* ---- what becomes of it: called on its thread ---- */

int snapshot_copied(struct copy *copy, struct error *err);                        /* snapshot.c */
void snapshot_not_copied(struct copy *copy, int result, const struct error *why); /* snapshot_cut.c */
int store_volume_copied(struct copy *copy, struct error *err);                    /* store_copy.c */
void store_volume_not_copied(struct copy *copy);
