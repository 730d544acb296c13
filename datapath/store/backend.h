/*
 * What a kind of pool provides. The store above holds the records, the locks and the decisions; a backend
 * only keeps bytes. Control functions block. `half-made` things are the backend's to sweep in open().
 */
#pragma once

#include "datapath/loop/loop.h"
#include "datapath/store/image.h"
#include "datapath/store/record.h"
#include "datapath/store/store.h"

struct backend;
struct backend_image;

/* What image_start() is asked to start for an image_io. */
enum image_step {
    IMAGE_STEP_DATA,  /* the verb: io->rest at io->offset + io->progress, or the whole range; io->fua a write
                       */
    IMAGE_STEP_PUNCH, /* deallocate the range: zeroing, where IMAGE_STEP_DATA gave -EOPNOTSUPP … */
    IMAGE_STEP_ALLOCATE, /* … and then give it space again */
    IMAGE_STEP_SYNC,     /* all that was answered becomes stable */
};

struct backend_ops {
    const char *name;

    int (*open)(struct backend **ret, const struct store_options *options, struct error *err);
    void (*close)(struct backend *backend);
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
    int (*node_save)(struct backend *backend, const struct node_record *record, struct error *err);
    int (*name_save)(struct backend *backend, enum name_kind kind, const char *name, const char *holder_id,
                     struct error *err);
    int (*name_delete)(struct backend *backend, enum name_kind kind, const char *name, struct error *err);

    int (*image_open)(struct backend *backend, const struct volume_record *record, struct backend_image **ret,
                      struct error *err);
    void (*image_close)(struct backend_image *image);
    int (*image_used)(struct backend_image *image, uint64_t *ret_bytes, struct error *err);
    int (*image_extent)(struct backend_image *image, uint64_t offset, uint64_t length, bool *ret_mapped,
                        uint64_t *ret_length);
    int (*image_discard_all)(struct backend_image *image, struct error *err);
    /* Start io's current step; complete by io->op (a loop operation's own results: bytes, or a negative
     * errno). */
    void (*image_start)(struct backend_image *image, struct loop *loop, struct image_io *io);
};

extern const struct backend_ops pool_backend; /* pool/ */
