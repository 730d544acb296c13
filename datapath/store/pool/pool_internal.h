/*
 * Inside store/pool/ only: the embedded backend, directories of raw files on XFS (ARCHITECTURE, "The store").
 *
 *   pool.json                          uuid, server id, format version: written once, last, by `create`
 *   lock                               flock: one mooring-target at a time
 *   host.json                          which host serves it, and whether that closed it (pool_host.c)
 *   scrub.json                         what was read whole and when, and what could not be (pool_scrub.c)
 *   volumes/<id>/{volume.json,data}
 *   snapshots/<id>/{snapshot.json,data}  without data: only its cut is recorded
 *   nodes/<id>.json
 *   names/[snapshot-|group-]<sha256 of the name>.json
 *   ballast                            space for records on a full pool (pool_ballast.c)
 *   trash/                             what is half-made (new.…) or deleted (old.…): emptied at open
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "datapath/store/backend.h"

#define POOL_FILE "pool.json"
#define POOL_LOCK_FILE "lock"
#define POOL_DATA_FILE "data"
#define POOL_VOLUME_FILE "volume.json"
#define POOL_SNAPSHOT_FILE "snapshot.json"
#define POOL_TRASH_NAME_MAX (ID_SNAPSHOT_MAX + 32)
#define POOL_HOST_MAX 64

/* XFS allocates a volume's file in pieces of this size, so that small random writes leave few extents. */
#define POOL_EXTENT_HINT_BYTES (1u << 20)

struct backend {
    int dir_fd; /* the pool's directory */
    int lock_fd;
    int volumes_fd, snapshots_fd, nodes_fd, names_fd, trash_fd;
    char *path; /* for error texts */
    char uuid[37];
    char server_id[ID_SERVER_MAX + 1];
    uint32_t block_size_min;
    const struct backend_watch *watch; /* NULL: none */
    uint64_t data_bytes;  /* allocated by all data files, as of open; what is shared counts each time */
    uint64_t other_bytes; /* used by what is no volume's data, as of open; the ballast among it */

    bool host_entered;
    int ballast_fd; /* -1: there is none */
    pthread_mutex_t ballast_lock;
    int64_t ballast_bytes;     /* locked: that it holds */
    atomic_bool ballast_short; /* less than it ought to hold: commits take turns, and fill it again */
};

/* ---- pool_ballast.c ---- */

/* Make or fill it, as far as there is space. */
void pool_ballast_open(struct backend *backend);

/* commit(), and again with space from the ballast as long as it is E_NO_SPACE and there is any left. */
int pool_with_ballast(struct backend *backend,
                      int (*commit)(struct backend *backend, void *context, struct error *err), void *context,
                      struct error *err);

/* ---- pool_lock.c ---- */

/* What pool.json in dir_fd says. E_PRECONDITION when there is none; E_CORRUPT. */
int pool_identify(int dir_fd, const char *path, char ret_uuid[37], char ret_server_id[ID_SERVER_MAX + 1],
                  struct error *err);

/* The pool's lock, taken: a descriptor that is closed on exec. E_BUSY while another holds it. */
int pool_lock(int dir_fd, const char *path, int *ret_fd, struct error *err);

/* ---- pool_host.c ---- */

/* E_PRECONDITION, naming it, while another host has not closed the pool. Changes nothing. */
int pool_host_check(const struct backend *backend, struct error *err);
/* This host serves it from here on; and has closed it. */
int pool_host_enter(struct backend *backend, struct error *err);
void pool_host_leave(struct backend *backend);

/* For mooring-pool: who serves it or did last (this host when nobody ever did), and whether he has closed it.
 */
int pool_host_look(int dir_fd, char ret_host[POOL_HOST_MAX + 1], bool *ret_open, bool *ret_ours,
                   struct error *err);
/* As if the last host had closed it. Under the pool's lock. */
int pool_host_take(int dir_fd, struct error *err);

/* ---- pool_volume.c, pool_record.c: backend_ops, see backend.h ---- */
typedef int (*pool_visit)(json_t *object, void *context, struct error *err);

typedef int (*pool_unreadable)(const char *volume_id, uint64_t size_bytes, const char *why, void *context,
                               struct error *err);

/* pool_load.c */
int pool_load_volumes(struct backend *backend, pool_visit visit, pool_unreadable unreadable, void *context,
                      struct error *err);
int pool_load_snapshots(struct backend *backend, pool_visit visit, pool_unreadable unreadable, void *context,
                        struct error *err);

int pool_volume_create(struct backend *backend, const struct volume_record *record, struct error *err);
int pool_volume_save(struct backend *backend, const struct volume_record *record, struct error *err);
int pool_volume_delete(struct backend *backend, const char *volume_id, struct error *err);
int pool_volume_grow(struct backend *backend, const struct volume_record *record, uint64_t size_bytes,
                     struct error *err);
void pool_volume_shrink(struct backend *backend, const struct volume_record *record);
int pool_load_nodes(struct backend *backend, pool_visit visit, void *context, struct error *err);
int pool_load_names(struct backend *backend, pool_visit visit, void *context, struct error *err);
int pool_node_save(struct backend *backend, const struct node_record *record, struct error *err);
int pool_name_save(struct backend *backend, enum name_kind kind, const char *name, const char *holder_id,
                   struct error *err);
int pool_name_delete(struct backend *backend, enum name_kind kind, const char *name, struct error *err);

/* ---- pool_commit.c: directories that come and go by one rename ---- */

/* trash/<aside>, empty, which nobody else has. */
int pool_aside_make(struct backend *backend, const char *aside, int *ret_dir_fd, struct error *err);

/* From trash/<aside> to `what`/<id>, durably, in place of what is there; or it is in trash/ again, and that
 * is in its place. */
int pool_aside_commit(struct backend *backend, const char *aside, int to_fd, const char *what, const char *id,
                      struct error *err);

/* Remove trash/<name>; what cannot be removed is swept at the next opening. */
void pool_aside_discard(struct backend *backend, const char *name);

/* `what`/<id> is gone, durably, or stands. 0 also when it is not there. */
int pool_entry_delete(struct backend *backend, int from_fd, const char *what, const char *id,
                      struct error *err);

/* ---- pool_file.c ---- */

typedef int (*pool_record_put)(int dir_fd, const char *name, int format, json_t *object, struct error *err);

/* A record in a directory that is built aside: not stable yet, but with anything that comes after it. */
int pool_record_make(int dir_fd, const char *name, int format, json_t *object, struct error *err);

/* Replace dir_fd/name, all or nothing; stable when it returns 0. One writer at a time for a name. */
int pool_record_save(int dir_fd, const char *name, int format, json_t *object, struct error *err);

/* ---- pool_volume.c, pool_snapshot.c ---- */
int pool_volume_record_put(int dir_fd, const struct volume_record *record, pool_record_put put,
                           struct error *err);
int pool_snapshot_record_put(int dir_fd, const struct snapshot_record *record, pool_record_put put,
                             struct error *err);
int pool_snapshot_save(struct backend *backend, const struct snapshot_record *record, struct error *err);
int pool_snapshot_record_cut(struct backend *backend, const struct snapshot_record *record,
                             struct error *err);
int pool_snapshot_delete(struct backend *backend, const char *snapshot_id, struct error *err);

/* ---- pool_copy.c ---- */
int pool_copy_new(struct backend *backend, const char *id, struct backend_image *source, uint64_t size_bytes,
                  struct backend_copy **ret, struct error *err);
int pool_copy_plan(struct backend_copy *copy, uint64_t offset, uint64_t limit, unsigned extents_max,
                   uint64_t *ret_end, bool *ret_hole);
int pool_copy_share(struct backend_copy *copy, uint64_t offset, uint64_t end);
int pool_copy_complete(struct backend_copy *copy, const struct volume_record *record, struct error *err);
int pool_copy_commit_snapshot(struct backend_copy *copy, const struct snapshot_record *record,
                              uint64_t *ret_used_bytes, struct error *err);
int pool_copy_commit_volume(struct backend_copy *copy, const struct volume_record *record, struct error *err);
void pool_copy_free(struct backend_copy *copy);

/* ---- pool_extents.c ---- */

/* Of the extents of [offset, limit) that were written: the end of the last of at most count, and how many
 * there are. 0 or -errno. */
int pool_extents_end(int fd, uint64_t offset, uint64_t limit, unsigned count, uint64_t *ret_end,
                     unsigned *ret_found);
int pool_image_exclusive(struct backend_image *image, uint64_t *ret_bytes, struct error *err);
int pool_scrub_next(struct backend_image *image, uint64_t offset, uint64_t *ret_start, uint64_t *ret_end,
                    uint64_t *ret_place);
int pool_image_extents(struct backend_image *image, struct backend_image *base, uint64_t from, uint64_t limit,
                       extent_visit visit, void *context, struct error *err);

/* ---- pool_scrub.c ---- */
int pool_scrub_open(struct backend *backend, const char *id, struct backend_image **ret, struct error *err);
int pool_scrub_read(struct backend_image *image, void *buffer, uint64_t offset, size_t length,
                    size_t *ret_length);
int pool_scrub_load(struct backend *backend, json_t **ret, struct error *err);
int pool_scrub_save(struct backend *backend, json_t *object, struct error *err);

/* ---- pool_tree.c ---- */

/* Call visit with the name of each entry of dir_fd but "." and ".."; its non-zero return ends the walk. */
int pool_walk(int dir_fd, int (*visit)(const char *name, void *context, struct error *err), void *context,
              struct error *err);

/* Remove dir_fd/name with all that is in it. 0 also when it is not there. Not synced: what a crash brings
 * back is swept. */
int pool_tree_remove(int dir_fd, const char *name, struct error *err);

/* fsync a directory. */
int pool_sync(int dir_fd, const char *what, struct error *err);

/* A failed system call in words; a full file system is E_NO_SPACE, all else the errno. */
int pool_errno(struct error *err, int errnum, const char *what, const char *name);

/* ---- pool_xfs.c ---- */

/* E_PRECONDITION, saying what was found, unless fd is on XFS with reflink. */
int pool_check_xfs(int fd, const char *path, struct error *err);

/* The finest direct I/O on fd's file system, in bytes. */
int pool_direct_granularity(int fd, uint32_t *ret_bytes, struct error *err);

/* Have XFS allocate the empty file in pieces of size_bytes. Returns -errno. */
int pool_set_extent_hint(int fd, uint32_t size_bytes);

/*
 * Open the file behind fd, which is in dir_fd's directory, once more, such that writes leave its times alone.
 * To move them is a transaction, for which an asynchronous write goes to a worker thread, and all that come
 * meanwhile as well. The new descriptor, or -errno: it takes CAP_SYS_ADMIN.
 */
int pool_open_timeless(int dir_fd, int fd);

/* ---- pool_image.c ---- */

struct backend_image {
    struct backend *backend;
    int fd;
    int timeless_fd;           /* the same file, whose times writes through it leave alone; < 0: none */
    _Atomic uint64_t moved_ns; /* when a write moved them last */
    char id[ID_SNAPSHOT_MAX + 1];
};

int pool_snapshot_open(struct backend *backend, const struct snapshot_record *record,
                       struct backend_image **ret, struct error *err);
int pool_image_open(struct backend *backend, const struct volume_record *record, struct backend_image **ret,
                    struct error *err);
void pool_image_close(struct backend_image *image);
/* fsync of the data of id, of whose failure the watch is told. 0, or -1 with errno. */
int pool_data_sync(const struct backend *backend, int fd, const char *id);
int pool_volume_used(struct backend *backend, const char *volume_id, uint64_t *ret_bytes, struct error *err);
int pool_image_used(struct backend_image *image, uint64_t *ret_bytes, struct error *err);
int pool_image_extent(struct backend_image *image, uint64_t offset, uint64_t length, bool *ret_mapped,
                      uint64_t *ret_length);
int pool_image_discard_all(struct backend_image *image, bool keep_space, struct error *err);
void pool_image_start(struct backend_image *image, struct loop *loop, struct image_io *io);
