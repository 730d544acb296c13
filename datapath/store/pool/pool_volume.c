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
    if (r < 0)
        return pool_errno(err, errno, "allocate the data file of volume", record->id);
    return E_OK; /* stable with the rest of the directory: nothing has been written to it */
}

int pool_volume_record_put(int dir_fd, const struct volume_record *record, pool_record_put put,
                           struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    int r = volume_record_to_json(record, &object);

    if (r < 0)
        return error_errno(err, -r, "cannot write the record of volume %s", record->id);
    return put(dir_fd, POOL_VOLUME_FILE, volume_record_format(record), object, err);
}

static int build(struct backend *backend, const char *aside, const struct volume_record *record,
                 struct error *err)
{
    _cleanup_fd_ int dir_fd = -1;
    int r = pool_aside_make(backend, aside, &dir_fd, err);

    if (r != E_OK)
        return r;
    r = build_data(dir_fd, record, err);
    return r == E_OK ? pool_volume_record_put(dir_fd, record, pool_record_make, err) : r;
}

int pool_volume_create(struct backend *backend, const struct volume_record *record, struct error *err)
{
    char aside[POOL_TRASH_NAME_MAX];
    int r;

    snprintf(aside, sizeof(aside), "new.%s", record->id);
    r = build(backend, aside, record, err);
    if (r == E_OK)
        r = pool_aside_commit(backend, aside, backend->volumes_fd, "volumes", record->id, err);
    if (r != E_OK)
        pool_aside_discard(backend, aside);
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
    if (r < 0 || pool_data_sync(backend, fd, record->id) < 0)
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
    return pool_volume_record_put(dir_fd, record, pool_record_save, err);
}

int pool_volume_save(struct backend *backend, const struct volume_record *record, struct error *err)
{
    return pool_with_ballast(backend, save_once, (void *)(uintptr_t)record, err);
}

int pool_volume_delete(struct backend *backend, const char *volume_id, struct error *err)
{
    return pool_entry_delete(backend, backend->volumes_fd, "volumes", volume_id, err);
}
