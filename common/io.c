/*
 * Whole reads and writes, and small files that are replaced all or nothing. Owns nothing; blocks, so it is
 * for the control plane and for starting up, never for an event loop.
 */
#include "common/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/strings.h"

int io_read_full(int fd, void *buffer, size_t length)
{
    char *next = buffer;

    while (length > 0) {
        ssize_t count = read(fd, next, length);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        if (count == 0)
            return -EIO;
        next += count;
        length -= (size_t)count;
    }
    return 0;
}

int io_write_full(int fd, const void *buffer, size_t length)
{
    const char *next = buffer;

    while (length > 0) {
        ssize_t count = write(fd, next, length);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        if (count == 0)
            return -EIO;
        next += count;
        length -= (size_t)count;
    }
    return 0;
}

void io_path(int dir_fd, const char *name, char *ret_path, size_t size)
{
    char link[64], dir[PATH_MAX];
    ssize_t length = -1;

    if (dir_fd != AT_FDCWD && name[0] != '/') {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", dir_fd);
        length = readlink(link, dir, sizeof(dir) - 1);
    }
    if (length > 0)
        snprintf(ret_path, size, "%.*s/%s", (int)length, dir, name);
    else
        snprintf(ret_path, size, "%s", name);
}

/* The one place that says what an errno of a file operation means to those above. */
static int file_error(struct error *err, int errnum, const char *verb, int dir_fd, const char *name)
{
    char path[PATH_MAX + NAME_MAX];

    io_path(dir_fd, name, path, sizeof(path));
    if (errnum == ENOSPC || errnum == EDQUOT)
        return error_set(err, E_NO_SPACE, "cannot %s %s: its file system is full", verb, path);
    return error_errno(err, errnum, "cannot %s %s", verb, path);
}

/* Read to the end into a string that grows. -EFBIG when there is more than limit bytes. */
static int read_to_end(int fd, size_t limit, char **ret_text, size_t *ret_length)
{
    _cleanup_free_ char *text = NULL;
    size_t length = 0, size = 0;

    for (;;) {
        ssize_t count;

        if (size - length < 2) {
            char *larger;

            size = size > 0 ? size * 2 : 4096;
            larger = realloc(text, size);
            if (!larger)
                return -ENOMEM;
            text = larger;
        }
        count = read(fd, text + length, size - length - 1);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        if (count == 0)
            break;
        length += (size_t)count;
        if (length > limit)
            return -EFBIG;
    }
    text[length] = '\0';
    *ret_text = TAKE_PTR(text);
    *ret_length = length;
    return 0;
}

static int read_error(struct error *err, int errnum, bool opened, int dir_fd, const char *name,
                      size_t limit_bytes)
{
    char path[PATH_MAX + NAME_MAX];

    io_path(dir_fd, name, path, sizeof(path));
    if (opened && errnum == EFBIG)
        return error_set(err, E_OUT_OF_RANGE, "%s is larger than the %zu bytes allowed", path, limit_bytes);
    if (!opened && errnum == ENOENT)
        return error_set(err, E_NOT_FOUND, "%s does not exist", path);
    return error_errno(err, errnum, "cannot %s %s", opened ? "read" : "open", path);
}

int io_read_file_at(int dir_fd, const char *name, size_t limit_bytes, char **ret_text, size_t *ret_length,
                    struct error *err)
{
    _cleanup_fd_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    char *text = NULL;
    size_t length = 0;
    int r;

    if (fd < 0)
        return read_error(err, errno, false, dir_fd, name, limit_bytes);
    r = read_to_end(fd, limit_bytes, &text, &length);
    if (r < 0)
        return read_error(err, -r, true, dir_fd, name, limit_bytes);
    *ret_text = text;
    if (ret_length)
        *ret_length = length;
    return E_OK;
}

int io_read_file(const char *path, size_t limit_bytes, char **ret_text, size_t *ret_length, struct error *err)
{
    return io_read_file_at(AT_FDCWD, path, limit_bytes, ret_text, ret_length, err);
}

/* A file of its own with text, durable but for its directory entry. On failure the caller unlinks it. */
static int write_new_file(int dir_fd, const char *name, const void *text, size_t length, mode_t mode)
{
    _cleanup_fd_ int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    int r;

    if (fd < 0)
        return -errno;
    if (fchmod(fd, mode) < 0) /* the umask took part in open */
        return -errno;
    r = io_write_full(fd, text, length);
    if (r < 0)
        return r;
    return fsync(fd) < 0 ? -errno : 0;
}

int io_replace_file(int dir_fd, const char *name, const void *text, size_t length, mode_t mode,
                    struct error *err)
{
    char temporary[NAME_MAX + 1];
    int r, printed = snprintf(temporary, sizeof(temporary), ".%s.tmp", name);

    if (printed < 0 || (size_t)printed >= sizeof(temporary))
        return file_error(err, ENAMETOOLONG, "write", dir_fd, name);
    /* What an earlier writer left half-made may have another mode or be someone's link: never written into.
     */
    if (unlinkat(dir_fd, temporary, 0) < 0 && errno != ENOENT)
        return file_error(err, errno, "remove", dir_fd, temporary);
    r = write_new_file(dir_fd, temporary, text, length, mode);
    if (r == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(dir_fd, temporary, 0);
        return file_error(err, -r, "write", dir_fd, name);
    }
    if (fsync(dir_fd) < 0)
        return file_error(err, errno, "sync the directory of", dir_fd, name);
    return E_OK;
}

int io_remove_file(int dir_fd, const char *name, struct error *err)
{
    if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
        return file_error(err, errno, "remove", dir_fd, name);
    /* Also when it was not there: the one who removed it may have died before its own fsync. */
    if (fsync(dir_fd) < 0)
        return file_error(err, errno, "sync the directory of", dir_fd, name);
    return E_OK;
}

int io_sync_dir(const char *path, struct error *err)
{
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd) < 0)
        return file_error(err, errno, "sync directory", AT_FDCWD, path);
    return E_OK;
}

static int make_dir(const char *path, mode_t mode)
{
    struct stat status;

    if (mkdir(path, mode) == 0)
        return 0;
    if (errno != EEXIST)
        return -errno;
    if (stat(path, &status) < 0)
        return -errno;
    return S_ISDIR(status.st_mode) ? 0 : -ENOTDIR;
}

int io_make_dirs(const char *path, mode_t mode, struct error *err)
{
    char partial[PATH_MAX];
    int r;

    if (path[0] == '\0' || !str_copy(partial, sizeof(partial), path))
        return file_error(err, path[0] ? ENAMETOOLONG : ENOENT, "make directory", AT_FDCWD, path);
    for (char *slash = partial + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        r = make_dir(partial, mode);
        if (r < 0)
            return file_error(err, -r, "make directory", AT_FDCWD, partial);
        *slash = '/';
    }
    r = make_dir(partial, mode);
    return r < 0 ? file_error(err, -r, "make directory", AT_FDCWD, path) : E_OK;
}

int io_random(void *buffer, size_t length)
{
    char *next = buffer;

    while (length > 0) {
        ssize_t count = getrandom(next, length, 0);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        next += count;
        length -= (size_t)count;
    }
    return 0;
}

int io_make_socket_dir(const char *endpoint, struct error *err)
{
    static const char scheme[] = "unix://";
    _cleanup_free_ char *path = NULL;

    if (strncmp(endpoint, scheme, strlen(scheme)) != 0)
        return E_OK;
    path = strdup(endpoint + strlen(scheme));
    if (!path)
        return error_errno(err, ENOMEM, "cannot make the directory of %s", endpoint);
    char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return E_OK;
    *slash = '\0';
    return io_make_dirs(path, 0755, err);
}
