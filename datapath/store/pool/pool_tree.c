/*
 * Directories of the pool: walking, syncing and emptying them. No state; blocks; called by the other files of
 * the pool.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "datapath/store/pool/pool_internal.h"

#define TREE_DEPTH_MAX 8

int pool_errno(struct error *err, int errnum, const char *what, const char *name)
{
    if (errnum == ENOSPC || errnum == EDQUOT)
        return error_set(err, E_NO_SPACE, "cannot %s %s: the pool's file system is full", what, name);
    return error_errno(err, errnum, "cannot %s %s", what, name);
}

int pool_sync(int dir_fd, const char *what, struct error *err)
{
    return fsync(dir_fd) < 0 ? pool_errno(err, errno, "sync directory", what) : E_OK;
}

int pool_walk(int dir_fd, int (*visit)(const char *name, void *context, struct error *err), void *context,
              struct error *err)
{
    /* A descriptor of its own: dup() would share the position with every other walk. */
    _cleanup_fd_ int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_dir_ DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;

    if (!dir)
        return pool_errno(err, errno, "read a directory of", "the pool");
    TAKE_FD(fd);
    while (errno = 0, (entry = readdir(dir))) {
        int r;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        r = visit(entry->d_name, context, err);
        if (r != E_OK)
            return r;
    }
    return errno ? pool_errno(err, errno, "read a directory of", "the pool") : E_OK;
}

struct removal {
    int dir_fd;
    int depth;
};

static int remove_entry(const char *name, void *context, struct error *err)
{
    struct removal *removal = context;
    struct removal inner = {.depth = removal->depth + 1};
    _cleanup_fd_ int fd = -1;
    int r;

    if (unlinkat(removal->dir_fd, name, 0) == 0 || errno == ENOENT)
        return E_OK;
    if (errno != EISDIR || removal->depth >= TREE_DEPTH_MAX)
        return pool_errno(err, errno, "remove", name);
    fd = openat(removal->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return pool_errno(err, errno, "open", name);
    inner.dir_fd = fd;
    r = pool_walk(fd, remove_entry, &inner, err);
    if (r == E_OK && unlinkat(removal->dir_fd, name, AT_REMOVEDIR) < 0)
        r = pool_errno(err, errno, "remove", name);
    return r;
}

int pool_tree_remove(int dir_fd, const char *name, struct error *err)
{
    struct removal removal = {.dir_fd = dir_fd};

    return remove_entry(name, &removal, err);
}
