/*
 * Volumes on disk: volumes/<id>/{volume.json,data}. Each change is built aside, synced, and committed by one
 * rename (invariant 7). Blocks; one change of one volume at a time (the store's locks), any number of volumes
 * at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"

#define TRASH_NAME_MAX (ID_VOLUME_MAX + 32)

/* ---- load ---- */

struct loading {
    struct backend *backend;
    pool_visit visit;
    pool_unreadable unreadable;
    void *context;
    uint64_t data_bytes; /* allocated by all data files */
};

/* Its size; 0 when it is not there. */
static int look_at_data(struct loading *loading, const char *id, uint64_t *ret_size_bytes, struct error *err)
{
    char path[ID_VOLUME_MAX + sizeof("/" POOL_DATA_FILE)];
    struct stat status;

    snprintf(path, sizeof(path), "%s/" POOL_DATA_FILE, id);
    if (fstatat(loading->backend->volumes_fd, path, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno == ENOENT)
            return error_set(err, E_CORRUPT, "its data file is missing");
        return error_errno(err, errno, "cannot look at its data file");
    }
    if (!S_ISREG(status.st_mode))
        return error_set(err, E_CORRUPT, "its data file is not a file");
    loading->data_bytes += (uint64_t)status.st_blocks * 512;
    *ret_size_bytes = (uint64_t)status.st_size;
    return E_OK;
}

/* The data file must have all its blocks: a shorter one would read as an error, or grow. */
static int check_data(json_t *object, uint64_t found_bytes, struct error *err)
{
    uint64_t size_bytes = 0;
    int r = record_get_uint64(object, "size_bytes", &size_bytes, err);

    if (r == E_OK && found_bytes < size_bytes)
        r = error_set(err, E_CORRUPT, "its data file has %" PRIu64 " bytes, not %" PRIu64, found_bytes,
                      size_bytes);
    return r;
}

static int load_record(struct loading *loading, const char *id, uint64_t found_bytes, struct error *err)
{
    char path[ID_VOLUME_MAX + sizeof("/." POOL_VOLUME_FILE ".tmp")];
    _cleanup_json_ json_t *object = NULL;
    const char *found = NULL;
    int r;

    snprintf(path, sizeof(path), "%s/." POOL_VOLUME_FILE ".tmp", id);
    if (unlinkat(loading->backend->volumes_fd, path, 0) < 0 && errno != ENOENT)
        return pool_errno(err, errno, "remove a half-made", POOL_VOLUME_FILE);
    snprintf(path, sizeof(path), "%s/" POOL_VOLUME_FILE, id);
    r = record_load(loading->backend->volumes_fd, path, VOLUME_RECORD_FORMAT, &object, err);
    if (r == E_NOT_FOUND)
        return error_set(err, E_CORRUPT, "its " POOL_VOLUME_FILE " is missing");
    if (r != E_OK)
        return r;
    r = record_get_string(object, "id", &found, err);
    if (r != E_OK)
        return r;
    if (!str_equal(found, id))
        return error_set(err, E_CORRUPT, "\"id\" is not the directory's name");
    r = check_data(object, found_bytes, err);
    return r == E_OK ? loading->visit(object, loading->context, err) : r;
}

/* What is wrong with one volume keeps none of the others. */
static int load_entry(const char *name, void *context, struct error *err)
{
    struct loading *loading = context;
    _cleanup_error_ struct error why = {0};
    uint64_t size_bytes = 0;
    int r;

    if (!id_volume_valid(name)) {
        log_warning("pool %s: volumes/%s is not a volume of Mooring: left alone", loading->backend->path,
                    name);
        return E_OK;
    }
    r = look_at_data(loading, name, &size_bytes, &why);
    if (r == E_OK)
        r = load_record(loading, name, size_bytes, &why);
    if (r == E_OK)
        return E_OK;
    error_wrap(&why, "pool %s, volume %s", loading->backend->path, name);
    return loading->unreadable(name, size_bytes, error_text(&why), loading->context, err);
}

int pool_load_volumes(struct backend *backend, pool_visit visit, pool_unreadable unreadable, void *context,
                      struct error *err)
{
    struct loading loading = {
        .backend = backend, .visit = visit, .unreadable = unreadable, .context = context};
    struct statvfs status;
    uint64_t used;
    int r;

    r = pool_walk(backend->volumes_fd, load_entry, &loading, err);
    if (r != E_OK)
        return r;
    if (fstatvfs(backend->dir_fd, &status) < 0)
        return error_errno(err, errno, "cannot tell the space of pool %s", backend->path);
    used = (uint64_t)(status.f_blocks - status.f_bfree) * status.f_frsize;
    backend->other_bytes = used > loading.data_bytes ? used - loading.data_bytes : 0;
    return E_OK;
}

/* ---- create ---- */

static int build_data(int dir_fd, const struct volume_record *record, struct error *err)
{
    _cleanup_fd_ int fd = openat(dir_fd, POOL_DATA_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int r;

    if (fd < 0)
        return pool_errno(err, errno, "create the data file of volume", record->id);
    r = pool_set_extent_hint(fd, POOL_EXTENT_HINT_BYTES);
    if (r < 0)
        return pool_errno(err, -r, "set the extent size of volume", record->id);
    if (record->thick)
        r = fallocate(fd, 0, 0, (off_t)record->size_bytes);
    else
        r = ftruncate(fd, (off_t)record->size_bytes);
    if (r < 0 && errno == EFBIG)
        return error_set(err, E_OUT_OF_RANGE, "volume %s is larger than a file of the pool can be",
                         record->id);
    if (r < 0 || fsync(fd) < 0)
        return pool_errno(err, errno, "allocate the data file of volume", record->id);
    return E_OK;
}

static int save_record(int dir_fd, const struct volume_record *record, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    int r = volume_record_to_json(record, &object);

    if (r < 0)
        return error_errno(err, -r, "cannot write the record of volume %s", record->id);
    return record_save(dir_fd, POOL_VOLUME_FILE, volume_record_format(record), object, 0600, err);
}

static int build(struct backend *backend, const char *aside, const struct volume_record *record,
                 struct error *err)
{
    _cleanup_fd_ int dir_fd = -1;
    int r;

    r = pool_tree_remove(backend->trash_fd, aside, err); /* of an attempt that failed before */
    if (r != E_OK)
        return r;
    if (mkdirat(backend->trash_fd, aside, 0700) < 0)
        return pool_errno(err, errno, "make a directory for volume", record->id);
    dir_fd = openat(backend->trash_fd, aside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return pool_errno(err, errno, "open the directory of volume", record->id);
    r = build_data(dir_fd, record, err);
    return r == E_OK ? save_record(dir_fd, record, err) : r; /* which syncs the directory, too */
}

/* Move volumes/<id> to a name of its own in trash/; 0, or the errno that says why not. */
static int move_to_trash(struct backend *backend, const char *volume_id, char ret_name[TRASH_NAME_MAX])
{
    static atomic_uint counter;

    for (;;) {
        snprintf(ret_name, TRASH_NAME_MAX, "old.%s.%u", volume_id, atomic_fetch_add(&counter, 1));
        if (renameat2(backend->volumes_fd, volume_id, backend->trash_fd, ret_name, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EEXIST)
            return errno;
    }
}

/* From trash/<aside> to volumes/<id>, durably. */
static int commit(struct backend *backend, const char *aside, const char *volume_id, struct error *err)
{
    char old[TRASH_NAME_MAX];
    int r;

    r = renameat2(backend->trash_fd, aside, backend->volumes_fd, volume_id, RENAME_NOREPLACE);
    /* The store knows of no such volume: this one's creation failed after its rename, or its deletion before
     * its sync, and undoing that failed too. */
    if (r < 0 && errno == EEXIST && move_to_trash(backend, volume_id, old) == 0)
        r = renameat2(backend->trash_fd, aside, backend->volumes_fd, volume_id, RENAME_NOREPLACE);
    if (r < 0)
        return pool_errno(err, errno, "put volume in its place:", volume_id);
    r = pool_sync(backend->volumes_fd, "volumes", err);
    if (r != E_OK)
        renameat2(backend->volumes_fd, volume_id, backend->trash_fd, aside, RENAME_NOREPLACE);
    return r;
}

static void discard(struct backend *backend, const char *name)
{
    _cleanup_error_ struct error problem = {0};

    if (pool_tree_remove(backend->trash_fd, name, &problem) != E_OK)
        log_warning("pool %s: trash/%s stays until the pool is opened again: %s", backend->path, name,
                    error_text(&problem));
}

int pool_volume_create(struct backend *backend, const struct volume_record *record, struct error *err)
{
    char aside[TRASH_NAME_MAX];
    int r;

    snprintf(aside, sizeof(aside), "new.%s", record->id);
    r = build(backend, aside, record, err);
    if (r == E_OK)
        r = commit(backend, aside, record->id, err);
    if (r != E_OK)
        discard(backend, aside);
    return r;
}

/* ---- change and delete ---- */

static int open_data(struct backend *backend, const char *volume_id, int *ret_fd, struct error *err)
{
    char path[ID_VOLUME_MAX + sizeof("/" POOL_DATA_FILE)];

    snprintf(path, sizeof(path), "%s/" POOL_DATA_FILE, volume_id);
    *ret_fd = openat(backend->volumes_fd, path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return *ret_fd < 0 ? pool_errno(err, errno, "open the data file of volume", volume_id) : E_OK;
}

int pool_volume_grow(struct backend *backend, const struct volume_record *record, uint64_t size_bytes,
                     struct error *err)
{
    off_t from = (off_t)record->size_bytes, size = (off_t)size_bytes;
    _cleanup_fd_ int fd = -1;
    int r;

    r = open_data(backend, record->id, &fd, err);
    if (r != E_OK)
        return r;
    /* What an attempt that was cut off left above the recorded size is a hole, or was never written. */
    r = record->thick ? fallocate(fd, 0, from, size - from) : ftruncate(fd, size);
    if (r < 0 && errno == EFBIG)
        return error_set(err, E_OUT_OF_RANGE, "volume %s would be larger than a file of the pool can be",
                         record->id);
    if (r < 0 || fsync(fd) < 0)
        return pool_errno(err, errno, "grow the data file of volume", record->id);
    return E_OK;
}

void pool_volume_shrink(struct backend *backend, const struct volume_record *record)
{
    _cleanup_error_ struct error problem = {0};
    _cleanup_fd_ int fd = -1;

    if (open_data(backend, record->id, &fd, &problem) == E_OK && ftruncate(fd, (off_t)record->size_bytes) < 0)
        pool_errno(&problem, errno, "shrink the data file of volume", record->id);
    if (problem.code)
        log_warning("pool %s: volume %s keeps more space than its size needs: %s", backend->path, record->id,
                    error_text(&problem));
}

static int save_once(struct backend *backend, void *context, struct error *err)
{
    const struct volume_record *record = context;
    _cleanup_fd_ int dir_fd = openat(backend->volumes_fd, record->id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir_fd < 0)
        return pool_errno(err, errno, "open the directory of volume", record->id);
    return save_record(dir_fd, record, err);
}

int pool_volume_save(struct backend *backend, const struct volume_record *record, struct error *err)
{
    return pool_with_ballast(backend, save_once, (void *)(uintptr_t)record, err);
}

static int delete_once(struct backend *backend, void *context, struct error *err)
{
    const char *volume_id = context;
    char old[TRASH_NAME_MAX];
    int errnum, r;

    errnum = move_to_trash(backend, volume_id, old);
    if (errnum != 0 && errnum != ENOENT) /* ENOENT: moved by an attempt whose sync failed */
        return pool_errno(err, errnum, "delete volume", volume_id);
    r = pool_sync(backend->volumes_fd, "volumes", err);
    if (errnum != 0)
        return r;
    if (r != E_OK) {
        renameat2(backend->trash_fd, old, backend->volumes_fd, volume_id, RENAME_NOREPLACE);
        return r;
    }
    discard(backend, old); /* the volume is gone by now, whatever becomes of its remains */
    return E_OK;
}

int pool_volume_delete(struct backend *backend, const char *volume_id, struct error *err)
{
    return pool_with_ballast(backend, delete_once, (void *)(uintptr_t)volume_id, err);
}
