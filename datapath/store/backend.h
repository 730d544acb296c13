/*
 * What a kind of pool provides. The store above holds the records, the locks and the decisions; a backend
 * only keeps bytes. Control functions block. `half-made` things are the backend's to sweep in open().
 */
#pragma once

#include "datapath/loop/loop.h"
#include "datapath/store/image.h"
#include "datapath/store/record.h"
#include "datapath/store/snapshot.h"
#include "datapath/store/store.h"

struct backend;
struct backend_image;
struct backend_copy;

/* Who is told of what flushes the disk's cache but no image_start(): begin() before, and with what that
 * returned failed(), whose id it was. [any thread that blocks] */
struct backend_watch {
    uint64_t (*begin)(void *context);
    void (*failed)(void *context, uint64_t begun, const char *whose);
    void *context;
};

/* What image_start() is asked to start for an image_io. */
enum image_step {
    IMAGE_STEP_DATA,  /* the verb: io->rest at io->offset + io->progress, or the whole range; a write stable
                         where io->stable says so */
    IMAGE_STEP_PUNCH, /* deallocate the range: zeroing, where IMAGE_STEP_DATA gave -EOPNOTSUPP … */
    IMAGE_STEP_ALLOCATE, /* … and then give it space again */
    IMAGE_STEP_SYNC,     /* all that was answered becomes stable */
    IMAGE_STEP_PROBE,    /* IMAGE_STEP_DATA of a write that failed as a stable one, which it is not now */
};

struct backend_ops {
    const char *name;

    int (*open)(struct backend **ret, const struct store_options *options, struct error *err);
    void (*close)(struct backend *backend);
    void (*watch)(struct backend *backend, const struct backend_watch *watch); /* until it is closed */
    int (*lock_fd)(const struct backend *backend);
    const char *(*uuid)(const struct backend *backend);
    uint32_t (*block_size_min)(const struct backend *backend); /* the finest direct I/O */
    /* Of the file system, in bytes: all of it, what is used, and what of that is no volume's data (as of
     * open). */
    int (*space)(struct backend *backend, uint64_t *ret_total, uint64_t *ret_used, uint64_t *ret_other,
                 struct error *err);

    /* Hand each record to visit(); its non-zero return ends the walk with that code. A volume whose record
     * visit() refuses, or that cannot be read, goes to unreadable(), with its data's size (0: it has none)
     * and what is wrong in words; only its non-zero return ends the walk. */
    int (*load_volumes)(struct backend *backend,
                        int (*visit)(json_t *object, void *context, struct error *err),
                        int (*unreadable)(const char *volume_id, uint64_t size_bytes, const char *why,
                                          void *context, struct error *err),
                        void *context, struct error *err);
    /* The same, after the volumes; each record with "allocated_bytes", and that as the size of one that
     * cannot be read. */
    int (*load_snapshots)(struct backend *backend,
                          int (*visit)(json_t *object, void *context, struct error *err),
                          int (*unreadable)(const char *snapshot_id, uint64_t allocated_bytes,
                                            const char *why, void *context, struct error *err),
                          void *context, struct error *err);
    int (*load_nodes)(struct backend *backend, int (*visit)(json_t *object, void *context, struct error *err),
                      void *context, struct error *err);
    /* Each claim with "kind" (enum name_kind), "name" and "holder_id". */
    int (*load_names)(struct backend *backend, int (*visit)(json_t *object, void *context, struct error *err),
                      void *context, struct error *err);

    /* All or nothing (invariant 7): after 0 it survives power loss; after anything else, the old or the new
     * stands. */
    int (*volume_create)(struct backend *backend, const struct volume_record *record, struct error *err);
    int (*volume_save)(struct backend *backend, const struct volume_record *record, struct error *err);
    int (*volume_delete)(struct backend *backend, const char *volume_id, struct error *err);
    /* Give the data size_bytes, durably; the record still says record->size_bytes, and volume_shrink() takes
     * back what was not recorded. */
    int (*volume_grow)(struct backend *backend, const struct volume_record *record, uint64_t size_bytes,
                       struct error *err);
    void (*volume_shrink)(struct backend *backend, const struct volume_record *record);
    int (*snapshot_save)(struct backend *backend, const struct snapshot_record *record, struct error *err);
    /* record->lost, which is why it would have no data, is what a copy_commit_snapshot() of it replaces. */
    int (*snapshot_record_cut)(struct backend *backend, const struct snapshot_record *record,
                               struct error *err);
    int (*snapshot_delete)(struct backend *backend, const char *snapshot_id, struct error *err);
    int (*node_save)(struct backend *backend, const struct node_record *record, struct error *err);
    int (*name_save)(struct backend *backend, enum name_kind kind, const char *name, const char *holder_id,
                     struct error *err);
    int (*name_delete)(struct backend *backend, enum name_kind kind, const char *name, struct error *err);

    int (*image_open)(struct backend *backend, const struct volume_record *record, struct backend_image **ret,
                      struct error *err);
    /* The data of a snapshot, for reading. */
    int (*snapshot_open)(struct backend *backend, const struct snapshot_record *record,
                         struct backend_image **ret, struct error *err);
    void (*image_close)(struct backend_image *image);
    /* Of a volume whose image nobody opens for that: lists ask it of each, also while the disk is busy. */
    int (*volume_used)(struct backend *backend, const char *volume_id, uint64_t *ret_bytes,
                       struct error *err);
    int (*image_used)(struct backend_image *image, uint64_t *ret_bytes, struct error *err);
    int (*image_extent)(struct backend_image *image, uint64_t offset, uint64_t length, bool *ret_mapped,
                        uint64_t *ret_length);
    /* What of its space nothing else shares. */
    int (*image_exclusive)(struct backend_image *image, uint64_t *ret_bytes, struct error *err);
    /* snapshot_extents(), up to limit; base may be NULL. Neither changes meanwhile. */
    int (*image_extents)(struct backend_image *image, struct backend_image *base, uint64_t from,
                         uint64_t limit, extent_visit visit, void *context, struct error *err);
    /* keep_space: as zeroes that are allocated, for a thick volume. */
    int (*image_discard_all)(struct backend_image *image, bool keep_space, struct error *err);
    /* Start io's current step; complete by io->op (a loop operation's own results: bytes, or a negative
     * errno). */
    void (*image_start)(struct backend_image *image, struct loop *loop, struct image_io *io);

    /*
     * A copy, built aside; whole when each byte below size_bytes was shared or passed over as a hole. source
     * outlives it. complete, then commit: as volume_create(). Free it in any case, which discards what was
     * not committed.
     */
    int (*copy_new)(struct backend *backend, const char *id, struct backend_image *source,
                    uint64_t size_bytes, struct backend_copy **ret, struct error *err);
    /* How far from offset sharing takes extents_max extents at most, or that there is nothing to share up to
     * there. 0 or -errno. */
    int (*copy_plan)(struct backend_copy *copy, uint64_t offset, uint64_t limit, unsigned extents_max,
                     uint64_t *ret_end, bool *ret_hole);
    /* One range, atomically against changes of the source in flight. 0, E_NO_SPACE or -errno. */
    int (*copy_share)(struct backend_copy *copy, uint64_t offset, uint64_t end);
    /* All its data is there, and stable; as the volume that it becomes needs it, or a snapshot (NULL). */
    int (*copy_complete)(struct backend_copy *copy, const struct volume_record *record, struct error *err);
    int (*copy_commit_snapshot)(struct backend_copy *copy, const struct snapshot_record *record,
                                uint64_t *ret_used_bytes, struct error *err);
    int (*copy_commit_volume)(struct backend_copy *copy, const struct volume_record *record,
                              struct error *err);
    void (*copy_free)(struct backend_copy *copy);

    /* The data of a volume or snapshot by its id alone, to be read and closed by image_close(). E_NOT_FOUND
     * when it is not there (any more). */
    int (*scrub_open)(struct backend *backend, const char *id, struct backend_image **ret, struct error *err);
    /* What was written next at or after offset, *ret_end 0 for nothing; and its place on the disk when it is
     * shared, else 0. 0 or -errno. */
    int (*scrub_next)(struct backend_image *image, uint64_t offset, uint64_t *ret_start, uint64_t *ret_end,
                      uint64_t *ret_place);
    /* Past every cache, aligned to IMAGE_ALIGN; 0 bytes at the end. 0 or the disk's -errno. */
    int (*scrub_read)(struct backend_image *image, void *buffer, uint64_t offset, size_t length,
                      size_t *ret_length);
    /* What the scrub knows, one object. E_NOT_FOUND when nothing was ever saved. */
    int (*scrub_load)(struct backend *backend, json_t **ret, struct error *err);
    int (*scrub_save)(struct backend *backend, json_t *object, struct error *err);
};

extern const struct backend_ops pool_backend; /* pool/ */
