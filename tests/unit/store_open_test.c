/*
 * Tests of opening a store on a real XFS: whom it lets in, what it refuses by name, what it sweeps, and that
 * many volumes are no trouble. No mocks.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/pool/pool_internal.h"
#include "tests/unit/store_fixture.h"

#define VOLUMES_MANY 10000

static void write_text(const struct fixture *fixture, const char *name, const char *text)
{
    char path[256];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", fixture->pool, name);
    file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* Opening fails with this code, and the text names both words. */
static void assert_open_fails(struct fixture *fixture, int code, const char *word, const char *other)
{
    _cleanup_error_ struct error err = {0};
    struct store *store = NULL;
    int r = store_open(&store, &fixture->options, &err);

    if (r != code || !strstr(error_text(&err), word) || !strstr(error_text(&err), other))
        fail_msg("expected %s with \"%s\" and \"%s\": %s, %s", error_name(code), word, other, error_name(r),
                 error_text(&err));
}

/* ---- who may come in ---- */

static void one_store_at_a_time(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct store *store = fixture_open(fixture);
    int kept;

    assert_open_fails(fixture, E_BUSY, fixture->pool, "in use");
    assert_true(fcntl(store_lock_fd(store), F_GETFD) & FD_CLOEXEC);
    /* As a ring does: the lock stays while any descriptor of the description is open. */
    kept = dup(store_lock_fd(store));
    store_close(store);
    assert_open_fails(fixture, E_BUSY, fixture->pool, "in use");
    close(kept);
    store_close(fixture_open(fixture));
}

static void only_the_configured_pool(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct fixture other = *fixture;
    _cleanup_free_ char *listing = NULL;

    other.options.pool_uuid = "00000000-0000-4000-8000-000000000000";
    assert_open_fails(&other, E_PRECONDITION, fixture->uuid, "00000000-0000-4000-8000-000000000000");
    other = *fixture;
    other.options.server_id = "store-2";
    assert_open_fails(&other, E_PRECONDITION, "store-1", "store-2");
    other = *fixture;
    other.options.pool_uuid = NULL;
    assert_open_fails(&other, E_INVALID_ARGUMENT, "UUID", "");
    /* A mountpoint whose file system is not mounted: refused, and nothing is written there. */
    snprintf(other.pool, sizeof(other.pool), "%s/empty", fixture->dir);
    other.options = fixture->options;
    other.options.path = other.pool;
    assert_open_fails(&other, E_PRECONDITION, other.pool, "mounted");
    assert_int_equal(mkdir(other.pool, 0700), 0);
    assert_open_fails(&other, E_PRECONDITION, other.pool, "not mounted");
    listing = fixture_listing(&other);
    assert_string_equal(listing, "");
    assert_int_equal(rmdir(other.pool), 0);
}

/* Whether host.json says that this host serves it. */
static bool is_entered(const struct fixture *fixture)
{
    _cleanup_fd_ int dir_fd = open(fixture->pool, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char host[POOL_HOST_MAX + 1];
    bool open = false, ours = false;

    assert_int_equal(pool_host_look(dir_fd, host, &open, &ours, NULL), E_OK);
    assert_true(ours);
    return open;
}

static void one_host_at_a_time(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    _cleanup_fd_ int dir_fd = open(fixture->pool, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct store *store = fixture_open(fixture);

    assert_true(is_entered(fixture));
    store_close(store);
    assert_false(is_entered(fixture));
    /* Another host, which was killed, or lives: nothing is swept either. */
    write_text(fixture, "host.json", "{\"format\": 1, \"host\": \"elsewhere\", \"open\": true}");
    write_text(fixture, "trash/new.store-1.0000000000000001", "theirs");
    assert_open_fails(fixture, E_PRECONDITION, "elsewhere", "--take");
    assert_int_equal(faccessat(dir_fd, "trash/new.store-1.0000000000000001", F_OK, 0), 0);
    assert_int_equal(pool_host_take(dir_fd, NULL), E_OK);
    store = fixture_open(fixture);
    assert_true(is_entered(fixture));
    store_close(store);
    /* It has closed it. */
    write_text(fixture, "host.json", "{\"format\": 1, \"host\": \"elsewhere\", \"open\": false}");
    store = fixture_open(fixture);
    assert_true(is_entered(fixture));
    store_close(store);
    write_text(fixture, "host.json", "{\"format\": 1, \"host\": 5, \"open\": false}");
    assert_open_fails(fixture, E_CORRUPT, "host.json", "host");
    write_text(fixture, "host.json", "{\"format\": 2}");
    assert_open_fails(fixture, E_CORRUPT, "host.json", "format");
    assert_int_equal(unlinkat(dir_fd, "host.json", 0), 0);
    store_close(fixture_open(fixture)); /* of a pool older than this file */
}

static void pool_needs_xfs_with_reflink(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    _cleanup_free_ char *command = NULL, *dir = str_format("%s/plain", fixture->dir);
    _cleanup_error_ struct error err = {0};
    char uuid[37] = "untouched";
    int r;

    assert_int_equal(store_pool_create(fixture->dir, FIXTURE_SERVER, uuid, &err), E_PRECONDITION);
    assert_non_null(strstr(err.text, "XFS with reflink"));
    assert_int_equal(store_pool_create(fixture->pool, FIXTURE_SERVER, uuid, &err), E_EXISTS);
    assert_non_null(strstr(err.text, fixture->uuid));
    assert_int_equal(store_pool_create(fixture->pool, "Not An Id", uuid, &err), E_INVALID_ARGUMENT);
    command = str_format("mkdir %1$s && truncate -s 320M %1$s.img && mkfs.xfs -q -m reflink=0 %1$s.img && "
                         "mount -o loop %1$s.img %1$s",
                         dir);
    assert_int_equal(system(command), 0);
    r = store_pool_create(dir, FIXTURE_SERVER, uuid, &err);
    free(command);
    command = str_format("umount %1$s && rmdir %1$s && rm %1$s.img", dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(r, E_PRECONDITION);
    assert_non_null(strstr(err.text, "without reflink"));
    assert_string_equal(uuid, "untouched");
}

/* ---- records that are damaged, and leftovers ---- */

/* A store with volume 3, which cannot be read for a reason that names word, and volume 4, which can. */
static struct store *open_unreadable(struct fixture *fixture, const char *word, struct volume **ret)
{
    _cleanup_error_ struct error err = {0};
    struct store *store = fixture_open(fixture);
    struct volume *sound = store_volume_find(store, "store-1.0000000000000004");
    struct volume *volume = store_volume_find(store, "store-1.0000000000000003");

    assert_non_null(sound);
    assert_non_null(volume);
    assert_int_equal(volume_check_readable(sound, &err), E_OK);
    volume_unref(sound);
    assert_int_equal(volume_check_readable(volume, &err), E_CORRUPT);
    if (!strstr(error_text(&err), word) || !strstr(error_text(&err), volume_id(volume)))
        fail_msg("expected \"%s\": %s", word, error_text(&err));
    *ret = volume;
    return store;
}

static int edit_never(struct volume_record *record, void *context, struct error *err)
{
    (void)record;
    (void)context;
    (void)err;
    fail_msg("a record that was not read is edited");
    return E_OK;
}

/* What is asked of it changes nothing, and says E_CORRUPT; its place, name and space stay taken. */
static void assert_kept_apart(struct store *store, struct volume *volume)
{
    struct volume_record spec = fixture_spec(3), record = {0};
    struct store_capacity capacity = {0};
    struct volume *again = NULL;
    struct image *image = NULL;
    uint64_t used_bytes = 0;

    assert_int_equal(volume_update(volume, edit_never, NULL, NULL), E_CORRUPT);
    assert_int_equal(volume_image(volume, &image, NULL), E_CORRUPT);
    assert_int_equal(volume_used_bytes(volume, &used_bytes, NULL), E_CORRUPT);
    assert_int_equal(store_volume_create(store, &spec, &again, NULL), E_CORRUPT);
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_CORRUPT);
    assert_int_equal(volume_snapshot_record(volume, &record), 0);
    assert_string_equal(record.name, spec.name);
    volume_record_done(&record);
    assert_int_equal(store_capacity(store, &capacity, NULL), E_OK);
    assert_int_equal(capacity.volumes_count, 2);
    assert_int_equal(capacity.promised_bytes, 2 * spec.size_bytes);
}

/* Each way in which one volume cannot be read: the store opens, the other volume is as ever, and the files
 * stay as they are. */
static void unreadable_volume_is_kept_apart(void **state)
{
    static const struct {
        const char *record, *word;
    } damages[] = {
        {"{\"format\": 1, \"id\": \"store-1.0000000000000004\"}", "directory's name"},
        {"{\"format\": 99, \"id\": \"store-1.0000000000000003\"}", "newer"},
        {"{\"format\": 1, \"id\": \"store-1.0000000000000003\"}", "is missing"},
        {"{\"format\": 1, ", "parse"},
        {"", "parse"},
        {"[]", "object"},
        {NULL, "volume.json is missing"},
    };
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(3), other = fixture_spec(4);
    char path[256], full[512], holder[STORE_HOLDER_MAX + 1];
    struct volume *volume;
    struct store *store;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    assert_int_equal(store_name_claim(store, NAME_VOLUME, spec.name, spec.id, holder, NULL), E_OK);
    volume_unref(fixture_create(store, &spec));
    volume_unref(fixture_create(store, &other));
    store_close(store);
    snprintf(path, sizeof(path), "volumes/%s/volume.json", spec.id);
    snprintf(full, sizeof(full), "%s/%s", fixture->pool, path);
    for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
        _cleanup_free_ char *before = NULL;

        if (damages[i].record)
            write_text(fixture, path, damages[i].record);
        else
            assert_int_equal(unlink(full), 0);
        before = fixture_listing(fixture);
        store = open_unreadable(fixture, damages[i].word, &volume);
        assert_kept_apart(store, volume);
        volume_unref(volume);
        store_close(store);
        fixture_assert_listing(fixture, before);
    }
    fixture_empty(fixture);
}

/* The record is there, the data is not, or not all of it: what is there keeps its space. */
static void unreadable_data_is_kept_apart(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(3), other = fixture_spec(4);
    struct store_capacity capacity = {0};
    struct volume *volume;
    struct store *store;
    char path[256];

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume_unref(fixture_create(store, &spec));
    volume_unref(fixture_create(store, &other));
    store_close(store);
    snprintf(path, sizeof(path), "%s/volumes/%s/data", fixture->pool, spec.id);
    assert_int_equal(truncate(path, 4096), 0);
    store = open_unreadable(fixture, "4096", &volume);
    assert_int_equal(store_capacity(store, &capacity, NULL), E_OK);
    assert_int_equal(capacity.promised_bytes, spec.size_bytes + 4096);
    volume_unref(volume);
    store_close(store);
    assert_int_equal(unlink(path), 0);
    store = open_unreadable(fixture, "data file is missing", &volume);
    volume_unref(volume);
    store_close(store);
    assert_int_equal(mkdir(path, 0700), 0);
    store = open_unreadable(fixture, "not a file", &volume);
    volume_unref(volume);
    store_close(store);
    fixture_empty(fixture);
}

static void damaged_pool_is_named(void **state)
{
    struct fixture *fixture = fixture_ready(state);

    fixture_empty(fixture);
    write_text(fixture, "nodes/a.json", "{\"format\": 1, \"id\": \"b\"}");
    assert_open_fails(fixture, E_CORRUPT, "nodes/a.json", "another name");
    fixture_empty(fixture);
    write_text(fixture, "names/00.json", "{\"format\": 1, \"name\": \"b\"}");
    assert_open_fails(fixture, E_CORRUPT, "names/00.json", "another name");
    fixture_empty(fixture);
}

static void leftovers_are_swept(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(3);
    _cleanup_free_ char *before = NULL;
    struct store *store;
    char path[256];

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume_unref(fixture_create(store, &spec));
    store_close(store);
    before = fixture_listing(fixture);
    snprintf(path, sizeof(path), "volumes/%s/.volume.json.tmp", spec.id);
    write_text(fixture, path, "half");
    write_text(fixture, "nodes/.a.json.tmp", "half");
    write_text(fixture, "names/.00.json.tmp", "half");
    snprintf(path, sizeof(path), "%s/trash/new.store-1.0000000000000009", fixture->pool);
    assert_int_equal(mkdir(path, 0700), 0);
    write_text(fixture, "trash/new.store-1.0000000000000009/data", "half");
    write_text(fixture, ".pool.json.tmp", "half");
    store_close(fixture_open(fixture));
    fixture_assert_listing(fixture, before);
}

/* The volume's data file becomes 3 MiB, written to at that offset; its size once the pool was opened. */
static off_t opened_with_longer_data(struct fixture *fixture, const char *id, off_t written, const char *text)
{
    struct stat status;
    char path[256];

    snprintf(path, sizeof(path), "%s/volumes/%s/data", fixture->pool, id);
    _cleanup_fd_ int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && fallocate(fd, 0, 0, 3 << 20) == 0);
    assert_int_equal(pwrite(fd, text, strlen(text), written), strlen(text));
    store_close(fixture_open(fixture));
    assert_int_equal(fstat(fd, &status), 0);
    return status.st_size;
}

/* A growth that was cut off is taken back; but not where a record that is older than the data says less. */
static void what_was_written_beyond_the_record_stays(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1);
    struct store *store;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume_unref(fixture_create(store, &spec));
    store_close(store);
    assert_int_equal(opened_with_longer_data(fixture, spec.id, (1 << 20) - 4, "last"), 1 << 20);
    assert_int_equal(opened_with_longer_data(fixture, spec.id, (3 << 20) - 4, "last"), 3 << 20);
}

/* ---- many ---- */

/* As the pool has it on disk, without its syncs. */
static void put_volume(const struct fixture *fixture, unsigned n)
{
    struct volume_record spec = fixture_spec(n);
    _cleanup_json_ json_t *object = NULL;
    char path[256];
    int fd;

    snprintf(path, sizeof(path), "%s/volumes/%s", fixture->pool, spec.id);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/volumes/%s/data", fixture->pool, spec.id);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)spec.size_bytes) == 0);
    close(fd);
    assert_int_equal(volume_record_to_json(&spec, &object), 0);
    json_object_set_new(object, "format", json_integer(1));
    snprintf(path, sizeof(path), "%s/volumes/%s/volume.json", fixture->pool, spec.id);
    assert_int_equal(json_dump_file(object, path, 0), 0);
}

static void lists_many_in_order(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    char id[ID_VOLUME_MAX + 1], after[ID_VOLUME_MAX + 1] = "";
    struct volume *volume;
    struct store *store;
    uint64_t start_ns, opened_ns, listed_ns, cpu_ms;
    clock_t cpu;
    unsigned count = 0;

    fixture_empty(fixture);
    for (unsigned n = VOLUMES_MANY; n > 0; n--)
        put_volume(fixture, n);
    start_ns = time_now_ns();
    cpu = clock();
    store = fixture_open(fixture);
    opened_ns = time_now_ns();
    cpu_ms = (uint64_t)(clock() - cpu) * 1000 / CLOCKS_PER_SEC;
    while ((volume = store_volume_next(store, after))) {
        struct volume_record record;

        assert_string_equal(volume_id(volume), fixture_id(++count, id));
        assert_int_equal(volume_snapshot_record(volume, &record), 0);
        volume_record_done(&record);
        str_copy(after, sizeof(after), volume_id(volume));
        volume_unref(volume);
    }
    listed_ns = time_now_ns();
    assert_int_equal(count, VOLUMES_MANY);
    print_message("%d volumes: opened in %" PRIu64 " ms (%" PRIu64 " ms of CPU time), listed in %" PRIu64
                  " us a page of 100\n",
                  VOLUMES_MANY, (opened_ns - start_ns) / 1000000, cpu_ms,
                  (listed_ns - opened_ns) / 1000 / (VOLUMES_MANY / 100));
    store_close(store);
    fixture_empty(fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_store_at_a_time),
        cmocka_unit_test(only_the_configured_pool),
        cmocka_unit_test(one_host_at_a_time),
        cmocka_unit_test(pool_needs_xfs_with_reflink),
        cmocka_unit_test(damaged_pool_is_named),
        cmocka_unit_test(unreadable_volume_is_kept_apart),
        cmocka_unit_test(unreadable_data_is_kept_apart),
        cmocka_unit_test(leftovers_are_swept),
        cmocka_unit_test(what_was_written_beyond_the_record_stays),
        cmocka_unit_test(lists_many_in_order),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
