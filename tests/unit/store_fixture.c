/* The fixture of the store's tests: see store_fixture.h. One thread. */
#include "tests/unit/store_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "datapath/store/fence.h"
#include "datapath/store/pool/pool_internal.h"
#include "datapath/store/pool/pool_make.h"
#include "datapath/store/snapshot.h"

#define IMAGE_BYTES (UINT64_C(512) << 20)

int fixture_setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    const char *base = getenv("TMPDIR");
    struct error err = {0};
    int r;

    if (!fixture)
        return -1;
    log_init("store-test", LOG_LEVEL_ERROR); /* the faults' warnings are many */
    snprintf(fixture->dir, sizeof(fixture->dir), "%.40s/mooring-store-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(fixture->dir))
        return -1;
    snprintf(fixture->image, sizeof(fixture->image), "%s/image", fixture->dir);
    snprintf(fixture->pool, sizeof(fixture->pool), "%s/pool", fixture->dir);
    r = pool_make_image(fixture->image, IMAGE_BYTES, fixture->pool, &err);
    if (r == E_OK)
        r = store_pool_create(fixture->pool, FIXTURE_SERVER, fixture->uuid, &err);
    if (r != E_OK)
        snprintf(fixture->why_not, sizeof(fixture->why_not), "%s", error_text(&err));
    error_done(&err);
    fixture->options = (struct store_options){
        .path = fixture->pool, .server_id = FIXTURE_SERVER, .pool_uuid = fixture->uuid, .overcommit = true};
    *state = fixture;
    return 0;
}

int fixture_teardown(void **state)
{
    struct fixture *fixture = *state;
    int r = 0;

    /* Detached: a test that failed may have left a store open, which goes with this process. */
    if (fixture->why_not[0] == '\0' && umount2(fixture->pool, MNT_DETACH) < 0)
        r = -1;
    unlink(fixture->image);
    rmdir(fixture->pool);
    rmdir(fixture->dir);
    free(fixture);
    return r;
}

struct fixture *fixture_ready(void **state)
{
    struct fixture *fixture = *state;

    if (fixture->why_not[0] != '\0') {
        print_message("no XFS to test on: %s\n", fixture->why_not);
        skip();
    }
    return fixture;
}

struct store *fixture_open(struct fixture *fixture)
{
    struct store *store = NULL;
    struct error err = {0};

    if (store_open(&store, &fixture->options, &err) != E_OK)
        fail_msg("store_open: %s", error_text(&err));
    return store;
}

void fixture_empty(struct fixture *fixture)
{
    static const char *const dirs[] = {"volumes", "snapshots", "nodes", "names", "trash"};
    int fd = open(fixture->pool, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_true(fd >= 0);
    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
        assert_int_equal(pool_tree_remove(fd, dirs[i], NULL), E_OK);
        assert_int_equal(mkdirat(fd, dirs[i], 0700), 0);
    }
    close(fd);
}

const char *fixture_id(unsigned n, char ret_id[ID_VOLUME_MAX + 1])
{
    snprintf(ret_id, ID_VOLUME_MAX + 1, FIXTURE_SERVER ".%016x", n);
    return ret_id;
}

struct volume_record fixture_spec(unsigned n)
{
    struct volume_record spec = {.size_bytes = 1 << 20, .block_size_bytes = 4096};

    fixture_id(n, spec.id);
    snprintf(spec.name, sizeof(spec.name), "volume-%u", n);
    return spec;
}

/* ---- listing ---- */

struct listing {
    int dir_fd;
    char prefix[128];
    char **lines;
    size_t count;
};

static int list_entry(const char *name, void *context, struct error *err)
{
    struct listing *listing = context;
    struct stat status;

    if (str_equal(name, "ballast") || str_equal(name, "host.json")) /* made by the first opening */
        return E_OK;
    assert_int_equal(fstatat(listing->dir_fd, name, &status, AT_SYMLINK_NOFOLLOW), 0);
    listing->lines = realloc(listing->lines, (listing->count + 1) * sizeof(char *));
    listing->lines[listing->count++] =
        str_format("%s%s%s\n", listing->prefix, name, S_ISDIR(status.st_mode) ? "/" : "");
    if (S_ISDIR(status.st_mode)) {
        struct listing inner = {.lines = listing->lines, .count = listing->count};
        int r;

        snprintf(inner.prefix, sizeof(inner.prefix), "%.60s%.60s/", listing->prefix, name);
        inner.dir_fd = openat(listing->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        r = pool_walk(inner.dir_fd, list_entry, &inner, err);
        close(inner.dir_fd);
        listing->lines = inner.lines;
        listing->count = inner.count;
        return r;
    }
    return E_OK;
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char *fixture_listing(const struct fixture *fixture)
{
    struct listing listing = {.dir_fd = open(fixture->pool, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    size_t length = 0;
    char *text;
    FILE *out = open_memstream(&text, &length);

    assert_true(listing.dir_fd >= 0);
    assert_int_equal(pool_walk(listing.dir_fd, list_entry, &listing, NULL), E_OK);
    close(listing.dir_fd);
    if (listing.count > 0)
        qsort(listing.lines, listing.count, sizeof(char *), compare_lines);
    for (size_t i = 0; i < listing.count; i++) {
        fputs(listing.lines[i], out);
        free(listing.lines[i]);
    }
    free(listing.lines);
    fclose(out);
    return text;
}

void fixture_assert_listing(const struct fixture *fixture, const char *expected)
{
    _cleanup_free_ char *listing = fixture_listing(fixture);

    assert_string_equal(listing, expected);
}

/* ---- volumes and nodes ---- */

struct volume *fixture_create(struct store *store, const struct volume_record *spec)
{
    struct volume *volume = NULL;
    struct error err = {0};

    if (store_volume_create(store, spec, &volume, &err) != E_OK)
        fail_msg("create %s: %s", spec->id, error_text(&err));
    return volume;
}

static int register_edit(struct node_record *record, void *context, struct error *err)
{
    bool changed;

    (void)context;
    return fence_register(record, "0123456789abcdef0123456789abcdef", "192.0.2.1:7000", &changed, err);
}

void fixture_register(struct store *store, const char *node_id)
{
    struct error err = {0};

    if (store_node_update(store, node_id, register_edit, NULL, &err) != E_OK)
        fail_msg("register %s: %s", node_id, error_text(&err));
}

uint64_t fixture_generation(struct volume *volume)
{
    struct volume_record record;
    uint64_t generation;

    assert_int_equal(volume_snapshot_record(volume, &record), 0);
    generation = record.record_generation;
    volume_record_done(&record);
    return generation;
}

/* ---- what a pool holds, as text ---- */

static void print_volume(FILE *out, struct volume *volume)
{
    struct volume_record record;

    assert_int_equal(volume_snapshot_record(volume, &record), 0);
    fprintf(out, "volume %s %s %" PRIu64 " %d %d, epoch %" PRIu64 ", %zu attached\n", record.id, record.name,
            record.size_bytes, record.thick, record.write_failed, record.epoch_last,
            record.attachments_count);
    volume_record_done(&record);
}

static void print_snapshots(FILE *out, struct store *store)
{
    char after[ID_SNAPSHOT_MAX + 1] = "";
    struct snapshot *snapshot;

    while ((snapshot = store_snapshot_next(store, after))) {
        struct snapshot_record record;

        snapshot_copy_record(snapshot, &record);
        str_copy(after, sizeof(after), record.id);
        fprintf(out, "snapshot %s of %s, %d %d, %u %%%s\n", record.id, record.source_volume_id, record.held,
                record.provisional, snapshot_progress_percent(snapshot), record.lost[0] ? ", lost" : "");
        snapshot_unref(snapshot);
    }
}

static void print_nodes(FILE *out, struct store *store)
{
    struct node_record *records;
    size_t count;

    assert_int_equal(store_node_list(store, &records, &count, NULL), E_OK);
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "node %s %d\n", records[i].id, records[i].fenced);
        node_record_done(&records[i]);
    }
    free(records);
}

char *fixture_state(struct fixture *fixture)
{
    struct store *store = fixture_open(fixture);
    _cleanup_free_ char *listing = fixture_listing(fixture);
    char after[ID_VOLUME_MAX + 1] = "", *text = NULL;
    struct store_capacity capacity;
    struct volume *volume;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    assert_int_equal(store_capacity(store, &capacity, NULL), E_OK);
    while ((volume = store_volume_next(store, after))) {
        str_copy(after, sizeof(after), volume_id(volume));
        print_volume(out, volume);
        volume_unref(volume);
    }
    print_snapshots(out, store);
    print_nodes(out, store);
    fprintf(out, "%" PRIu64 " promised\n%s", capacity.promised_bytes, listing);
    fclose(out);
    store_close(store);
    return text;
}
