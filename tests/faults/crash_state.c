/* A pool in words: its records as the store has them, its folders as they are, and a sum of each data file.
 * Called by crash_points.c. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"
#include "datapath/store/snapshot.h"
#include "tests/faults/crash_points.h"

/* The kernel's own, in xfs_fs.h, which only xfsprogs' package of headers has. */
struct xfs_eofblocks {
    uint32_t version, flags, uid, gid, prid, pad32;
    uint64_t size_min_bytes, pad[12];
};
#define XFS_FREE_EOFBLOCKS _IOR('X', 58, struct xfs_eofblocks)

/* ---- emptying ---- */

static int empty_entry(const char *name, void *context, struct error *err)
{
    return pool_tree_remove(*(int *)context, name, err);
}

void crash_pool_empty(const struct crash_pool *pool)
{
    static const char *const folders[] = {"volumes", "snapshots", "nodes", "names", "trash"};

    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        _cleanup_error_ struct error err = {0};
        _cleanup_fd_ int fd = openat(pool->fd, folders[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0 || pool_walk(fd, empty_entry, &fd, &err))
            fprintf(stderr, "crash-points: cannot empty %s: %s\n", folders[i], error_text(&err));
    }
    if (unlinkat(pool->fd, "scrub.json", 0) < 0 && errno != ENOENT)
        fprintf(stderr, "crash-points: cannot remove scrub.json: %s\n", strerror(errno));
    if (pool_tree_remove(pool->fd, CRASH_INNER_POOL, NULL))
        fprintf(stderr, "crash-points: cannot remove the pool within\n");
}

/* ---- records ---- */

/* What each run draws or reads from a clock: only whether it is there counts. */
static void mask(json_t *object, const char *const *members, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        json_t *value = json_object_get(object, members[i]);
        const char *text = json_string_value(value);

        if (value)
            json_object_set_new(object, members[i],
                                json_string(json_is_integer(value) ? "a time"
                                            : *text                ? "set"
                                                                   : ""));
    }
}

static void say_record(FILE *out, const char *kind, json_t *object)
{
    static const char *const drawn[] = {"created_unix_s", "created_unix_ns", "secret", "generation_secret",
                                        "lost"};
    json_t *attachment;
    size_t i;

    mask(object, drawn, ARRAY_SIZE(drawn));
    json_array_foreach(json_object_get(object, "attachments"), i, attachment)
    {
        mask(attachment, drawn, ARRAY_SIZE(drawn));
    }
    _cleanup_free_ char *text = json_dumps(object, JSON_SORT_KEYS | JSON_COMPACT);
    fprintf(out, "%s %s\n", kind, text ? text : "?");
}

static void say_volumes(FILE *out, struct store *store)
{
    char after[ID_VOLUME_MAX + 1] = "";
    struct volume *volume;

    while ((volume = store_volume_next(store, after))) {
        struct volume_record record;
        _cleanup_json_ json_t *object = NULL;
        _cleanup_error_ struct error err = {0};

        str_copy(after, sizeof(after), volume_id(volume));
        if (volume_check_readable(volume, &err))
            fprintf(out, "volume %s cannot be read: %s\n", after, error_text(&err));
        else if (volume_snapshot_record(volume, &record) == 0) {
            if (volume_record_to_json(&record, &object) == 0)
                say_record(out, "volume", object);
            volume_record_done(&record);
        }
        volume_unref(volume);
    }
}

static void say_snapshots(FILE *out, struct store *store)
{
    char after[ID_SNAPSHOT_MAX + 1] = "";
    struct snapshot *snapshot;

    while ((snapshot = store_snapshot_next(store, after))) {
        struct snapshot_record record;
        _cleanup_json_ json_t *object = NULL;
        _cleanup_error_ struct error err = {0};

        if (snapshot_copy_record(snapshot, &record))
            break;
        str_copy(after, sizeof(after), record.id);
        if (snapshot_check_readable(snapshot, &err))
            fprintf(out, "snapshot %s cannot be read: %s\n", after, error_text(&err));
        else if (snapshot_record_to_json(&record, &object) == 0)
            say_record(out, "snapshot", object);
        fprintf(out, "snapshot %s: %u %%\n", after, snapshot_progress_percent(snapshot));
        snapshot_unref(snapshot);
    }
}

static void say_nodes(FILE *out, struct store *store)
{
    struct node_record *records = NULL;
    size_t count = 0;

    if (store_node_list(store, &records, &count, NULL))
        fprintf(out, "no list of nodes\n");
    for (size_t i = 0; i < count; i++) {
        _cleanup_json_ json_t *object = NULL;

        if (node_record_to_json(&records[i], &object) == 0)
            say_record(out, "node", object);
        node_record_done(&records[i]);
    }
    free(records);
}

static void say_space(FILE *out, struct store *store)
{
    struct store_capacity capacity = {0};

    if (store_capacity(store, &capacity, NULL) == 0)
        fprintf(out, "%" PRIu64 " volumes, %" PRIu64 " bytes promised\n", capacity.volumes_count,
                capacity.promised_bytes);
}

/* ---- folders ---- */

struct listing {
    int dir_fd;
    char prefix[256];
    char **lines;
    size_t count;
};

/* Of the bytes of a data file (FNV-1a); those of a claim are its words. */
static uint64_t sum_of(int fd)
{
    static uint8_t buffer[64 * 1024];
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    ssize_t n;

    while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
        for (ssize_t i = 0; i < n; i++)
            sum = (sum ^ buffer[i]) * UINT64_C(0x100000001b3);
    }
    return sum;
}

static char *line_of(const struct listing *listing, const char *name, const struct stat *status)
{
    bool summed = str_equal(name, "data") || str_equal(name, "scrub.json") || str_equal(name, "host.json") ||
                  str_starts_with(listing->prefix, "names/");

    if (S_ISDIR(status->st_mode))
        return str_format("%s%s/", listing->prefix, name);
    if (!summed)
        return str_format("%s%s", listing->prefix, name);
    _cleanup_fd_ int fd = openat(listing->dir_fd, name, O_RDONLY | O_CLOEXEC);
    return str_format("%s%s: %lld bytes on %lld, sum %016" PRIx64, listing->prefix, name,
                      (long long)status->st_size, (long long)status->st_blocks * 512, sum_of(fd));
}

/* A pool within the pool is none, whatever is there, before its last file. */
static bool is_unmade(const struct listing *listing, const char *name)
{
    return !listing->prefix[0] && str_equal(name, CRASH_INNER_POOL) &&
           faccessat(listing->dir_fd, CRASH_INNER_POOL "/pool.json", F_OK, 0) < 0;
}

static int list_entry(const char *name, void *context, struct error *err)
{
    struct listing *listing = context;
    struct stat status;

    if (!listing->prefix[0] &&
        (str_equal(name, "ballast") || str_equal(name, "host.json") || str_equal(name, "lock")))
        return E_OK; /* the opening's own */
    if (str_equal(listing->prefix, CRASH_INNER_POOL "/") && str_equal(name, ".host.json.tmp"))
        return E_OK; /* its opening's, which nobody does */
    char **lines = reallocarray(listing->lines, listing->count + 1, sizeof(*lines));
    if (!lines || fstatat(listing->dir_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return error_errno(err, errno, "cannot look at %s", name);
    listing->lines = lines;
    lines[listing->count++] = line_of(listing, name, &status);
    if (!S_ISDIR(status.st_mode) || is_unmade(listing, name))
        return E_OK;
    struct listing inner = {.lines = listing->lines, .count = listing->count};
    snprintf(inner.prefix, sizeof(inner.prefix), "%.100s%.100s/", listing->prefix, name);
    inner.dir_fd = openat(listing->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = pool_walk(inner.dir_fd, list_entry, &inner, err);
    fd_close(inner.dir_fd);
    listing->lines = inner.lines;
    listing->count = inner.count;
    return r;
}

static int compare_lines(const void *a, const void *b)
{
    const char *const *first = a, *const *second = b;

    return strcmp(*first ? *first : "", *second ? *second : "");
}

static void say_folders(FILE *out, const struct crash_pool *pool)
{
    struct listing listing = {.dir_fd = pool->fd};
    _cleanup_error_ struct error err = {0};

    if (pool_walk(pool->fd, list_entry, &listing, &err))
        fprintf(out, "%s\n", error_text(&err));
    if (listing.count)
        qsort(listing.lines, listing.count, sizeof(*listing.lines), compare_lines);
    for (size_t i = 0; i < listing.count; i++) {
        fprintf(out, "%s\n", listing.lines[i] ? listing.lines[i] : "?");
        free(listing.lines[i]);
    }
    free(listing.lines);
}

/* What XFS allocated for a write to shared blocks, ahead of it, counts as the file's until it looks through
 * them: have it look. */
static void give_back_unused(int pool_fd)
{
    struct xfs_eofblocks request = {.version = 1, .flags = 1 /* wait for it */};

    if (ioctl(pool_fd, XFS_FREE_EOFBLOCKS, &request) < 0)
        fprintf(stderr, "crash-points: XFS keeps what is unused: %s\n", strerror(errno));
}

char *crash_pool_words(const struct crash_pool *pool, struct store *store)
{
    char *words = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&words, &length);

    if (!out)
        return NULL;
    give_back_unused(pool->fd);
    say_volumes(out, store);
    say_snapshots(out, store);
    say_nodes(out, store);
    say_space(out, store);
    say_folders(out, pool);
    fclose(out);
    return words;
}
