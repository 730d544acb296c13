/*
 * Tests of the store on a real XFS: what it keeps over a reopening, whom it lets in, what it refuses, and
 * what it sweeps. Nothing is mocked.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/store/fence.h"
#include "datapath/store/store_internal.h"
#include "tests/unit/store_fixture.h"

#define EMPTY_POOL "lock\nnames/\nnodes/\npool.json\nsnapshots/\ntrash/\nvolumes/\n"

/* ---- life ---- */

static void keeps_over_reopening(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_parameter parameters[] = {{(char *)"z", (char *)"1"}, {(char *)"a", (char *)"2"}};
    struct volume_record spec = fixture_spec(1), record;
    struct attachment attachment;
    struct store *store;
    struct volume *volume;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    spec.parameters = parameters;
    spec.parameters_count = 2;
    volume = fixture_create(store, &spec);
    fixture_register(store, "node-a");
    assert_int_equal(
        store_attach(store, volume, "node-a", ACCESS_SINGLE_NODE_WRITER, false, 1, &attachment, NULL), E_OK);
    volume_unref(volume);
    store_close(store);

    store = fixture_open(fixture);
    volume = store_volume_find(store, spec.id);
    assert_non_null(volume);
    assert_int_equal(volume_snapshot_record(volume, &record), 0);
    assert_string_equal(record.name, spec.name);
    assert_int_equal(record.size_bytes, spec.size_bytes);
    assert_string_equal(record.parameters[0].key, "a");
    assert_int_equal(record.record_generation, 2);
    assert_memory_equal(record.attachments, &attachment, sizeof(attachment));
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_PRECONDITION);
    volume_record_done(&record);
    volume_unref(volume);
    store_close(store);
}

static void deletes_without_a_trace(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(7), record;
    struct store *store;
    struct volume *volume;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume = fixture_create(store, &spec);
    fixture_assert_listing(
        fixture,
        "lock\nnames/\nnodes/\npool.json\nsnapshots/\ntrash/\nvolumes/\nvolumes/store-1.0000000000000007/\n"
        "volumes/store-1.0000000000000007/data\n"
        "volumes/store-1.0000000000000007/volume.json\n");
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_OK);
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_OK);
    assert_null(store_volume_find(store, spec.id));
    assert_true(volume_deleted(volume));
    assert_int_equal(volume_mark_write_failed(volume, NULL), E_NOT_FOUND);
    assert_int_equal(volume_snapshot_record(volume, &record), 0);
    volume_record_done(&record);
    volume_unref(volume);
    fixture_assert_listing(fixture, EMPTY_POOL);
    volume_unref(fixture_create(store, &spec)); /* the id is free again */
    store_close(store);
}

static void repeats_and_differs(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1), other;
    struct store *store;
    struct volume *volume, *again;
    struct error err = {0};

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume = fixture_create(store, &spec);
    again = fixture_create(store, &spec);
    assert_ptr_equal(volume, again);
    volume_unref(again);
    volume_unref(volume);
    other = spec;
    other.size_bytes *= 2;
    assert_int_equal(store_volume_create(store, &other, &volume, &err), E_EXISTS);
    assert_non_null(strstr(error_text(&err), "size"));
    other = spec;
    other.thick = true;
    assert_int_equal(store_volume_create(store, &other, &volume, &err), E_EXISTS);
    assert_non_null(strstr(error_text(&err), "thick"));
    other = spec;
    str_copy(other.name, sizeof(other.name), "another");
    assert_int_equal(store_volume_create(store, &other, &volume, &err), E_EXISTS);
    assert_non_null(strstr(error_text(&err), "name"));
    error_done(&err);
    store_close(store);
}

static void refuses_bad_specs(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record good = fixture_spec(1), spec;
    struct store *store;
    struct volume *volume;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    spec = good;
    str_copy(spec.id, sizeof(spec.id), "../../../../tmp/x");
    assert_int_equal(store_volume_create(store, &spec, &volume, NULL), E_INVALID_ARGUMENT);
    str_copy(spec.id, sizeof(spec.id), "store-2.0000000000000001");
    assert_int_equal(store_volume_create(store, &spec, &volume, NULL), E_INVALID_ARGUMENT);
    spec = good;
    spec.name[0] = '\0';
    assert_int_equal(store_volume_create(store, &spec, &volume, NULL), E_INVALID_ARGUMENT);
    str_copy(spec.name, sizeof(spec.name), "\xff\xfe");
    assert_int_equal(store_volume_create(store, &spec, &volume, NULL), E_INVALID_ARGUMENT);
    spec = good;
    spec.block_size_bytes = 1024;
    assert_int_equal(store_volume_create(store, &spec, &volume, NULL), E_INVALID_ARGUMENT);
    spec = good;
    spec.size_bytes = 0;
    assert_int_equal(store_volume_create(store, &spec, &volume, NULL), E_OUT_OF_RANGE);
    spec.size_bytes = 4097;
    assert_int_equal(store_volume_create(store, &spec, &volume, NULL), E_OUT_OF_RANGE);
    spec.size_bytes = UINT64_C(1) << 63;
    assert_int_equal(store_volume_create(store, &spec, &volume, NULL), E_OUT_OF_RANGE);
    store_close(store);
    fixture_assert_listing(fixture, EMPTY_POOL);
}

/* ---- space ---- */

static void promises_no_more_than_there_is(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct store_options options = fixture->options;
    struct volume_record spec = fixture_spec(1);
    struct store_capacity before, after;
    struct store *store;
    struct volume *volume;
    _cleanup_error_ struct error err = {0};

    fixture_empty(fixture);
    options.overcommit = false;
    options.reserve_bytes = 16 << 20;
    assert_int_equal(store_open(&store, &options, NULL), E_OK);
    assert_int_equal(store_capacity(store, &before, NULL), E_OK);
    /* the file system keeps some to itself: never promised, besides the reserve */
    assert_true(before.free_bytes + options.reserve_bytes + (64 << 20) + (16 << 20) <= before.total_bytes);
    spec.size_bytes = before.free_bytes / 4096 * 4096 + 4096;
    assert_int_equal(store_volume_create(store, &spec, &volume, &err), E_NO_SPACE);
    assert_non_null(strstr(err.text, "left"));
    fixture_assert_listing(fixture, EMPTY_POOL);
    spec.size_bytes -= 4096;
    volume_unref(fixture_create(store, &spec));
    assert_int_equal(store_capacity(store, &after, NULL), E_OK);
    assert_true(after.free_bytes < 4096);
    assert_int_equal(after.promised_bytes, spec.size_bytes);
    assert_int_equal(after.volumes_count, 1);
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_OK);
    assert_int_equal(store_capacity(store, &after, NULL), E_OK);
    assert_int_equal(after.free_bytes, before.free_bytes);
    store_close(store);
}

/* A thick volume as large as what is promised fits, and is allocated; overcommitted, a thin one may be more.
 */
static void thick_is_allocated(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct store_options options = fixture->options;
    struct volume_record spec = fixture_spec(1);
    struct store_capacity capacity;
    struct store *store;
    struct volume *volume;
    struct stat status;
    char path[256];
    uint64_t used;

    fixture_empty(fixture);
    options.overcommit = false;
    options.reserve_bytes = 16 << 20;
    assert_int_equal(store_open(&store, &options, NULL), E_OK);
    assert_int_equal(store_capacity(store, &capacity, NULL), E_OK);
    spec.thick = true;
    spec.size_bytes = capacity.free_bytes / 4096 * 4096;
    volume_unref(fixture_create(store, &spec));
    snprintf(path, sizeof(path), "%s/volumes/%s/data", fixture->pool, spec.id);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_size, spec.size_bytes);
    assert_true((uint64_t)status.st_blocks * 512 >= spec.size_bytes);
    volume = store_volume_find(store, spec.id);
    assert_int_equal(volume_used_bytes(volume, &used, NULL), E_OK);
    assert_true(used >= spec.size_bytes);
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_OK);
    assert_int_equal(volume_used_bytes(volume, &used, NULL), E_NOT_FOUND);
    volume_unref(volume);
    spec.thick = false;
    volume = fixture_create(store, &spec);
    assert_int_equal(volume_used_bytes(volume, &used, NULL), E_OK);
    assert_int_equal(used, 0);
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_OK);
    volume_unref(volume);
    store_close(store);

    store = fixture_open(fixture);
    spec.thick = true;
    spec.size_bytes = UINT64_C(1) << 29; /* more than is free: fallocate fails */
    assert_int_equal(store_volume_create(store, &spec, &volume, NULL), E_NO_SPACE);
    fixture_assert_listing(fixture, EMPTY_POOL);
    store_close(store);
}

/* What is told free of a pool that overcommits is what is there, whatever it may promise. */
static void overcommit_tells_what_is_free(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1);
    struct store_capacity before, after;
    struct store *store;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    assert_int_equal(store_capacity(store, &before, NULL), E_OK);
    assert_int_equal(before.free_bytes, before.promise_max_bytes - before.used_bytes);
    assert_false(before.overcommitted);
    spec.size_bytes = before.promise_max_bytes / 4096 * 4096;
    volume_unref(fixture_create(store, &spec));
    spec = fixture_spec(2);
    spec.thick = true;
    spec.size_bytes = before.free_bytes / 2 / 4096 * 4096;
    volume_unref(fixture_create(store, &spec));
    assert_int_equal(store_capacity(store, &after, NULL), E_OK);
    assert_true(after.free_bytes <= before.free_bytes - spec.size_bytes);
    assert_int_equal(after.free_bytes, after.promise_max_bytes - after.used_bytes);
    assert_int_equal(after.promise_max_bytes, before.promise_max_bytes);
    assert_true(after.overcommitted);
    for (unsigned i = 1; i <= 2; i++)
        assert_int_equal(store_volume_delete(store, fixture_spec(i).id, NULL), E_OK);
    store_close(store);
}

/* Take the file system's space to the last block, and the last inode that fits: files from `count` on;
 * returns how many there are then. */
static unsigned fill_up(const struct fixture *fixture, unsigned count)
{
    char path[256];

    for (off_t size = 64 << 20; size >= 4096;) {
        snprintf(path, sizeof(path), "%s/filler.%u", fixture->pool, count++);
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

        if (fd < 0 || fallocate(fd, 0, 0, size) < 0)
            size /= 2;
        if (fd >= 0)
            close(fd);
    }
    return count;
}

static void empty_again(const struct fixture *fixture, unsigned count)
{
    char path[256];

    while (count-- > 0) {
        snprintf(path, sizeof(path), "%s/filler.%u", fixture->pool, count);
        assert_true(unlink(path) == 0 || errno == ENOENT);
    }
}

static off_t ballast_bytes(const struct fixture *fixture)
{
    struct stat status;
    char path[256];

    snprintf(path, sizeof(path), "%s/ballast", fixture->pool);
    assert_int_equal(stat(path, &status), 0);
    return (off_t)status.st_blocks * 512;
}

static int change_nothing(struct volume_record *record, void *context, struct error *err)
{
    (void)record, (void)context, (void)err;
    return E_OK;
}

static int detach_first(struct volume_record *record, void *context, struct error *err)
{
    int r = attach_remove_begin(record, record->attachments[0].node_id, 0, err);

    (void)context;
    return r == E_OK ? attach_remove_finish(record, record->attachments[0].epoch, err) : r;
}

static int fence_lost(struct node_record *record, void *context, struct error *err)
{
    (void)context;
    return fence_set(record, "lost", NULL, 0, err);
}

/* On a full pool records change, nodes are known and fenced, and volumes go; what was lent is taken back. */
static void full_pool_keeps_records(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1);
    struct attachment attachment;
    struct volume *volume;
    struct store *store;
    unsigned count;
    char node[32];
    _cleanup_error_ struct error err = {0};

    fixture_empty(fixture);
    store = fixture_open(fixture);
    assert_true(ballast_bytes(fixture) >= 16 << 20);
    volume = fixture_create(store, &spec);
    fixture_register(store, "node-a");
    assert_int_equal(
        store_attach(store, volume, "node-a", ACCESS_SINGLE_NODE_WRITER, false, 1, &attachment, NULL), E_OK);
    count = fill_up(fixture, 0);
    for (int i = 0; i < 32; i++) {
        snprintf(node, sizeof(node), "node-%d", i);
        fixture_register(store, node);
        count = fill_up(fixture, count); /* what a slice leaves over, others take */
        if (volume_update(volume, change_nothing, NULL, &err) != E_OK)
            fail_msg("commit %d: %s; ballast %ld", i, error_text(&err), (long)ballast_bytes(fixture));
    }
    assert_int_equal(store_node_update(store, "node-a", fence_lost, NULL, NULL), E_OK);
    assert_int_equal(volume_update(volume, detach_first, NULL, NULL), E_OK);
    volume_unref(volume);
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_OK);
    empty_again(fixture, count);
    fixture_register(store, "node-b");
    assert_true(ballast_bytes(fixture) >= 16 << 20);
    store_close(store);
}

/* ---- locks and attachments ---- */

static void one_operation_at_a_time(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1);
    _cleanup_error_ struct error err = {0};
    struct store *store;
    struct volume *volume;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume = fixture_create(store, &spec);
    assert_int_equal(volume_operation_begin(volume, "detach from node-a", NULL), E_OK);
    assert_int_equal(volume_operation_begin(volume, "attach", &err), E_BUSY);
    assert_non_null(strstr(err.text, "detach from node-a has been running for 0."));
    assert_int_equal(store_volume_delete(store, spec.id, &err), E_BUSY);
    assert_int_equal(volume_mark_write_failed(volume, NULL), E_OK); /* not held up by the slot */
    volume_operation_end(volume);
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_OK);
    volume_unref(volume);
    store_close(store);
}

static int fence_edit(struct node_record *record, void *context, struct error *err)
{
    return context ? fence_set(record, context, NULL, 0, err) : (fence_clear(record), E_OK);
}

static void attach_needs_a_node_in_good_standing(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1);
    struct node_record record, *records;
    struct attachment attachment;
    struct store *store;
    struct volume *volume;
    size_t count;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume = fixture_create(store, &spec);
#define ATTACH_ON(node, generation)                                                                          \
    store_attach(store, volume, node, ACCESS_SINGLE_NODE_WRITER, false, generation, &attachment, NULL)
#define ATTACH(node) ATTACH_ON(node, 1)
    assert_int_equal(ATTACH("node-a"), E_NOT_FOUND);
    assert_int_equal(store_node_get(store, "node-a", &record, NULL), E_NOT_FOUND);
    assert_int_equal(store_node_update(store, "node-a", fence_edit, (void *)"lost", NULL), E_OK);
    assert_int_equal(ATTACH("node-a"), E_PRECONDITION);
    store_close((volume_unref(volume), store));
    store = fixture_open(fixture);
    volume = store_volume_find(store, spec.id);
    assert_int_equal(ATTACH("node-a"), E_PRECONDITION); /* the fence is durable */
    assert_int_equal(store_node_update(store, "node-a", fence_edit, NULL, NULL), E_OK);
    assert_int_equal(ATTACH("node-a"), E_NOT_FOUND); /* known now, but never registered */
    fixture_register(store, "node-a");
    assert_int_equal(ATTACH_ON("node-a", 0), E_INVALID_ARGUMENT);
    assert_int_equal(ATTACH_ON("node-a", 2), E_STALE);
    assert_int_equal(ATTACH("node-a"), E_OK);
    assert_int_equal(attachment.epoch, 1);
    assert_int_equal(ATTACH("node-a"), E_OK); /* what stands is answered, though the record grew */
    assert_int_equal(attachment.epoch, 1);
    fixture_register(store, "node-0");
    assert_int_equal(ATTACH("node-0"), E_PRECONDITION);
    assert_int_equal(store_node_list(store, &records, &count, NULL), E_OK);
    assert_int_equal(count, 2);
    assert_string_equal(records[0].id, "node-0");
    node_record_done(&records[0]);
    node_record_done(&records[1]);
    free(records);
    volume_unref(volume);
    store_close(store);
}

static int clear_write_failed(struct volume_record *record, void *context, struct error *err)
{
    (void)context;
    (void)err;
    record->write_failed = false;
    return E_OK;
}

static void write_failed_is_kept(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1);
    struct store *store;
    struct volume *volume;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume = fixture_create(store, &spec);
    assert_int_equal(volume_mark_write_failed(volume, NULL), E_OK);
    assert_int_equal(volume_mark_write_failed(volume, NULL), E_OK);
    store_close((volume_unref(volume), store));
    store = fixture_open(fixture);
    volume = store_volume_find(store, spec.id);
    assert_true(volume_write_failed(volume));
    assert_int_equal(volume_update(volume, clear_write_failed, NULL, NULL), E_OK);
    assert_false(volume_write_failed(volume));
    store_close((volume_unref(volume), store));
    store = fixture_open(fixture);
    volume = store_volume_find(store, spec.id);
    assert_false(volume_write_failed(volume));
    store_close((volume_unref(volume), store));
}

static void first_write_marks_data(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1), record;
    struct store *store;
    struct volume *volume;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume = fixture_create(store, &spec);
    assert_true(volume_write_marks(volume, 1, 1));
    assert_int_equal(volume_mark_data(volume, 1, 1, NULL), E_OK);
    assert_false(volume_write_marks(volume, 1, 1));
    assert_int_equal(volume_mark_data(volume, 1, 1, NULL), E_OK); /* unchanged: no commit */
    store_close((volume_unref(volume), store));
    store = fixture_open(fixture);
    volume = store_volume_find(store, spec.id);
    assert_int_equal(volume_snapshot_record(volume, &record), 0);
    assert_int_equal(record.content, VOLUME_DATA);
    assert_int_equal(record.record_generation, 2);
    volume_record_done(&record);
    store_close((volume_unref(volume), store));
}

static void names_are_claimed_once(void **state)
{
    static const char *const names[] = {"plain", "../../etc/passwd", "a/b", ".", "\xc3\xa4 \"\\\n"};
    struct fixture *fixture = fixture_ready(state);
    char one[ID_VOLUME_MAX + 1], two[ID_VOLUME_MAX + 1], holder[STORE_HOLDER_MAX + 1];
    char name[ID_VOLUME_NAME_MAX + 1];
    struct store *store;

    fixture_empty(fixture);
    fixture_id(1, one);
    fixture_id(2, two);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        store = fixture_open(fixture);
        assert_int_equal(store_name_claim(store, NAME_VOLUME, names[i], one, holder, NULL), E_OK);
        assert_string_equal(holder, one);
        assert_int_equal(store_name_claim(store, NAME_VOLUME, names[i], two, holder, NULL), E_OK);
        assert_string_equal(holder, one);
        store_close(store);
        store = fixture_open(fixture);
        assert_int_equal(store_name_release(store, NAME_VOLUME, names[i], two, NULL),
                         E_OK); /* not two's: it stays */
        assert_int_equal(store_name_claim(store, NAME_VOLUME, names[i], two, holder, NULL), E_OK);
        assert_string_equal(holder, one);
        assert_true(store_name_find(store, NAME_VOLUME, names[i], holder));
        assert_string_equal(holder, one);
        assert_true(store_name_of(store, one, name));
        assert_string_equal(name, names[i]);
        assert_false(store_name_of(store, two, name));
        assert_int_equal(store_name_release(store, NAME_VOLUME, names[i], one, NULL), E_OK);
        assert_int_equal(store_name_release(store, NAME_VOLUME, names[i], one, NULL), E_OK);
        assert_false(store_name_find(store, NAME_VOLUME, names[i], holder));
        store_close(store);
        fixture_assert_listing(fixture, EMPTY_POOL);
    }
    store = fixture_open(fixture);
    assert_int_equal(store_name_claim(store, NAME_VOLUME, "", one, holder, NULL), E_INVALID_ARGUMENT);
    assert_int_equal(store_name_claim(store, NAME_VOLUME, "\xff", one, holder, NULL), E_INVALID_ARGUMENT);
    assert_int_equal(store_name_claim(store, NAME_VOLUME, "x", "y", holder, NULL), E_INVALID_ARGUMENT);
    store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_over_reopening),
        cmocka_unit_test(deletes_without_a_trace),
        cmocka_unit_test(repeats_and_differs),
        cmocka_unit_test(refuses_bad_specs),
        cmocka_unit_test(promises_no_more_than_there_is),
        cmocka_unit_test(thick_is_allocated),
        cmocka_unit_test(overcommit_tells_what_is_free),
        cmocka_unit_test(full_pool_keeps_records),
        cmocka_unit_test(one_operation_at_a_time),
        cmocka_unit_test(attach_needs_a_node_in_good_standing),
        cmocka_unit_test(write_failed_is_kept),
        cmocka_unit_test(first_write_marks_data),
        cmocka_unit_test(names_are_claimed_once),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
