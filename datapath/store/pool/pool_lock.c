/*
 * Whose pool this is, who may use it, and making one. Blocks; called at start-up and by mooring-pool.
 *
 * The lock is a flock on <pool>/lock. It belongs to the open file description: it is gone when the last
 * descriptor of it is closed, also those that a ring holds for I/O in flight, and close-on-exec keeps it from
 * leaking into programs that are started. The file is never removed, or two could hold the lock of "the"
 * file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"
#include "datapath/store/store.h"

static const char *const pool_dirs[] = {"volumes", "snapshots", "nodes", "names", "trash"};

static bool uuid_valid(const char *uuid)
{
    for (size_t i = 0; i < 36; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;

        if (dash ? uuid[i] != '-' : uuid[i] == '\0' || !strchr("0123456789abcdef", uuid[i]))
            return false;
    }
    return uuid[36] == '\0';
}

int pool_identify(int dir_fd, const char *path, char ret_uuid[37], char ret_server_id[ID_SERVER_MAX + 1],
                  struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    const char *uuid = NULL, *server_id = NULL;
    int r;

    r = record_load(dir_fd, POOL_FILE, POOL_RECORD_FORMAT, &object, err);
    if (r == E_NOT_FOUND)
        return error_set(err, E_PRECONDITION,
                         "%s holds no pool (no " POOL_FILE "): if the pool is not mounted, mount it there; "
                         "`mooring pool create` makes a new one",
                         path);
    if (r != E_OK)
        return r;
    if ((r = record_get_string(object, "uuid", &uuid, err)) != E_OK ||
        (r = record_get_string(object, "server_id", &server_id, err)) != E_OK) {
        error_wrap(err, "%s/" POOL_FILE, path);
        return r;
    }
    if (!uuid_valid(uuid) || !id_server_valid(server_id))
        return error_set(err, E_CORRUPT, "%s/" POOL_FILE ": \"uuid\" or \"server_id\" is malformed", path);
    str_copy(ret_uuid, 37, uuid);
    str_copy(ret_server_id, ID_SERVER_MAX + 1, server_id);
    return E_OK;
}

/* Is fd still the file that has the lock's name? */
static bool is_lock_file(int dir_fd, int fd)
{
    struct stat held, named;

    return fstat(fd, &held) == 0 && fstatat(dir_fd, POOL_LOCK_FILE, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

int pool_lock(int dir_fd, const char *path, int *ret_fd, struct error *err)
{
    _cleanup_fd_ int fd = openat(dir_fd, POOL_LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return pool_errno(err, errno, "open the lock of pool", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK)
            return error_errno(err, errno, "cannot lock the pool %s", path);
        return error_set(err, E_BUSY,
                         "the pool %s is in use by another mooring-target, or I/O of one that ended is still "
                         "in flight: try again",
                         path);
    }
    if (!is_lock_file(dir_fd, fd))
        return error_set(err, E_BUSY, "the lock of pool %s was replaced while it was taken: try again", path);
    *ret_fd = TAKE_FD(fd);
    return E_OK;
}

/* ---- making one ---- */

static int uuid_new(char ret_uuid[37])
{
    unsigned char b[16];
    int r = io_random(b, sizeof(b));

    if (r < 0)
        return r;
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40); /* RFC 9562, version 4 */
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    snprintf(ret_uuid, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    return 0;
}

static int make_dirs(int dir_fd, const char *path, struct error *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(pool_dirs); i++) {
        if (mkdirat(dir_fd, pool_dirs[i], 0700) < 0 && errno != EEXIST)
            return pool_errno(err, errno, "make a directory in", path);
    }
    return pool_sync(dir_fd, path, err);
}

/* Under the lock. pool.json comes last: with it the pool exists, without it a repeat finishes the work. */
static int create_locked(int dir_fd, const char *path, const char *server_id, char ret_uuid[37],
                         struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    char uuid[37], server[ID_SERVER_MAX + 1];
    int r;

    r = pool_identify(dir_fd, path, uuid, server, NULL);
    if (r == E_OK)
        return error_set(err, E_EXISTS, "%s holds a pool already: %s, of server %s", path, uuid, server);
    if (r != E_PRECONDITION)
        return error_set(err, r, "%s/" POOL_FILE " exists and cannot be read: it is left alone", path);
    r = make_dirs(dir_fd, path, err);
    if (r != E_OK)
        return r;
    r = uuid_new(uuid);
    if (r < 0)
        return error_errno(err, -r, "cannot draw a UUID");
    object = json_pack("{s:s, s:s}", "uuid", uuid, "server_id", server_id);
    if (!object)
        return error_errno(err, ENOMEM, "cannot make a pool");
    r = record_save(dir_fd, POOL_FILE, POOL_RECORD_FORMAT, object, 0644, err);
    if (r == E_OK)
        str_copy(ret_uuid, 37, uuid);
    return r;
}

int store_pool_create(const char *path, const char *server_id, char ret_uuid[37], struct error *err)
{
    _cleanup_fd_ int dir_fd = -1, lock_fd = -1;
    int r;

    if (!id_server_valid(server_id))
        return error_set(err, E_INVALID_ARGUMENT,
                         "\"%.*s\" is not a server id: 1 to %d of a-z, 0-9 and \"-\"", ID_SERVER_MAX,
                         server_id, ID_SERVER_MAX);
    dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return error_errno(err, errno, "cannot open directory %s", path);
    r = pool_check_xfs(dir_fd, path, err);
    if (r == E_OK)
        r = pool_lock(dir_fd, path, &lock_fd, err);
    return r == E_OK ? create_locked(dir_fd, path, server_id, ret_uuid, err) : r;
}
