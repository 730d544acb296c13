/*
 * Which host serves a pool: host.json. The pool's lock keeps two servers of one host apart; this keeps apart
 * two hosts that see one disk one after the other, when the first is not known to have ended. It cannot help
 * where two hosts have the disk mounted at once: XFS itself would not survive that.
 *
 * Written when the pool is opened and when it is closed in order; a server that is killed leaves it open, and
 * may come back on its own host. Called under the pool's lock; blocks.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"

#define HOST_FILE "host.json"
#define HOST_RECORD_FORMAT 1
#define MACHINE_ID_FILE "/etc/machine-id"

/* The host's machine id, or where it has none (some containers) its name: a weaker word, but one. */
static int this_host(char ret_host[POOL_HOST_MAX + 1], struct error *err)
{
    _cleanup_fd_ int fd = open(MACHINE_ID_FILE, O_RDONLY | O_CLOEXEC);
    char id[ID_BOOT_LENGTH + 1] = "";
    struct utsname names;

    if (fd >= 0 && read(fd, id, ID_BOOT_LENGTH) == ID_BOOT_LENGTH && id_boot_valid(id)) {
        str_copy(ret_host, POOL_HOST_MAX + 1, id);
        return E_OK;
    }
    if (uname(&names) < 0)
        return error_errno(err, errno, "cannot tell this host's name");
    str_copy(ret_host, POOL_HOST_MAX + 1, names.nodename);
    return E_OK;
}

static int load(int dir_fd, char ret_host[POOL_HOST_MAX + 1], bool *ret_open, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    const char *host = NULL;
    bool open = false;
    int r = record_load(dir_fd, HOST_FILE, HOST_RECORD_FORMAT, &object, err);

    if (r == E_OK)
        r = record_get_string(object, "host", &host, err);
    if (r == E_OK)
        r = record_get_bool(object, "open", &open, err);
    if (r != E_OK)
        return r;
    if (!str_copy(ret_host, POOL_HOST_MAX + 1, host))
        return error_set(err, E_CORRUPT, "\"host\" is too long");
    *ret_open = open;
    return E_OK;
}

static int save(int dir_fd, const char *host, bool open, struct error *err)
{
    _cleanup_json_ json_t *object = json_pack("{s:s, s:b}", "host", host, "open", open);

    if (!object)
        return error_errno(err, ENOMEM, HOST_FILE);
    return record_save(dir_fd, HOST_FILE, HOST_RECORD_FORMAT, object, 0600, err);
}

struct saving {
    const char *host;
    bool open;
};

static int save_once(struct backend *backend, void *context, struct error *err)
{
    const struct saving *saving = context;

    return save(backend->dir_fd, saving->host, saving->open, err);
}

int pool_host_check(const struct backend *backend, struct error *err)
{
    char last[POOL_HOST_MAX + 1];
    bool open = false, ours = false;
    int r = pool_host_look(backend->dir_fd, last, &open, &ours, err);

    if (r != E_OK)
        return error_wrap(err, "pool %s, " HOST_FILE, backend->path);
    if (open && !ours)
        return error_set(
            err, E_PRECONDITION,
            "the pool %s was served by host %s last, which has not closed it: where that host is "
            "gone for good, or has not the disk any more, `mooring pool import --path=%s --take` "
            "lets this one serve it",
            backend->path, last, backend->path);
    return E_OK;
}

int pool_host_enter(struct backend *backend, struct error *err)
{
    char host[POOL_HOST_MAX + 1];
    int r = this_host(host, err);

    if (r != E_OK)
        return r;
    backend->host_entered = true;
    r = pool_with_ballast(backend, save_once, &(struct saving){host, true}, err);
    if (r == E_NO_SPACE) { /* no reason not to serve what is there */
        log_warning("pool %s: cannot note that this host serves it: %s", backend->path, error_text(err));
        error_done(err);
        return E_OK;
    }
    return r;
}

void pool_host_leave(struct backend *backend)
{
    _cleanup_error_ struct error err = {0};
    char host[POOL_HOST_MAX + 1];

    if (!backend->host_entered)
        return;
    if (this_host(host, &err) != E_OK ||
        pool_with_ballast(backend, save_once, &(struct saving){host, false}, &err) != E_OK)
        log_warning("pool %s: cannot note that it is closed: another host will ask before it serves it: %s",
                    backend->path, error_text(&err));
}

int pool_host_look(int dir_fd, char ret_host[POOL_HOST_MAX + 1], bool *ret_open, bool *ret_ours,
                   struct error *err)
{
    char host[POOL_HOST_MAX + 1];
    int r = this_host(host, err);

    if (r == E_OK)
        r = load(dir_fd, ret_host, ret_open, err);
    if (r == E_NOT_FOUND) {
        error_done(err);
        str_copy(ret_host, POOL_HOST_MAX + 1, host);
        *ret_open = false;
        r = E_OK;
    }
    *ret_ours = r == E_OK && str_equal(host, ret_host);
    return r;
}

int pool_host_take(int dir_fd, struct error *err)
{
    char host[POOL_HOST_MAX + 1];
    int r = this_host(host, err);

    return r == E_OK ? save(dir_fd, host, false, err) : r;
}
