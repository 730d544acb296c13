/*
 * A volume's data file: raw, sparse, direct I/O. Opening, space and extents block (any thread but a loop's);
 * pool_image_start() is called by image.c on the loop that runs the command. The guards are image.c's.
 *
 * The extent-size hint is set when pool_volume.c makes the file. 1 MiB: sysbench on MariaDB leaves 215
 * extents then, 379 with 256 KiB, 634 with 64 KiB, 1338 without (tests/bench/extents; docs/performance.md has
 * all figures), and random 4 KiB writes at most one for each MiB: a million for 1 TiB, which XFS holds in
 * some 16 MiB of memory. Volumes have no copy-on-write hint: XFS goes by the larger of the two, and one of
 * 4 MiB left 705 extents after a snapshot and another run, where there were 728, 752 and 768 without.
 */
#include "datapath/store/pool/pool_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"

#define TIMES_MOVE_NS UINT64_C(1000000000)

static int open_image(struct backend *backend, int entries_fd, const char *id, uint64_t size_bytes, int mode,
                      struct backend_image **ret, struct error *err)
{
    _cleanup_fd_ int dir_fd = -1, fd = -1;
    struct backend_image *image;
    struct stat stat;

    dir_fd = openat(entries_fd, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir_fd < 0)
        return error_errno(err, errno, "%s: its directory in %s", id, backend->path);
    fd = openat(dir_fd, POOL_DATA_FILE, mode | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat) < 0)
        return error_errno(err, errno, "%s: its data file in %s", id, backend->path);
    if (!S_ISREG(stat.st_mode) || (uint64_t)stat.st_size < size_bytes)
        return error_set(err, E_CORRUPT, "%s: its data file in %s has %jd bytes where it must have %ju", id,
                         backend->path, (intmax_t)stat.st_size, (uintmax_t)size_bytes);
    image = calloc(1, sizeof(*image));
    if (!image)
        return error_errno(err, ENOMEM, "%s: image", id);
    image->timeless_fd = mode == O_RDWR ? pool_open_timeless(dir_fd, fd) : -1;
    image->backend = backend;
    image->fd = TAKE_FD(fd);
    str_copy(image->id, sizeof(image->id), id);
    *ret = image;
    return 0;
}

int pool_image_open(struct backend *backend, const struct volume_record *record, struct backend_image **ret,
                    struct error *err)
{
    return open_image(backend, backend->volumes_fd, record->id, record->size_bytes, O_RDWR, ret, err);
}

int pool_snapshot_open(struct backend *backend, const struct snapshot_record *record,
                       struct backend_image **ret, struct error *err)
{
    return open_image(backend, backend->snapshots_fd, record->id, record->size_bytes, O_RDONLY, ret, err);
}

void pool_image_close(struct backend_image *image)
{
    if (!image)
        return;
    if (image->timeless_fd >= 0)
        close(image->timeless_fd);
    close(image->fd);
    free(image);
}

int pool_volume_used(struct backend *backend, const char *volume_id, uint64_t *ret_bytes, struct error *err)
{
    char path[ID_VOLUME_MAX + sizeof("/" POOL_DATA_FILE)];
    struct stat stat;

    snprintf(path, sizeof(path), "%s/%s", volume_id, POOL_DATA_FILE);
    if (fstatat(backend->volumes_fd, path, &stat, AT_SYMLINK_NOFOLLOW) < 0)
        return error_errno(err, errno, "volume %s: space used", volume_id);
    *ret_bytes = (uint64_t)stat.st_blocks * 512;
    return 0;
}

int pool_image_used(struct backend_image *image, uint64_t *ret_bytes, struct error *err)
{
    struct stat stat;

    if (fstat(image->fd, &stat) < 0)
        return error_errno(err, errno, "volume %s: space used", image->id);
    *ret_bytes = (uint64_t)stat.st_blocks * 512;
    return 0;
}

/* The end of what begins at offset: the next data (whence SEEK_DATA) or hole, at most limit. -errno. */
static int pool_image_seek(struct backend_image *image, uint64_t offset, uint64_t limit, int whence,
                           uint64_t *ret_offset)
{
    off_t found = lseek(image->fd, (off_t)offset, whence);

    if (found < 0 && errno != ENXIO)
        return -errno;
    *ret_offset = found < 0 ? limit : MIN((uint64_t)found, limit);
    return 0;
}

/* Space that was allocated but never written reads as zeroes, and counts as not mapped here. */
int pool_image_extent(struct backend_image *image, uint64_t offset, uint64_t length, bool *ret_mapped,
                      uint64_t *ret_length)
{
    uint64_t limit = offset + length, data = limit, hole = limit;
    int rc = pool_image_seek(image, offset, limit, SEEK_DATA, &data);

    if (rc)
        return rc;
    if (data > offset) {
        *ret_mapped = false;
        *ret_length = data - offset;
        return 0;
    }
    rc = pool_image_seek(image, offset, limit, SEEK_HOLE, &hole);
    if (rc)
        return rc;
    *ret_mapped = true;
    *ret_length = hole - offset;
    return 0;
}

int pool_data_sync(const struct backend *backend, int fd, const char *id)
{
    const struct backend_watch *watch = backend->watch;
    uint64_t begun = watch ? watch->begin(watch->context) : 0;
    int r = fsync(fd), errnum = errno;

    if (r < 0 && watch)
        watch->failed(watch->context, begun, id);
    errno = errnum;
    return r;
}

int pool_image_discard_all(struct backend_image *image, bool keep_space, struct error *err)
{
    int mode = FALLOC_FL_KEEP_SIZE | (keep_space ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
    struct stat stat;

    if (fstat(image->fd, &stat) < 0 || fallocate(image->fd, mode, 0, stat.st_size) < 0 ||
        pool_data_sync(image->backend, image->fd, image->id) < 0)
        return pool_errno(err, errno, "discard volume", image->id);
    return 0;
}

/* One write a second moves the file's times, for whoever copies files by them. */
static int write_fd(struct backend_image *image, struct loop *loop)
{
    uint64_t now_ns = loop_now_ns(loop);

    if (image->timeless_fd < 0)
        return image->fd;
    if (now_ns < atomic_load_explicit(&image->moved_ns, memory_order_relaxed) + TIMES_MOVE_NS)
        return image->timeless_fd;
    atomic_store_explicit(&image->moved_ns, now_ns, memory_order_relaxed);
    return image->fd;
}

static void pool_image_start_data(struct backend_image *image, struct loop *loop, struct image_io *io)
{
    int mode = FALLOC_FL_KEEP_SIZE;

    switch (io->verb) {
    case IMAGE_READ:
        loop_readv(loop, &io->op, image->fd, &io->rest, 1, io->offset + io->progress, 0);
        return;
    case IMAGE_WRITE:
        loop_writev(loop, &io->op, write_fd(image, loop), &io->rest, 1, io->offset + io->progress,
                    io->stable ? LOOP_RWF_DSYNC : 0);
        return;
    case IMAGE_UNMAP:
        loop_fallocate(loop, &io->op, image->fd, mode | FALLOC_FL_PUNCH_HOLE, io->offset, io->length);
        return;
    case IMAGE_WRITE_ZEROES:
        mode |= io->allocate ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
        loop_fallocate(loop, &io->op, image->fd, mode, io->offset, io->length);
        return;
    case IMAGE_FLUSH: /* has no data step */
        abort();
    }
}

void pool_image_start(struct backend_image *image, struct loop *loop, struct image_io *io)
{
    switch ((enum image_step)io->step) {
    case IMAGE_STEP_DATA:
    case IMAGE_STEP_PROBE:
        pool_image_start_data(image, loop, io);
        return;
    case IMAGE_STEP_PUNCH:
        loop_fallocate(loop, &io->op, image->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, io->offset,
                       io->length);
        return;
    case IMAGE_STEP_ALLOCATE:
        loop_fallocate(loop, &io->op, image->fd, FALLOC_FL_KEEP_SIZE, io->offset, io->length);
        return;
    case IMAGE_STEP_SYNC:
        loop_fdatasync(loop, &io->op, image->fd);
        return;
    }
}
