/*
 * Volumes and snapshots as they are found when the pool is opened: directories with a record and a data file.
 * What is wrong with one of them keeps none of the others. Blocks; before anything else uses the pool.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"

#define PATH_BYTES (ID_SNAPSHOT_MAX + 32)

struct loading {
    struct backend *backend;
    int dir_fd;
    const char *dir, *what, *file; /* "volumes", "volume", "volume.json" */
    int format;
    bool (*id_valid)(const char *id);
    bool snapshots; /* what counts is what they have allocated: they never grow */
    pool_visit visit;
    pool_unreadable unreadable;
    void *context;
};

struct data {
    bool missing;
    uint64_t size_bytes, allocated_bytes; /* 0 when it is not there */
};

static int look_at_data(struct loading *loading, const char *id, struct data *ret, struct error *err)
{
    char path[PATH_BYTES];
    struct stat status;

    snprintf(path, sizeof(path), "%s/" POOL_DATA_FILE, id);
    if (fstatat(loading->dir_fd, path, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        ret->missing = errno == ENOENT;
        return ret->missing ? E_OK : error_errno(err, errno, "cannot look at its data file");
    }
    if (!S_ISREG(status.st_mode))
        return error_set(err, E_CORRUPT, "its data file is not a file");
    ret->size_bytes = (uint64_t)status.st_size;
    ret->allocated_bytes = (uint64_t)status.st_blocks * 512;
    loading->backend->data_bytes += ret->allocated_bytes;
    return E_OK;
}

/* The data file must have all its blocks: a shorter one would read as an error, or grow. Of a snapshot that
 * is lost there is none. */
static int check_data(const struct loading *loading, json_t *object, const struct data *data,
                      struct error *err)
{
    uint64_t size_bytes = 0;
    int r = record_get_uint64(object, "size_bytes", &size_bytes, err);

    if (r != E_OK || (loading->snapshots && data->missing && json_object_get(object, "lost")))
        return r;
    if (data->missing)
        return error_set(err, E_CORRUPT, "its data file is missing");
    if (data->size_bytes < size_bytes)
        return error_set(err, E_CORRUPT, "its data file has %" PRIu64 " bytes, not %" PRIu64,
                         data->size_bytes, size_bytes);
    return E_OK;
}

/*
 * A growth that was cut off before its record: nothing was ever written to what it had added, so that goes.
 * Where something was, this record is the older one, of a backup perhaps, and all stays.
 */
static void drop_unrecorded_growth(struct loading *loading, const char *id, json_t *object,
                                   uint64_t found_bytes)
{
    off_t size = (off_t)json_integer_value(json_object_get(object, "size_bytes"));
    char path[PATH_BYTES];

    if (loading->snapshots || found_bytes <= (uint64_t)size)
        return;
    snprintf(path, sizeof(path), "%s/" POOL_DATA_FILE, id);
    _cleanup_fd_ int fd = openat(loading->dir_fd, path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && lseek(fd, size, SEEK_DATA) < 0 && errno == ENXIO && ftruncate(fd, size) == 0)
        log_info("pool %s, volume %s: took back %" PRIu64 " bytes of a growth that was cut off",
                 loading->backend->path, id, found_bytes - (uint64_t)size);
    else
        log_warning("pool %s, volume %s: its data file is longer than its record says: left as it is",
                    loading->backend->path, id);
}

static int load_record(struct loading *loading, const char *id, const struct data *data, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    const char *found = NULL;
    char path[PATH_BYTES];
    int r;

    snprintf(path, sizeof(path), "%s/.%s.tmp", id, loading->file);
    if (unlinkat(loading->dir_fd, path, 0) < 0 && errno != ENOENT)
        return pool_errno(err, errno, "remove a half-made", loading->file);
    snprintf(path, sizeof(path), "%s/%s", id, loading->file);
    r = record_load(loading->dir_fd, path, loading->format, &object, err);
    if (r == E_NOT_FOUND)
        return error_set(err, E_CORRUPT, "its %s is missing", loading->file);
    if (r != E_OK)
        return r;
    r = record_get_string(object, "id", &found, err);
    if (r != E_OK)
        return r;
    if (!str_equal(found, id))
        return error_set(err, E_CORRUPT, "\"id\" is not the directory's name");
    r = check_data(loading, object, data, err);
    if (r == E_OK && loading->snapshots &&
        json_object_set_new(object, "allocated_bytes", json_integer((json_int_t)data->allocated_bytes)) < 0)
        r = error_errno(err, ENOMEM, "cannot read a record");
    if (r != E_OK)
        return r;
    drop_unrecorded_growth(loading, id, object, data->size_bytes);
    return loading->visit(object, loading->context, err);
}

static int load_entry(const char *name, void *context, struct error *err)
{
    struct loading *loading = context;
    _cleanup_error_ struct error why = {0};
    struct data data = {0};
    int r;

    if (!loading->id_valid(name)) {
        log_warning("pool %s: %s/%s is not a %s of Mooring: left alone", loading->backend->path, loading->dir,
                    name, loading->what);
        return E_OK;
    }
    r = look_at_data(loading, name, &data, &why);
    if (r == E_OK)
        r = load_record(loading, name, &data, &why);
    if (r == E_OK)
        return E_OK;
    error_wrap(&why, "pool %s, %s %s", loading->backend->path, loading->what, name);
    return loading->unreadable(name, loading->snapshots ? data.allocated_bytes : data.size_bytes,
                               error_text(&why), loading->context, err);
}

/* What is shared is counted more than once, so that this is the least that others can have used. */
static int count_others(struct backend *backend, struct error *err)
{
    uint64_t ballast_bytes = (uint64_t)backend->ballast_bytes, used;
    struct statvfs status;

    if (fstatvfs(backend->dir_fd, &status) < 0)
        return error_errno(err, errno, "cannot tell the space of pool %s", backend->path);
    used = (uint64_t)(status.f_blocks - status.f_bfree) * status.f_frsize;
    backend->other_bytes = used > backend->data_bytes ? used - backend->data_bytes : 0;
    backend->other_bytes = MAX(backend->other_bytes, ballast_bytes);
    return E_OK;
}

static int load(struct loading *loading, struct error *err)
{
    int r = pool_walk(loading->dir_fd, load_entry, loading, err);

    return r == E_OK ? count_others(loading->backend, err) : r;
}

int pool_load_volumes(struct backend *backend, pool_visit visit, pool_unreadable unreadable, void *context,
                      struct error *err)
{
    struct loading loading = {.backend = backend,
                              .dir_fd = backend->volumes_fd,
                              .dir = "volumes",
                              .what = "volume",
                              .file = POOL_VOLUME_FILE,
                              .format = VOLUME_RECORD_FORMAT,
                              .id_valid = id_volume_valid,
                              .visit = visit,
                              .unreadable = unreadable,
                              .context = context};

    backend->data_bytes = 0;
    return load(&loading, err);
}

int pool_load_snapshots(struct backend *backend, pool_visit visit, pool_unreadable unreadable, void *context,
                        struct error *err)
{
    struct loading loading = {.backend = backend,
                              .dir_fd = backend->snapshots_fd,
                              .dir = "snapshots",
                              .what = "snapshot",
                              .file = POOL_SNAPSHOT_FILE,
                              .format = SNAPSHOT_RECORD_FORMAT,
                              .id_valid = id_snapshot_valid,
                              .snapshots = true,
                              .visit = visit,
                              .unreadable = unreadable,
                              .context = context};

    return load(&loading, err);
}
