/*
 * Records as files of a pool, with one sync each. XFS keeps changes of its metadata in one log, in order:
 * when the sync of a directory has returned, all that was done to names, sizes and extents before is stable
 * as well, and the log is written only after a flush of the disk's cache. So a record's bytes are handed to
 * the disk first, and its name is given afterwards: the name can never be there without them, and the one
 * sync makes both stable. No state; blocks; called by the other files of the pool.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "datapath/store/pool/pool_internal.h"

/* All of it is handed to the disk, and with that the file has its size: no later change gets ahead of it. */
static int write_out(int fd)
{
    return sync_file_range(
               fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) < 0
               ? -errno
               : 0;
}

/* 0 or -errno. */
static int write_new(int dir_fd, const char *name, const char *text, size_t length)
{
    _cleanup_fd_ int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    int r;

    if (fd < 0)
        return -errno;
    r = io_write_full(fd, text, length);
    return r < 0 ? r : write_out(fd);
}

static int make(int dir_fd, const char *name, int format, json_t *object)
{
    size_t length = 0;
    char *text = record_text(object, format, &length);
    int r;

    if (!text)
        return -ENOMEM;
    r = write_new(dir_fd, name, text, length);
    explicit_bzero(text, length);
    free(text);
    return r;
}

static int file_error(struct error *err, int errnum, const char *verb, int dir_fd, const char *name)
{
    char path[PATH_MAX + NAME_MAX];

    io_path(dir_fd, name, path, sizeof(path));
    return pool_errno(err, errnum, verb, path);
}

int pool_record_make(int dir_fd, const char *name, int format, json_t *object, struct error *err)
{
    int r = make(dir_fd, name, format, object);

    return r < 0 ? file_error(err, -r, "write", dir_fd, name) : E_OK;
}

int pool_record_save(int dir_fd, const char *name, int format, json_t *object, struct error *err)
{
    char temporary[NAME_MAX + 1];
    int r;

    snprintf(temporary, sizeof(temporary), ".%s.tmp", name);
    if (unlinkat(dir_fd, temporary, 0) < 0 && errno != ENOENT) /* of an attempt that was cut off */
        return file_error(err, errno, "remove", dir_fd, temporary);
    r = make(dir_fd, temporary, format, object);
    if (r == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(dir_fd, temporary, 0);
        return file_error(err, -r, "write", dir_fd, name);
    }
    return fsync(dir_fd) < 0 ? file_error(err, errno, "sync the directory of", dir_fd, name) : E_OK;
}
