/*
 * Inside store/pool/ only: the embedded backend, directories of raw files on XFS (ARCHITECTURE, "The store").
 *
 *   pool.json                          uuid, server id, format version: written once, last, by `create`
 *   lock                               flock: one mooring-target at a time
 *   volumes/<id>/{volume.json,data}
 *   nodes/<id>.json
 *   names/<sha256 of the name>.json
 *   trash/                             what is half-made (new.…) or deleted (old.…): emptied at open
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "datapath/store/backend.h"

#define POOL_DATA_FILE "data"
#define POOL_VOLUME_FILE "volume.json"
#define POOL_RECORD_LIMIT_BYTES (1u << 20)

struct backend {
    int dir_fd; /* the pool's directory */
    int lock_fd;
    int volumes_fd, nodes_fd, names_fd, trash_fd;
    char *path; /* for error texts */
    char uuid[37];
    char server_id[ID_SERVER_MAX + 1];
    uint32_t block_size_min;
    uint64_t other_bytes; /* used by what is no volume's data, as of open */
};

/* ---- pool_image.c ---- */
int pool_image_open(struct backend *backend, const struct volume_record *record, struct backend_image **ret,
                    struct error *err);
void pool_image_close(struct backend_image *image);
int pool_image_used(struct backend_image *image, uint64_t *ret_bytes, struct error *err);
int pool_image_extent(struct backend_image *image, uint64_t offset, uint64_t length, bool *ret_mapped,
                      uint64_t *ret_length);
int pool_image_discard_all(struct backend_image *image, struct error *err);
void pool_image_start(struct backend_image *image, struct loop *loop, struct image_io *io);
