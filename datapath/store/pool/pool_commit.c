/*
 * Volumes and snapshots are directories, built in trash/ and put in their place by one rename; deleting one
 * moves it back there first (invariant 7). No state; blocks; one change of one of them at a time (the store's
 * locks), any number of them at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/store/pool/pool_internal.h"

int pool_aside_make(struct backend *backend, const char *aside, int *ret_dir_fd, struct error *err)
{
    int r = pool_tree_remove(backend->trash_fd, aside, err); /* of an attempt that failed before */

    if (r != E_OK)
        return r;
    if (mkdirat(backend->trash_fd, aside, 0700) < 0)
        return pool_errno(err, errno, "make a directory for", aside);
    *ret_dir_fd = openat(backend->trash_fd, aside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_dir_fd < 0 ? pool_errno(err, errno, "open the directory of", aside) : E_OK;
}

/* Move from_fd/<id> to a name of its own in trash/; 0, or the errno that says why not. */
static int move_to_trash(struct backend *backend, int from_fd, const char *id,
                         char ret_name[POOL_TRASH_NAME_MAX])
{
    static atomic_uint counter;

    for (;;) {
        snprintf(ret_name, POOL_TRASH_NAME_MAX, "old.%s.%u", id, atomic_fetch_add(&counter, 1));
        if (renameat2(from_fd, id, backend->trash_fd, ret_name, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EEXIST)
            return errno;
    }
}

int pool_aside_commit(struct backend *backend, const char *aside, int to_fd, const char *what, const char *id,
                      struct error *err)
{
    unsigned how = RENAME_NOREPLACE;
    int r;

    r = renameat2(backend->trash_fd, aside, to_fd, id, how);
    /* Its cut was recorded. Or the store knows of nothing by that id: this one's creation failed after its
     * rename, or its deletion before its sync, and undoing that failed too. */
    if (r < 0 && errno == EEXIST) {
        how = RENAME_EXCHANGE;
        r = renameat2(backend->trash_fd, aside, to_fd, id, how);
    }
    if (r < 0)
        return pool_errno(err, errno, "put in its place:", id);
    r = pool_sync(to_fd, what, err);
    if (r != E_OK)
        renameat2(to_fd, id, backend->trash_fd, aside, how);
    else if (how == RENAME_EXCHANGE)
        pool_aside_discard(backend, aside);
    return r;
}

void pool_aside_discard(struct backend *backend, const char *name)
{
    _cleanup_error_ struct error problem = {0};

    if (pool_tree_remove(backend->trash_fd, name, &problem) != E_OK)
        log_warning("pool %s: trash/%s stays until the pool is opened again: %s", backend->path, name,
                    error_text(&problem));
}

struct deletion {
    int from_fd;
    const char *what, *id;
};

static int delete_once(struct backend *backend, void *context, struct error *err)
{
    const struct deletion *deletion = context;
    char old[POOL_TRASH_NAME_MAX];
    int errnum, r;

    errnum = move_to_trash(backend, deletion->from_fd, deletion->id, old);
    if (errnum != 0 && errnum != ENOENT) /* ENOENT: moved by an attempt whose sync failed */
        return pool_errno(err, errnum, "delete", deletion->id);
    r = pool_sync(deletion->from_fd, deletion->what, err);
    if (errnum != 0)
        return r;
    if (r != E_OK) {
        renameat2(backend->trash_fd, old, deletion->from_fd, deletion->id, RENAME_NOREPLACE);
        return r;
    }
    pool_aside_discard(backend, old); /* it is gone by now, whatever becomes of its remains */
    return E_OK;
}

int pool_entry_delete(struct backend *backend, int from_fd, const char *what, const char *id,
                      struct error *err)
{
    struct deletion deletion = {from_fd, what, id};

    return pool_with_ballast(backend, delete_once, &deletion, err);
}
