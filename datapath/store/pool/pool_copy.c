/*
 * A copy of a data file, built aside in trash/new.<id>: ranges are shared by FICLONERANGE, then the file and
 * its record are synced and one rename makes it a snapshot or a volume. Blocks; one thread a copy (copy.c).
 *
 * Syncing the copy makes what it shares stable too, although the source was never synced: the blocks were
 * written before they could be shared, and the sync of the copy, whose extents are new, flushes the disk's
 * cache before its log.
 *
 * What is written over shared blocks goes to pieces of the extent-size hint as well (docs/performance.md).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"

struct backend_copy {
    struct backend *backend;
    int source_fd; /* the source image's */
    int dir_fd, fd;
    uint64_t size_bytes;
    uint64_t block_bytes; /* of the file system */
    char id[ID_SNAPSHOT_MAX + 1];
    char aside[POOL_TRASH_NAME_MAX];
    bool committed;
};

static int make_data(struct backend_copy *copy, const char *id, struct error *err)
{
    struct statvfs status;
    int r;

    copy->fd = openat(copy->dir_fd, POOL_DATA_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (copy->fd < 0)
        return pool_errno(err, errno, "create the data file of", id);
    if (fstatvfs(copy->fd, &status) < 0)
        return pool_errno(err, errno, "tell the blocks of", id);
    copy->block_bytes = status.f_bsize;
    r = pool_set_extent_hint(copy->fd, POOL_EXTENT_HINT_BYTES);
    if (r < 0)
        return pool_errno(err, -r, "set the extent size of", id);
    if (ftruncate(copy->fd, (off_t)copy->size_bytes) < 0)
        return pool_errno(err, errno, "give its size to", id);
    return E_OK;
}

int pool_copy_new(struct backend *backend, const char *id, struct backend_image *source, uint64_t size_bytes,
                  struct backend_copy **ret, struct error *err)
{
    struct backend_copy *copy = calloc(1, sizeof(*copy));
    int r;

    if (!copy)
        return error_errno(err, ENOMEM, "cannot make %s", id);
    *copy = (struct backend_copy){.backend = backend, .source_fd = source->fd, .size_bytes = size_bytes};
    copy->dir_fd = copy->fd = -1;
    str_copy(copy->id, sizeof(copy->id), id);
    snprintf(copy->aside, sizeof(copy->aside), "new.%s", id);
    r = pool_aside_make(backend, copy->aside, &copy->dir_fd, err);
    if (r == E_OK)
        r = make_data(copy, id, err);
    if (r != E_OK) {
        pool_copy_free(copy);
        return r;
    }
    *ret = copy;
    return E_OK;
}

void pool_copy_free(struct backend_copy *copy)
{
    fd_close(copy->fd);
    fd_close(copy->dir_fd);
    if (!copy->committed)
        pool_aside_discard(copy->backend, copy->aside);
    free(copy);
}

int pool_copy_plan(struct backend_copy *copy, uint64_t offset, uint64_t limit, unsigned extents_max,
                   uint64_t *ret_end, bool *ret_hole)
{
    unsigned found = 0;
    uint64_t end = limit;
    int r = pool_extents_end(copy->source_fd, offset, limit, extents_max, &end, &found);

    if (r < 0)
        return r;
    *ret_hole = found == 0;
    *ret_end = found < extents_max ? limit : end;
    return 0;
}

/*
 * A length that is no multiple of the file system's block is allowed at the end of the source only. The
 * source may have grown since the cut: then the end is rounded up, and the copy cut to its size later.
 */
int pool_copy_share(struct backend_copy *copy, uint64_t offset, uint64_t end)
{
    struct file_clone_range range = {
        .src_fd = copy->source_fd, .src_offset = offset, .src_length = end - offset, .dest_offset = offset};

    for (int tries = 0; ioctl(copy->fd, FICLONERANGE, &range) < 0; tries++) {
        if (errno == EINVAL && tries == 0 && end % copy->block_bytes != 0)
            range.src_length = ROUND_UP(end, copy->block_bytes) - offset;
        else if (errno != EINTR)
            return errno == ENOSPC || errno == EDQUOT ? E_NO_SPACE : -errno;
    }
    return 0;
}

int pool_copy_complete(struct backend_copy *copy, const struct volume_record *record, struct error *err)
{
    uint64_t size_bytes = record ? record->size_bytes : copy->size_bytes;

    /* First to the source's size: what was shared beyond it is not to be seen when it grows. */
    if (ftruncate(copy->fd, (off_t)copy->size_bytes) < 0 ||
        (size_bytes > copy->size_bytes && ftruncate(copy->fd, (off_t)size_bytes) < 0))
        return pool_errno(err, errno, "give its size to", copy->id);
    /* The holes get space. What is shared has its own, and the pool has promised room to replace it. */
    if (record && record->thick && fallocate(copy->fd, 0, 0, (off_t)size_bytes) < 0)
        return pool_errno(err, errno, "allocate the data file of", copy->id);
    if (pool_data_sync(copy->backend, copy->fd, copy->id) < 0)
        return pool_errno(err, errno, "sync the data file of", copy->id);
    return E_OK;
}

int pool_copy_commit_snapshot(struct backend_copy *copy, const struct snapshot_record *record,
                              uint64_t *ret_used_bytes, struct error *err)
{
    struct stat status;
    int r = E_OK;

    if (fstat(copy->fd, &status) < 0)
        r = pool_errno(err, errno, "tell the space used by", record->id);
    if (r == E_OK)
        r = pool_snapshot_record_put(copy->dir_fd, record, pool_record_make, err);
    if (r == E_OK)
        r = pool_aside_commit(copy->backend, copy->aside, copy->backend->snapshots_fd, "snapshots",
                              record->id, err);
    if (r != E_OK)
        return r;
    copy->committed = true;
    *ret_used_bytes = (uint64_t)status.st_blocks * 512;
    return E_OK;
}

int pool_copy_commit_volume(struct backend_copy *copy, const struct volume_record *record, struct error *err)
{
    int r = pool_volume_record_put(copy->dir_fd, record, pool_record_make, err);

    if (r == E_OK)
        r = pool_aside_commit(copy->backend, copy->aside, copy->backend->volumes_fd, "volumes", record->id,
                              err);
    copy->committed = r == E_OK;
    return r;
}
