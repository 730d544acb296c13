/*
 * Volumes at rest. One store is open in a process: records are held in memory as the pool has them on disk,
 * and change only by a commit that is durable first. Behind a vtable (backend.h); the embedded backend is
 * pool/.
 *
 * Threads: every function here blocks and may be called from any thread but a loop's (use loop_offload()),
 * except the accessors marked [any], which take no lock that is held across I/O. Data goes through image.h.
 *
 * Two locks a volume: an operation slot (volume_operation_begin: one control-plane operation at a time, the
 * second is E_BUSY at once), and the record lock inside volume_update(), held for one durable commit. A
 * data-path change of the record (content, write-failed) takes only the second, so that a drain never waits
 * for itself.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "datapath/store/record.h"

struct store;
struct volume;
struct image;

struct store_options {
    const char *path;       /* of the pool */
    const char *server_id;  /* whose pool it must be */
    const char *pool_uuid;  /* which pool it must be: another one, or an empty directory, is refused */
    uint64_t reserve_bytes; /* never promised to volumes */
    bool overcommit;        /* promise more than there is */
};

/*
 * Take the pool's lock (E_BUSY while another mooring-target, or I/O of a dead one, holds it: try again), load
 * all records, sweep what is half-made. E_PRECONDITION when path has no pool (the text says how to make one)
 * or another pool's UUID or server id; E_CORRUPT naming the record when one of a node or a name cannot be
 * read. A volume whose record cannot be read is logged and kept apart: see volume_check_readable().
 */
int store_open(struct store **ret, const struct store_options *options, struct error *err);
struct store *store_close(struct store *store); /* no image may be in use; returns NULL */

/* The descriptor whose flock is the pool's lock: each loop holds it (loop_hold_fd) before its first I/O. */
int store_lock_fd(const struct store *store);

struct store_capacity {
    uint64_t total_bytes;       /* of the file system */
    uint64_t used_bytes;        /* on disk */
    uint64_t promised_bytes;    /* sum of the volumes' sizes */
    uint64_t free_bytes;        /* for new volumes: not promised yet; with overcommit, not used yet */
    uint64_t promise_max_bytes; /* what a new volume may be promised: with overcommit more than is free */
    bool overcommitted;         /* more is promised than the pool can keep: writes may come to be refused */
    uint64_t volumes_count;
    uint64_t snapshots_count;
};
int store_capacity(struct store *store, struct store_capacity *ret, struct error *err);
const char *store_pool_uuid(const struct store *store); /* [any] */
const char *store_server_id(const struct store *store); /* [any] */

/* Make a pool in a directory on XFS with reflink (E_PRECONDITION otherwise, saying which file system it
 * found; E_EXISTS when there is one). Writes pool.json with a new UUID. */
int store_pool_create(const char *path, const char *server_id, char ret_uuid[37], struct error *err);

/* ---- names (invariant 8): claims are durable records of their own ---- */

/* Each kind has a space of names of its own; its holders are volume ids, snapshot ids, group ids. */
enum name_kind { NAME_VOLUME, NAME_SNAPSHOT, NAME_GROUP };
#define STORE_HOLDER_MAX ID_SNAPSHOT_MAX /* the longest of them */

/* Claim name for holder_id; ret_holder_id is whose claim stands, this one or an older one's.
 * E_INVALID_ARGUMENT for an id that is not of this kind. */
int store_name_claim(struct store *store, enum name_kind kind, const char *name, const char *holder_id,
                     char ret_holder_id[STORE_HOLDER_MAX + 1], struct error *err);
/* Whose claim of name stands; false when nobody's. [any] */
bool store_name_find(struct store *store, enum name_kind kind, const char *name,
                     char ret_holder_id[STORE_HOLDER_MAX + 1]);
/* A name that holder_id, whose shape tells the kind, has claimed here; false when none is. [any] */
bool store_name_of(struct store *store, const char *holder_id, char ret_name[ID_VOLUME_NAME_MAX + 1]);
/* Remove the claim if it is holder_id's. */
int store_name_release(struct store *store, enum name_kind kind, const char *name, const char *holder_id,
                       struct error *err);

/* ---- volumes ---- */

/* Create spec->id (its name, size_bytes, block_size_bytes, thick, limits, parameters are taken; the rest is
 * born). A repeat with equal fields returns the volume that stands; E_EXISTS, naming what differs, else.
 * E_NO_SPACE when the pool cannot promise it; E_OUT_OF_RANGE for a size that is 0 or no multiple of the block
 * size; E_INVALID_ARGUMENT for a block size other than 512 and 4096 or finer than the pool's direct I/O;
 * E_BUSY, saying what runs, when another call makes or deletes it for long. A reference for the caller. */
int store_volume_create(struct store *store, const struct volume_record *spec, struct volume **ret,
                        struct error *err);

/* 0 also when there is none. E_PRECONDITION while attached. E_BUSY by the operation slot, as above, and while
 * the disk keeps the copying that makes it from being stopped: it stays told to stop. */
int store_volume_delete(struct store *store, const char *volume_id, struct error *err);

/* A reference, or NULL. [any] */
struct volume *store_volume_find(struct store *store, const char *volume_id);

/* The first volume whose id is above after_id ("" for the first), in the order of ids; a reference, or NULL.
 * [any] */
struct volume *store_volume_next(struct store *store, const char *after_id);

struct volume *volume_ref(struct volume *volume);   /* [any] */
struct volume *volume_unref(struct volume *volume); /* [any] returns NULL */

const char *volume_id(const struct volume *volume);            /* [any] */
uint64_t volume_size_bytes(const struct volume *volume);       /* [any] */
uint32_t volume_block_size_bytes(const struct volume *volume); /* [any] */
bool volume_is_thick(const struct volume *volume);             /* [any] */
bool volume_write_failed(const struct volume *volume);         /* [any] */
bool volume_deleted(const struct volume *volume);              /* [any] */

/*
 * E_CORRUPT, naming the file and the remedy, for a volume whose record could not be read when the store was
 * opened; E_OK for every other one. Of such a volume only the id, the size of its data and the name that is
 * claimed for it are known: no change of it, no image and no deletion, which give the same error, until the
 * store is opened with a record that can be read. [any]
 */
int volume_check_readable(const struct volume *volume, struct error *err);

/* A copy of the record as last committed. [any] 0 or -ENOMEM. */
int volume_snapshot_record(struct volume *volume, struct volume_record *ret_record);

/*
 * Grow it to size_bytes, durably, while it is in use too: commands up to the new size are taken from here on.
 * A size at or below its own changes nothing, whatever record_generation is; E_STALE when the record has
 * another one; E_NO_SPACE when the pool cannot promise the rest; E_OUT_OF_RANGE as store_volume_create().
 */
int volume_expand(struct volume *volume, uint64_t size_bytes, uint64_t record_generation, struct error *err);

/* Set its limits, durably; a repeat changes nothing. E_STALE as above. */
int volume_set_limits(struct volume *volume, const struct volume_limits *limits, uint64_t record_generation,
                      struct error *err);

/* Bytes allocated on disk. */
int volume_used_bytes(struct volume *volume, uint64_t *ret_bytes, struct error *err);

/* The volume's image, opened on first use, kept until the volume goes. */
int volume_image(struct volume *volume, struct image **ret, struct error *err);

/* One control-plane operation at a time: E_BUSY, with what runs and for how long, when another one has the
 * slot. */
int volume_operation_begin(struct volume *volume, const char *what, struct error *err);
void volume_operation_end(struct volume *volume);

/*
 * Change the record: edit() gets a copy, under the record lock; if it returns 0 the copy is committed durably
 * (record_generation + 1) and becomes the record; if it returns VOLUME_UNCHANGED nothing is written and 0 is
 * returned; any other code is returned and nothing changes.
 */
#define VOLUME_UNCHANGED 1000
typedef int (*volume_edit)(struct volume_record *record, void *context, struct error *err);
int volume_update(struct volume *volume, volume_edit edit, void *context, struct error *err);

/* A word of the owner above (the target's export), kept with the volume; the store never reads it. [any] */
void volume_set_owner_data(struct volume *volume, void *data);
void *volume_owner_data(struct volume *volume);

/* ---- nodes ---- */

/* Change (or create: an empty record with the id) a node's record, as volume_update(). */
typedef int (*node_edit)(struct node_record *record, void *context, struct error *err);
int store_node_update(struct store *store, const char *node_id, node_edit edit, void *context,
                      struct error *err);

/* How many volumes here the node holds; one that is being detached counts. Walks over all of them. [any] */
size_t store_node_attached(struct store *store, const char *node_id);

/* A copy. [any] E_NOT_FOUND when it never registered and was never fenced. */
int store_node_get(struct store *store, const char *node_id, struct node_record *ret_record,
                   struct error *err);

/* Copies of all, in the order of ids; the caller releases each and frees the array. [any] */
int store_node_list(struct store *store, struct node_record **ret_records, size_t *ret_count,
                    struct error *err);

/*
 * Attach under the node's lock, so that a fence and an attach cannot pass each other: E_PRECONDITION while
 * the node is fenced, E_NOT_FOUND when it never registered. Otherwise as attach_add(). ret_attachment is a
 * copy. record_generation is what the caller decided on: unless the attachment stands already, E_STALE when
 * the record has another one and E_INVALID_ARGUMENT for 0.
 */
int store_attach(struct store *store, struct volume *volume, const char *node_id, enum access_mode mode,
                 bool readonly, uint64_t record_generation, struct attachment *ret_attachment,
                 struct error *err);
