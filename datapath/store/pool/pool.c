/*
 * The embedded backend: opening a pool, its space, and the table of what it offers. The backend object holds
 * descriptors only and never changes once open: any thread. Opening and closing are the store's.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"

static void pool_close(struct backend *backend)
{
    if (!backend)
        return;
    pool_host_leave(backend);
    fd_close(backend->ballast_fd);
    fd_close(backend->trash_fd);
    fd_close(backend->names_fd);
    fd_close(backend->nodes_fd);
    fd_close(backend->snapshots_fd);
    fd_close(backend->volumes_fd);
    fd_close(backend->dir_fd);
    fd_close(backend->lock_fd); /* last: from here on another mooring-target may come */
    pthread_mutex_destroy(&backend->ballast_lock);
    free(backend->path);
    free(backend);
}

static struct backend *backend_new(const char *path)
{
    struct backend *backend = calloc(1, sizeof(*backend));

    if (!backend)
        return NULL;
    backend->dir_fd = backend->lock_fd = backend->ballast_fd = -1;
    pthread_mutex_init(&backend->ballast_lock, NULL);
    backend->snapshots_fd = -1;
    backend->volumes_fd = backend->nodes_fd = backend->names_fd = backend->trash_fd = -1;
    backend->path = strdup(path);
    if (!backend->path) {
        pool_close(backend);
        return NULL;
    }
    return backend;
}

static int check_identity(struct backend *backend, const struct store_options *options, struct error *err)
{
    int r;

    r = pool_identify(backend->dir_fd, backend->path, backend->uuid, backend->server_id, err);
    if (r != E_OK)
        return r;
    if (!str_equal(backend->uuid, options->pool_uuid))
        return error_set(err, E_PRECONDITION,
                         "%s holds pool %s, not %s, which the configuration names: is another file system "
                         "mounted there?",
                         backend->path, backend->uuid, options->pool_uuid);
    if (!str_equal(backend->server_id, options->server_id))
        return error_set(err, E_PRECONDITION, "the pool at %s is of server %s, not %s", backend->path,
                         backend->server_id, options->server_id);
    return E_OK;
}

static int open_dir(struct backend *backend, const char *name, int *ret_fd, struct error *err)
{
    int fd = openat(backend->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
        return error_set(err, E_CORRUPT, "the pool %s has no directory \"%s\"", backend->path, name);
    if (fd < 0)
        return error_errno(err, errno, "cannot open %s/%s", backend->path, name);
    *ret_fd = fd;
    return E_OK;
}

/* Nothing in trash/ is anyone's: half-made, or deleted. What cannot be removed costs space, not the start. */
static int sweep_entry(const char *name, void *context, struct error *err)
{
    struct backend *backend = context;
    _cleanup_error_ struct error problem = {0};

    (void)err;
    if (pool_tree_remove(backend->trash_fd, name, &problem) != E_OK)
        log_warning("pool %s: trash/%s stays: %s", backend->path, name, error_text(&problem));
    else
        log_info("pool %s: removed trash/%s", backend->path, name);
    return E_OK;
}

/* A pool of a build that knew no snapshots. */
static int make_missing(struct backend *backend, const char *name, struct error *err)
{
    if (mkdirat(backend->dir_fd, name, 0700) == 0)
        return pool_sync(backend->dir_fd, backend->path, err);
    return errno == EEXIST ? E_OK : pool_errno(err, errno, "make a directory in", backend->path);
}

/* Of the pool's own records. */
static int sweep_half_made(const struct backend *backend, struct error *err)
{
    static const char *const names[] = {"." POOL_FILE ".tmp", ".host.json.tmp", ".scrub.json.tmp"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (unlinkat(backend->dir_fd, names[i], 0) < 0 && errno != ENOENT)
            return pool_errno(err, errno, "remove a half-made file of", backend->path);
    }
    return E_OK;
}

static int open_contents(struct backend *backend, struct error *err)
{
    int r;

    if ((r = make_missing(backend, "snapshots", err)) != E_OK ||
        (r = open_dir(backend, "volumes", &backend->volumes_fd, err)) != E_OK ||
        (r = open_dir(backend, "snapshots", &backend->snapshots_fd, err)) != E_OK ||
        (r = open_dir(backend, "nodes", &backend->nodes_fd, err)) != E_OK ||
        (r = open_dir(backend, "names", &backend->names_fd, err)) != E_OK ||
        (r = open_dir(backend, "trash", &backend->trash_fd, err)) != E_OK)
        return r;
    r = pool_walk(backend->trash_fd, sweep_entry, backend, err);
    if (r == E_OK)
        r = sweep_half_made(backend, err);
    if (r != E_OK)
        return r;
    pool_ballast_open(backend);
    return pool_direct_granularity(backend->lock_fd, &backend->block_size_min, err);
}

static int pool_open(struct backend **ret, const struct store_options *options, struct error *err)
{
    struct backend *backend = backend_new(options->path);
    int r;

    if (!backend)
        return error_errno(err, ENOMEM, "cannot open the pool %s", options->path);
    backend->dir_fd = open(options->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (backend->dir_fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        r = error_set(err, E_PRECONDITION,
                      "there is no directory %s: `mooring pool create` makes a pool, or its file system has "
                      "to be mounted first",
                      options->path);
    else if (backend->dir_fd < 0)
        r = error_errno(err, errno, "cannot open the pool %s", options->path);
    else
        r = check_identity(backend, options, err);
    if (r == E_OK)
        r = pool_check_xfs(backend->dir_fd, backend->path, err);
    if (r == E_OK)
        r = pool_lock(backend->dir_fd, backend->path, &backend->lock_fd, err);
    if (r == E_OK)
        r = pool_host_check(backend, err);
    if (r == E_OK)
        r = open_contents(backend, err);
    if (r == E_OK)
        r = pool_host_enter(backend, err);
    if (r != E_OK) {
        pool_close(backend);
        return r;
    }
    *ret = backend;
    return E_OK;
}

static void pool_watch(struct backend *backend, const struct backend_watch *watch)
{
    backend->watch = watch;
}

static int pool_lock_fd(const struct backend *backend)
{
    return backend->lock_fd;
}

static const char *pool_uuid(const struct backend *backend)
{
    return backend->uuid;
}

static uint32_t pool_block_size_min(const struct backend *backend)
{
    return backend->block_size_min;
}

static int pool_space(struct backend *backend, uint64_t *ret_total, uint64_t *ret_used, uint64_t *ret_other,
                      struct error *err)
{
    struct statvfs status;

    if (fstatvfs(backend->dir_fd, &status) < 0)
        return error_errno(err, errno, "cannot tell the space of pool %s", backend->path);
    *ret_total = (uint64_t)status.f_blocks * status.f_frsize;
    *ret_used = (uint64_t)(status.f_blocks - status.f_bfree) * status.f_frsize;
    *ret_other = backend->other_bytes;
    return E_OK;
}

const struct backend_ops pool_backend = {
    .name = "pool",
    .open = pool_open,
    .close = pool_close,
    .watch = pool_watch,
    .lock_fd = pool_lock_fd,
    .uuid = pool_uuid,
    .block_size_min = pool_block_size_min,
    .space = pool_space,
    .load_volumes = pool_load_volumes,
    .load_snapshots = pool_load_snapshots,
    .load_nodes = pool_load_nodes,
    .load_names = pool_load_names,
    .volume_create = pool_volume_create,
    .volume_save = pool_volume_save,
    .volume_delete = pool_volume_delete,
    .volume_grow = pool_volume_grow,
    .volume_shrink = pool_volume_shrink,
    .snapshot_save = pool_snapshot_save,
    .snapshot_record_cut = pool_snapshot_record_cut,
    .snapshot_delete = pool_snapshot_delete,
    .node_save = pool_node_save,
    .name_save = pool_name_save,
    .name_delete = pool_name_delete,
    .image_open = pool_image_open,
    .snapshot_open = pool_snapshot_open,
    .image_close = pool_image_close,
    .volume_used = pool_volume_used,
    .image_used = pool_image_used,
    .image_extent = pool_image_extent,
    .image_exclusive = pool_image_exclusive,
    .image_extents = pool_image_extents,
    .image_discard_all = pool_image_discard_all,
    .image_start = pool_image_start,
    .copy_new = pool_copy_new,
    .copy_plan = pool_copy_plan,
    .copy_share = pool_copy_share,
    .copy_complete = pool_copy_complete,
    .copy_commit_snapshot = pool_copy_commit_snapshot,
    .copy_commit_volume = pool_copy_commit_volume,
    .copy_free = pool_copy_free,
    .scrub_open = pool_scrub_open,
    .scrub_next = pool_scrub_next,
    .scrub_read = pool_scrub_read,
    .scrub_load = pool_scrub_load,
    .scrub_save = pool_scrub_save,
};
