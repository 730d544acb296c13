/*
 * Inside store/ only: the objects that store.c, volume.c, node.c, name.c, flush.c and image.c share. Users of
 * the store include store.h and image.h.
 *
 * Locks, outermost first; a later one is never held while an earlier one is taken:
 *   store->name_locks[], store->ids          one create, delete, claim or release per key, across its commit
 *   node->lock                               one change of a node's record, and every attach to it
 *   volume->record_lock,                     one commit of a volume's, a snapshot's record
 *   snapshot->record_lock
 *   scrub->lock                              memory only, as those below: never across I/O, so [any]
 *   store->index_lock                        functions may take them
 *   volume->view_lock, volume->slot_lock,
 *   snapshot->view_lock, image->lock
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datapath/store/backend.h"
#include "datapath/store/record.h"
#include "datapath/store/store.h"

#define STORE_STRIPES 1024 /* many more than calls at once: two of them seldom wait for each other's disk */
#define OPERATION_WORDS_MAX 64
#define STORE_COPIES_TOTAL 96 /* under way at once, of all volumes; a group's may be 64 */

struct volume {
    struct store *store;
    atomic_uint refs; /* the index holds one until the volume is deleted */

    /* never change */
    char id[ID_VOLUME_MAX + 1];
    uint32_t block_size_bytes;
    bool thick;
    char *unreadable; /* why the record could not be read; NULL: it was */

    /* Mirrors of the record for the data path, read without a lock. write_failed may be ahead of the record:
     * it is set before the commit that makes it durable, and stays set when that commit fails. content and
     * size_bytes are ahead of the record never: they are set after the commit. size_bytes only grows. */
    _Atomic uint64_t size_bytes;
    atomic_bool write_failed;
    atomic_bool deleted;
    atomic_bool suspect; /* a scrub could not read some of it: changes are told to it */
    _Atomic(enum volume_content) content;

    pthread_mutex_t record_lock; /* held across one durable commit */
    pthread_mutex_t view_lock;   /* guards `record`: written with both locks held, read with either */
    struct volume_record record;
    bool unsettled; /* record_lock: a commit failed, and the disk may have what it wanted */

    pthread_mutex_t slot_lock;
    char operation[OPERATION_WORDS_MAX]; /* "" when none runs */
    uint64_t operation_since_ns;

    pthread_mutex_t image_lock;    /* opening the image: blocks */
    _Atomic(struct image *) image; /* NULL until first use */
    _Atomic(void *) owner_data;
};

struct node {
    pthread_mutex_t lock;      /* held across one durable commit, and across an attach */
    bool known;                /* false: made for a first update that has not committed yet */
    bool unsettled;            /* lock: a commit failed, and the disk may have what it wanted */
    struct node_record record; /* written with lock and index_lock held, read with either */
};

struct name {
    char holder_id[STORE_HOLDER_MAX + 1];
    char key[]; /* a letter for the kind, then the name: one index holds all */
};

enum snapshot_state {
    SNAPSHOT_COPYING,
    SNAPSHOT_READY,
    SNAPSHOT_LOST, /* only its cut is recorded; it stays, and says so, until it is deleted */
    SNAPSHOT_GONE,
};

struct snapshot {
    struct store *store;
    atomic_uint refs; /* the index holds one until it is gone */

    /* never change */
    char id[ID_SNAPSHOT_MAX + 1];
    char *unreadable;  /* why the record could not be read; NULL: it was */
    struct copy *copy; /* that makes or made it, a reference; NULL: it was loaded */

    _Atomic(enum snapshot_state) state;
    atomic_bool cut_recorded;    /* set with record_lock: the pool has the cut, or all */
    pthread_mutex_t record_lock; /* held across one durable commit */
    pthread_mutex_t view_lock;   /* guards `record`: written with both locks held, read with either */
    struct snapshot_record record;
    bool unsettled; /* record_lock: a commit failed, and the disk may have what it wanted */

    uint64_t promised_bytes; /* index_lock */
    bool deleting;           /* index_lock: no copy of it begins */
};

/* Pointers sorted by a string key; index.c. */
struct index {
    void **items;
    size_t count, room;
    const char *(*key)(const void *item);
};

/* key_lock.c */
struct key_lock {
    struct key_lock *next;
    struct key_locks *locks;
    const char *key, *what; /* the caller's, until it is given back */
    uint64_t since_ms;
};

struct key_locks {
    pthread_mutex_t lock;
    pthread_cond_t given;
    struct key_lock *first; /* locked */
};

struct store {
    const struct backend_ops *ops;
    struct backend *backend;
    char server_id[ID_SERVER_MAX + 1];
    uint64_t reserve_bytes;
    bool overcommit;

    struct key_locks ids;                      /* of volumes and snapshots: create and delete */
    pthread_mutex_t name_locks[STORE_STRIPES]; /* by name: claim and release */

    _Atomic uint64_t flush_clock; /* see flush.c */
    struct backend_watch flush_watch;

    struct scrub *scrub; /* NULL: none; set before the first image is used, freed with the store */

    pthread_rwlock_t index_lock; /* guards all below, for memory only */
    struct index volumes;        /* struct volume */
    struct index nodes;          /* struct node; a node once made stays until the store is closed */
    struct index names;          /* struct name */
    struct index snapshots;      /* struct snapshot */
    struct copy *copies[STORE_COPIES_TOTAL]; /* under way, without a reference */
    size_t copies_count;
    uint64_t promised_bytes;
};

/* ---- volume.c, for store.c and image.c ---- */

/* A volume with one reference; takes over *record's contents (empty afterwards). */
int volume_new(struct store *store, struct volume_record *record, struct volume **ret, struct error *err);

/*
 * Record the volume as write-failed. In memory at once, so that from this call on no change is admitted, then
 * durably. A failed commit is returned, leaves it write-failed in memory, and the next commit of the record
 * carries it too. Blocks: from a loop by loop_offload().
 */
int volume_mark_write_failed(struct volume *volume, struct error *err);

/* content_write_marks() on the record as it stands. [any]; without a lock once the volume holds data. */
bool volume_write_marks(struct volume *volume, uint64_t epoch, uint64_t generation);

/* Make the volume "data", durably, unless a write of this epoch and generation needs no mark (any more).
 * Blocks. E_NOT_FOUND when the volume was deleted meanwhile. */
int volume_mark_data(struct volume *volume, uint64_t epoch, uint64_t generation, struct error *err);

/* ---- node.c and name.c, for store.c ---- */

struct node *node_new(struct node_record *record); /* takes over *record; NULL when memory ran out */
struct node *node_free(struct node *node);

/* free() it; NULL when memory ran out. */
struct name *name_new(enum name_kind kind, const char *name, const char *holder_id);
bool name_holder_valid(enum name_kind kind, const char *holder_id); /* is it an id of that kind? */

/* ---- store.c ---- */

/* Promise that many bytes of the pool's space: E_NO_SPACE when there are not. */
int store_promise(struct store *store, uint64_t size_bytes, struct error *err);
void store_promise_release(struct store *store, uint64_t size_bytes);

size_t store_stripe(const char *key);    /* which of the STORE_STRIPES locks is key's */
bool store_text_valid(const char *text); /* 1 to ID_VOLUME_NAME_MAX bytes of UTF-8 */

/* ---- store_volume.c, for store_copy.c ---- */

int volume_spec_check(const struct store *store, const struct volume_record *spec, struct error *err);
/* The record that a volume made from spec is born with. */
int volume_record_born(const struct volume_record *spec, struct volume_record *ret, struct error *err);
/* What of a creation's fields differs, in words; NULL: nothing. */
const char *volume_record_differs(const struct volume_record *standing, const struct volume_record *wanted);
/* A repeat of a creation: E_EXISTS, naming what differs. */
int volume_check_same(struct volume *volume, const struct volume_record *wanted, struct error *err);

/* ---- snapshot.c, for store.c ---- */

int snapshot_load(struct store *store, struct snapshot_record *record, uint64_t allocated_bytes,
                  const char *unreadable, struct error *err);

/* ---- snapshot.c, for the other snapshot_*.c ---- */

/* Whole, durable, and still there. */
int snapshot_check_ready(struct snapshot *snapshot, struct error *err);
/* From the index, with what it was promised. With its record_lock, or as the last that knows of it. */
void snapshot_gone(struct snapshot *snapshot);

/* ---- image.c, for volume.c ---- */

/* Open volume's image: ops->image_open() and what the guards need. The image is freed before its volume, and
 * takes no reference of it. */
int image_new(struct volume *volume, struct image **ret, struct error *err);
struct image *image_free(struct image *image); /* nothing in flight; NULL is fine; returns NULL */

/* ---- image_failed.c, for flush.c ---- */

/* The disk's cache was lost. Where something of the image's may have been in it, as of `begun` on the flush
 * clock, the image is write-failed, which image_record_lost() is to record. [any] */
void image_lose(struct image *image, uint64_t begun, const char *whose);
bool image_is_unrecorded(struct image *image);
/* On an offload thread of the loop that runs this; NULL: here, and it blocks. Nothing when it is recorded. */
void image_record_lost(struct image *image, struct loop *loop);

/* ---- flush.c ---- */

/* Something begins that flushes the disk: the clock's time, for when it has failed. [any] */
uint64_t store_flush_begin(struct store *store);
uint64_t store_flush_now(const struct store *store);

/*
 * It failed: what any volume but own has to lose is lost. whose: the id to tell the operator. In memory only,
 * so it may be called with locks of volumes held, but for their images' lock; store_flush_record() then makes
 * it durable, on offload threads of the loop that runs this, or here (NULL), where no such lock is held.
 * [any]
 */
void store_flush_failed(struct store *store, uint64_t begun, const char *whose, const struct image *own);
void store_flush_record(struct store *store, struct loop *loop);

/* Be told of the backend's own flushes. */
void store_flush_watch(struct store *store);

/* ---- key_lock.c ---- */

void key_locks_init(struct key_locks *locks);
void key_locks_done(struct key_locks *locks);

/* E_BUSY, saying what holds it since when, after a short wait. */
int key_lock_take(struct key_locks *locks, struct key_lock *taken, const char *key, const char *what,
                  struct error *err);
void key_lock_give(struct key_lock *taken);

/* ---- index.c ---- */

/* The position of key, or where it would be; *ret_found says which. */
size_t index_position(const struct index *index, const char *key, bool *ret_found);
void *index_find(const struct index *index, const char *key);

/* Insert in order; the key must not be there. 0 or -ENOMEM. */
int index_insert(struct index *index, void *item);
void *index_remove(struct index *index, const char *key); /* the item, or NULL */

/* For loading: append unordered, then sort once. index_sort() returns an item whose key is there twice, or
 * NULL. */
int index_append(struct index *index, void *item);
void *index_sort(struct index *index);
void index_done(struct index *index); /* the array, not the items */
