/*
 * Data files for the scrub: opened by their id alone, and read past every cache; and where it keeps what it
 * knows, scrub.json. No state; blocks; the scrub's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"

#define SCRUB_FILE "scrub.json"
#define SCRUB_RECORD_FORMAT 1

/* Without O_NOATIME, the first read after each write would be a transaction. */
static int open_quietly(int dir_fd)
{
    int flags = O_RDONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(dir_fd, POOL_DATA_FILE, flags | O_NOATIME);

    return fd < 0 && errno == EPERM ? openat(dir_fd, POOL_DATA_FILE, flags) : fd;
}

int pool_scrub_open(struct backend *backend, const char *id, struct backend_image **ret, struct error *err)
{
    int entries_fd = id_snapshot_valid(id) ? backend->snapshots_fd : backend->volumes_fd;
    _cleanup_fd_ int dir_fd = openat(entries_fd, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    _cleanup_fd_ int fd = dir_fd >= 0 ? open_quietly(dir_fd) : -1;
    struct backend_image *image;

    if (fd < 0 && errno == ENOENT)
        return error_set(err, E_NOT_FOUND, "%s has no data file", id);
    if (fd < 0)
        return error_errno(err, errno, "%s: its data file in %s", id, backend->path);
    image = calloc(1, sizeof(*image));
    if (!image)
        return error_errno(err, ENOMEM, "%s: its data file", id);
    image->fd = TAKE_FD(fd);
    image->timeless_fd = -1;
    str_copy(image->id, sizeof(image->id), id);
    *ret = image;
    return E_OK;
}

int pool_scrub_read(struct backend_image *image, void *buffer, uint64_t offset, size_t length,
                    size_t *ret_length)
{
    ssize_t count = pread(image->fd, buffer, length, (off_t)offset);

    if (count < 0)
        return -errno;
    *ret_length = (size_t)count;
    return 0;
}

int pool_scrub_load(struct backend *backend, json_t **ret, struct error *err)
{
    return record_load(backend->dir_fd, SCRUB_FILE, SCRUB_RECORD_FORMAT, ret, err);
}

/* Without the ballast: what it is for must not wait for this. */
int pool_scrub_save(struct backend *backend, json_t *object, struct error *err)
{
    return record_save(backend->dir_fd, SCRUB_FILE, SCRUB_RECORD_FORMAT, object, 0600, err);
}
