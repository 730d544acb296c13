/*
 * Volumes made of volumes and of snapshots, what their space is, deleting all of them in any order; and the
 * hold. On a real XFS; nothing is mocked.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/copy.h"
#include "datapath/store/store_internal.h"
#include "tests/unit/store_bench.h"

#define SIZE (8 * MIB)

static struct volume_record copy_spec(unsigned n, uint64_t size_bytes)
{
    struct volume_record spec = fixture_spec(n);

    spec.size_bytes = size_bytes;
    spec.block_size_bytes = 0;
    return spec;
}

/* A copy, whole; a reference to the volume that it became. */
static struct volume *copy_whole(struct bench *bench, const struct volume_record *spec, struct volume *volume,
                                 struct snapshot *snapshot)
{
    struct error err = {0};
    struct copy *copy = NULL;
    struct volume *made;

    if (store_copy_begin(bench->store, spec, volume, snapshot, &copy, &err) != E_OK ||
        (copy && copy_wait(copy, time_now_ms() + 60000, &err) != E_OK))
        fail_msg("copy: %s", error_text(&err));
    copy_unref(copy);
    made = store_volume_find(bench->store, spec->id);
    assert_non_null(made);
    return made;
}

static void fill(struct bench *bench)
{
    for (unsigned i = 0; i < 64; i++)
        bench_write(bench, (uint64_t)(i * 131 % 2048) * 4096, 4096, 'a' + (int)i % 26);
}

static void assert_bytes(struct bench *bench, const char *id, const char *expected, size_t expected_size,
                         size_t size)
{
    size_t found_size;
    _cleanup_free_ char *found = bench_data(bench->fixture, "volumes", id, &found_size);

    assert_int_equal(found_size, size);
    assert_memory_equal(found, expected, expected_size);
    for (size_t i = expected_size; i < size; i++)
        assert_int_equal(found[i], 0);
}

static void clones_and_restores(void **state)
{
    struct volume_record clone = copy_spec(2, SIZE), restored = copy_spec(3, SIZE + 3 * MIB + 4096), record;
    struct volume *made[2];
    struct snapshot *snapshot;
    struct bench bench;
    char *expected;
    size_t size;

    bench_open(&bench, state, SIZE);
    fill(&bench);
    expected = bench_data(bench.fixture, "volumes", volume_id(bench.volume), &size);
    snapshot = bench_snapshot(&bench, 1);
    made[0] = copy_whole(&bench, &clone, bench.volume, NULL);
    bench_write(&bench, 0, SIZE, 'Z');
    bench_wait_ready(snapshot);
    made[1] = copy_whole(&bench, &restored, NULL, snapshot);
    assert_bytes(&bench, clone.id, expected, SIZE, SIZE);
    assert_bytes(&bench, restored.id, expected, SIZE, restored.size_bytes);
    volume_unref(made[0]);
    volume_unref(made[1]);
    made[1] = copy_whole(&bench, &restored, NULL, snapshot); /* a repeat finds what stands */
    assert_int_equal(volume_snapshot_record(made[1], &record), 0);
    assert_int_equal(record.content, VOLUME_DATA); /* never formatted */
    assert_int_equal(record.block_size_bytes, 4096);
    assert_string_equal(record.source_id, FIXTURE_SERVER ".s-0000000000000001");
    volume_record_done(&record);
    volume_unref(made[1]);
    /* Source, snapshot, copies: in any order, and what is left keeps its bytes. */
    assert_int_equal(store_snapshot_delete(bench.store, FIXTURE_SERVER ".s-0000000000000001", NULL), E_OK);
    snapshot_unref(snapshot);
    assert_int_equal(store_volume_delete(bench.store, clone.id, NULL), E_OK);
    assert_bytes(&bench, restored.id, expected, SIZE, restored.size_bytes);
    made[1] = store_volume_find(bench.store, restored.id);
    assert_int_equal(volume_expand(made[1], SIZE + 4 * MIB, 1, NULL), E_OK);
    volume_unref(made[1]);
    assert_bytes(&bench, restored.id, expected, SIZE, SIZE + 4 * MIB);
    bench_reopen(&bench);
    assert_bytes(&bench, restored.id, expected, SIZE, SIZE + 4 * MIB);
    free(expected);
    bench_close(&bench);
}

static void a_source_may_go_before_its_copies(void **state)
{
    struct volume_record spec = copy_spec(2, SIZE);
    struct bench bench;
    struct snapshot *snapshot;
    struct copy *copy;
    char *expected, *found;
    size_t size;

    bench_open(&bench, state, SIZE);
    fill(&bench);
    expected = bench_data(bench.fixture, "volumes", volume_id(bench.volume), &size);
    shares_allow(0);
    snapshot = bench_snapshot(&bench, 1);
    assert_int_equal(store_copy_begin(bench.store, &spec, bench.volume, NULL, &copy, NULL), E_OK);
    assert_int_equal(store_volume_delete(bench.store, volume_id(bench.volume), NULL), E_OK);
    shares_allow(-1);
    bench_wait_ready(snapshot);
    assert_int_equal(copy_wait(copy, time_now_ms() + 60000, NULL), E_OK);
    copy_unref(copy);
    found = bench_data(bench.fixture, "snapshots", FIXTURE_SERVER ".s-0000000000000001", &size);
    assert_memory_equal(found, expected, SIZE);
    free(found);
    assert_bytes(&bench, spec.id, expected, SIZE, SIZE);
    free(expected);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

static void joins_refuses_and_stops(void **state)
{
    struct volume_record spec = copy_spec(2, SIZE), other;
    struct snapshot *snapshot;
    struct volume *volume;
    struct copy *copy, *again = NULL;
    struct bench bench;

    bench_open(&bench, state, SIZE);
    fill(&bench);
    snapshot = bench_snapshot(&bench, 1);
    bench_wait_ready(snapshot);
    other = copy_spec(3, SIZE - MIB);
    assert_int_equal(store_copy_begin(bench.store, &other, NULL, snapshot, &again, NULL), E_OUT_OF_RANGE);
    other = copy_spec(3, SIZE);
    other.block_size_bytes = 512;
    assert_int_equal(store_copy_begin(bench.store, &other, NULL, snapshot, &again, NULL), E_INVALID_ARGUMENT);
    shares_allow(0);
    assert_int_equal(store_copy_begin(bench.store, &spec, NULL, snapshot, &copy, NULL), E_OK);
    assert_int_equal(store_copy_begin(bench.store, &spec, NULL, snapshot, &again, NULL), E_OK);
    assert_ptr_equal(copy, again);
    copy_unref(again);
    assert_int_equal(store_copy_begin(bench.store, &spec, bench.volume, NULL, &again, NULL), E_EXISTS);
    other = spec;
    other.size_bytes += MIB;
    assert_int_equal(store_copy_begin(bench.store, &other, NULL, snapshot, &again, NULL), E_EXISTS);
    assert_int_equal(copy_wait(copy, time_now_ms(), NULL), E_DEADLINE);
    assert_null(store_volume_find(bench.store, spec.id)); /* nothing, until it is whole */
    other = fixture_spec(2);
    assert_int_equal(store_volume_create(bench.store, &other, &volume, NULL), E_BUSY);
    assert_int_equal(store_snapshot_delete(bench.store, FIXTURE_SERVER ".s-0000000000000001", NULL),
                     E_PRECONDITION);
    shares_wait(1);
    shares_allow(-1);
    assert_int_equal(store_volume_delete(bench.store, spec.id, NULL), E_OK); /* of what is half-made, too */
    assert_null(store_volume_find(bench.store, spec.id));
    copy_unref(copy);
    assert_int_equal(store_snapshot_delete(bench.store, FIXTURE_SERVER ".s-0000000000000001", NULL), E_OK);
    assert_int_equal(store_copy_begin(bench.store, &spec, NULL, snapshot, &again, NULL), E_PRECONDITION);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

/* ---- a disk that keeps what is under way ---- */

#define STUCK FIXTURE_SERVER ".s-0000000000000001"

static void a_deletion_does_not_wait_for_the_disk_for_long(void **state)
{
    _cleanup_error_ struct error err = {0};
    struct snapshot *snapshot;
    struct bench bench;
    int r;

    bench_open(&bench, state, SIZE);
    for (uint64_t i = 0; i < 100; i++) /* more extents than are shared at once */
        bench_write(&bench, i * 80 * KIB, 4096, 'x');
    shares_allow(0);
    snapshot = bench_snapshot(&bench, 1);
    shares_wait(1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(store_snapshot_delete(bench.store, STUCK, &err), E_BUSY);
        assert_non_null(strstr(error_text(&err), "told to stop"));
    }
    shares_allow(-1);
    while ((r = store_snapshot_delete(bench.store, STUCK, &err)) == E_BUSY)
        ;
    assert_int_equal(r, E_OK);
    assert_int_equal(snapshot_wait(snapshot, UINT64_MAX, NULL),
                     E_CANCELLED); /* the first word for it stood */
    assert_null(store_snapshot_find(bench.store, STUCK));
    snapshot_unref(snapshot);
    bench_close(&bench);
}

static void a_repeat_is_told_what_runs(void **state)
{
    _cleanup_error_ struct error err = {0};
    struct key_lock deleting, other, again;
    struct key_locks locks;

    (void)state;
    key_locks_init(&locks);
    assert_int_equal(key_lock_take(&locks, &deleting, "a", "deleting", &err), E_OK);
    assert_int_equal(key_lock_take(&locks, &other, "b", "making", &err), E_OK);
    assert_int_equal(key_lock_take(&locks, &again, "a", "making", &err), E_BUSY);
    assert_non_null(strstr(error_text(&err), "deleting of a has been running for "));
    key_lock_give(&deleting);
    assert_int_equal(key_lock_take(&locks, &again, "a", "making", &err), E_OK);
    key_lock_give(&other);
    key_lock_give(&again);
    assert_null(locks.first);
    key_locks_done(&locks);
}

/* ---- space ---- */

static uint64_t exclusive_of_volume(struct volume *volume)
{
    uint64_t bytes;

    assert_int_equal(volume_exclusive_bytes(volume, &bytes, NULL), E_OK);
    return bytes;
}

static uint64_t exclusive_of_snapshot(struct snapshot *snapshot)
{
    uint64_t bytes;

    assert_int_equal(snapshot_exclusive_bytes(snapshot, &bytes, NULL), E_OK);
    return bytes;
}

static uint64_t promised(struct store *store)
{
    struct store_capacity capacity;

    assert_int_equal(store_capacity(store, &capacity, NULL), E_OK);
    return capacity.promised_bytes;
}

static void space_is_told_as_it_is(void **state)
{
    struct snapshot *snapshot;
    struct bench bench;
    uint64_t used;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, 4 * MIB, 'x');
    assert_int_equal(exclusive_of_volume(bench.volume), 4 * MIB);
    snapshot = bench_snapshot(&bench, 1);
    bench_wait_ready(snapshot);
    assert_int_equal(snapshot_used_bytes(snapshot, &used, NULL), E_OK);
    assert_int_equal(used, 4 * MIB);
    assert_int_equal(promised(bench.store), SIZE + 4 * MIB);
    assert_int_equal(exclusive_of_volume(bench.volume), 0);
    assert_int_equal(exclusive_of_snapshot(snapshot), 0);
    bench_write(&bench, 0, MIB, 'y');
    assert_int_equal(exclusive_of_snapshot(snapshot), MIB);
    assert_int_equal(exclusive_of_volume(bench.volume), MIB);
    snapshot_unref(snapshot);
    bench_reopen(&bench);
    assert_int_equal(promised(bench.store), SIZE + 4 * MIB);
    assert_int_equal(store_snapshot_delete(bench.store, FIXTURE_SERVER ".s-0000000000000001", NULL), E_OK);
    assert_int_equal(promised(bench.store), SIZE);
    while (exclusive_of_volume(bench.volume) != 4 * MIB) /* XFS frees what was unlinked a little later */
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    bench_close(&bench);
}

static void space_of_many_extents_is_its_own(void **state)
{
    struct bench bench;
    uint64_t used;

    bench_open(&bench, state, SIZE);
    for (uint64_t offset = 0; offset < 4 * MIB; offset += 8192)
        bench_write(&bench, offset, 4096, 'x');
    assert_int_equal(volume_used_bytes(bench.volume, &used, NULL), E_OK);
    assert_true(used > 4 * MIB); /* the list of them takes blocks too, which nobody shares */
    assert_int_equal(exclusive_of_volume(bench.volume), used);
    bench_close(&bench);
}

static void space_that_is_not_there_is_not_promised(void **state)
{
    struct snapshot_record spec = bench_snapshot_spec(1);
    struct volume_record copied = copy_spec(2, SIZE);
    struct store_capacity capacity;
    struct snapshot *snapshot;
    struct volume *rest;
    struct copy *copy;
    struct bench bench;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, 4 * MIB, 'x');
    bench.fixture->options.overcommit = false;
    bench_reopen(&bench);
    bench.fixture->options.overcommit = true;
    assert_int_equal(store_capacity(bench.store, &capacity, NULL), E_OK);
    struct volume_record filler = fixture_spec(3);
    filler.size_bytes = ROUND_DOWN(capacity.free_bytes - 3 * MIB, 4096);
    rest = fixture_create(bench.store, &filler);
    assert_int_equal(store_snapshot_create(bench.store, bench.volume, &spec, &snapshot, NULL), E_NO_SPACE);
    assert_int_equal(store_copy_begin(bench.store, &copied, bench.volume, NULL, &copy, NULL), E_NO_SPACE);
    assert_int_equal(promised(bench.store), SIZE + filler.size_bytes);
    volume_unref(rest);
    bench_close(&bench);
}

/* A volume of blocks of 512 bytes ends within a block of the file system; and it grows while it is copied. */
static void an_odd_end_is_copied_too(void **state)
{
    struct volume_record odd = fixture_spec(4), spec = copy_spec(5, MIB + 512 * 11);
    struct snapshot_record taken = bench_snapshot_spec(1);
    struct snapshot *snapshot;
    struct volume *volume, *made;
    struct image *image;
    struct bench bench;
    char *expected;
    size_t size;

    bench_open(&bench, state, MIB);
    odd.block_size_bytes = 512;
    odd.size_bytes = MIB + 512 * 3;
    volume = fixture_create(bench.store, &odd);
    assert_int_equal(volume_image(volume, &image, NULL), E_OK);
    test_io_run(&bench.loop, image, IMAGE_WRITE, MIB - 4096, 4096 + 512 * 3, 'x', NULL);
    made = copy_whole(&bench, &spec, volume, NULL);
    expected = bench_data(bench.fixture, "volumes", odd.id, &size);
    assert_bytes(&bench, spec.id, expected, size, spec.size_bytes);
    shares_allow(0);
    assert_int_equal(store_snapshot_create(bench.store, volume, &taken, &snapshot, NULL), E_OK);
    assert_int_equal(volume_expand(volume, 2 * MIB, fixture_generation(volume), NULL), E_OK);
    test_io_run(&bench.loop, image, IMAGE_WRITE, MIB + 8192, 4096, 'y', NULL); /* waits for nothing */
    struct test_io *late = test_io_start(&bench.loop, image, IMAGE_WRITE, MIB + 512 * 2, 4096, 'y', NULL);
    shares_allow(-1);
    assert_int_equal(test_io_end(late, NULL), 0);
    bench_wait_ready(snapshot);
    char *found = bench_data(bench.fixture, "snapshots", taken.id, &size);
    assert_int_equal(size, odd.size_bytes);
    assert_memory_equal(found, expected, size);
    free(found);
    free(expected);
    snapshot_unref(snapshot);
    volume_unref(made);
    volume_unref(volume);
    bench_close(&bench);
}

/* Its copy was got ready for the size before: what was written beyond that would be missing. */
static void a_volume_that_has_just_grown_is_not_cut(void **state)
{
    struct image_copy *ranges;
    struct bench bench;

    bench_open(&bench, state, SIZE);
    assert_int_equal(image_copy_new(SIZE, &ranges), 0);
    assert_int_equal(volume_expand(bench.volume, 2 * SIZE, fixture_generation(bench.volume), NULL), E_OK);
    assert_int_equal(image_copy_begin(bench.image, ranges, NULL), E_BUSY);
    bench_write(&bench, 0, 4096, 'x'); /* waits for nothing */
    image_copy_free(ranges);
    assert_int_equal(image_copy_new(2 * SIZE, &ranges), 0);
    assert_int_equal(image_copy_begin(bench.image, ranges, NULL), E_OK);
    image_copy_end(ranges);
    image_copy_free(ranges);
    bench_close(&bench);
}

/* XFS takes a direct write to a part of a block that is shared through its cache. */
static void a_part_of_a_shared_block_is_copied_too(void **state)
{
    struct volume_record odd = fixture_spec(4);
    struct snapshot_record taken[2] = {bench_snapshot_spec(1), bench_snapshot_spec(2)};
    struct snapshot *snapshots[2];
    struct volume *volume;
    struct image *image;
    struct bench bench;
    char *data;
    size_t size;

    bench_open(&bench, state, MIB);
    odd.block_size_bytes = 512;
    volume = fixture_create(bench.store, &odd);
    assert_int_equal(volume_image(volume, &image, NULL), E_OK);
    test_io_run(&bench.loop, image, IMAGE_WRITE, 0, 8192, 'x', NULL);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(store_snapshot_create(bench.store, volume, &taken[i], &snapshots[i], NULL), E_OK);
        bench_wait_ready(snapshots[i]);
        test_io_run(&bench.loop, image, IMAGE_WRITE, 4096 + 512 * i, 512, 'y', NULL);
        test_io_run(&bench.loop, image, IMAGE_WRITE, 65536 + 512 * i, 512, 'z', NULL);
    }
    for (unsigned i = 0; i < 2; i++) {
        data = bench_data(bench.fixture, "snapshots", taken[i].id, &size);
        for (size_t at = 0; at < size; at += 512) {
            int byte = at < 8192 ? 'x' : 0;

            if (i == 1 && (at == 4096 || at == 65536))
                byte = at == 4096 ? 'y' : 'z';
            assert_int_equal(data[at], byte);
        }
        free(data);
        snapshot_unref(snapshots[i]);
    }
    volume_unref(volume);
    bench_close(&bench);
}

static void a_thick_copy_has_its_space(void **state)
{
    struct volume_record spec = copy_spec(2, SIZE + MIB);
    struct volume *made;
    struct bench bench;
    uint64_t used;
    char *expected;
    size_t size;

    bench_open(&bench, state, SIZE);
    fill(&bench);
    expected = bench_data(bench.fixture, "volumes", volume_id(bench.volume), &size);
    spec.thick = true;
    made = copy_whole(&bench, &spec, bench.volume, NULL);
    assert_int_equal(volume_used_bytes(made, &used, NULL), E_OK);
    assert_true(used >= SIZE + MIB);
    assert_bytes(&bench, spec.id, expected, SIZE, SIZE + MIB);
    free(expected);
    volume_unref(made);
    bench_close(&bench);
}

/* ---- the hold, and groups ---- */

static void a_hold_holds_changes_alone(void **state)
{
    static char block[4096];
    struct snapshot *snapshot;
    struct test_io *late;
    struct bench bench;
    char *data;
    size_t size;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, MIB, 'x');
    assert_int_equal(image_hold(bench.image, NULL), 0);
    assert_int_equal(image_hold(bench.image, NULL), E_BUSY);
    late = test_io_start(&bench.loop, bench.image, IMAGE_WRITE, 0, 4096, 'y', NULL);
    test_io_run(&bench.loop, bench.image, IMAGE_READ, 0, 4096, 0, block);
    test_io_run(&bench.loop, bench.image, IMAGE_FLUSH, 0, 0, 0, NULL);
    assert_int_equal(block[0], 'x');
    assert_false(test_io_is_done(late));
    snapshot = bench_snapshot(&bench, 1); /* made whole meanwhile: the hold is not its matter */
    bench_wait_ready(snapshot);
    assert_false(test_io_is_done(late));
    image_release(bench.image);
    assert_int_equal(test_io_end(late, NULL), 0);
    image_release(bench.image);
    test_io_run(&bench.loop, bench.image, IMAGE_READ, 0, 4096, 0, block);
    assert_int_equal(block[0], 'y');
    data = bench_data(bench.fixture, "snapshots", FIXTURE_SERVER ".s-0000000000000001", &size);
    assert_int_equal(data[0], 'x');
    free(data);
    snapshot_unref(snapshot);
    assert_int_equal(image_hold(bench.image, NULL), 0);
    image_release(bench.image);
    bench_close(&bench);
}

/* Time for whatever was let go to be carried out. */
static void let_time_pass(struct bench *bench)
{
    static char block[4096];

    for (unsigned i = 0; i < 20; i++) {
        test_io_run(&bench->loop, bench->image, IMAGE_READ, 4 * MIB, 4096, 0, block);
        test_io_run(&bench->loop, bench->image, IMAGE_FLUSH, 0, 0, 0, NULL);
    }
}

/* The end of an older copy lets nothing go that the hold holds, nor the hold's what a copy under it waits
 * for. */
static void a_hold_and_copies_let_go_of_their_own(void **state)
{
    struct snapshot *older, *newer;
    struct test_io *late;
    struct bench bench;
    char *data;
    size_t size;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, MIB, 'x');
    shares_allow(0);
    older = bench_snapshot(&bench, 1);
    shares_wait(1);
    assert_int_equal(image_hold(bench.image, NULL), 0);
    late = test_io_start(&bench.loop, bench.image, IMAGE_WRITE, 0, 4096, 'y', NULL);
    shares_allow(-1);
    bench_wait_ready(older);
    let_time_pass(&bench);
    assert_false(test_io_is_done(late));
    shares_reset();
    shares_allow(0);
    newer = bench_snapshot(&bench, 2);
    shares_wait(1);
    image_release(bench.image);
    let_time_pass(&bench);
    assert_false(test_io_is_done(late));
    shares_allow(-1);
    bench_wait_ready(newer);
    assert_int_equal(test_io_end(late, NULL), 0);
    data = bench_data(bench.fixture, "snapshots", FIXTURE_SERVER ".s-0000000000000002", &size);
    assert_int_equal(data[0], 'x');
    free(data);
    snapshot_unref(older);
    snapshot_unref(newer);
    bench_close(&bench);
}

static void a_group_is_held_then_committed(void **state)
{
    struct snapshot_record spec = bench_snapshot_spec(1), record;
    struct snapshot *snapshot;
    struct bench bench;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, MIB, 'x');
    spec.name[0] = '\0';
    str_copy(spec.group_id, sizeof(spec.group_id), "g-00000000000000ab");
    shares_allow(0);
    assert_int_equal(store_snapshot_create(bench.store, bench.volume, &spec, &snapshot, NULL), E_OK);
    assert_int_equal(snapshot_commit(snapshot, NULL), E_PRECONDITION); /* not ready */
    assert_int_equal(snapshot_mark_held(snapshot, NULL), E_OK);
    shares_allow(-1);
    bench_wait_ready(snapshot);
    snapshot_unref(snapshot);
    bench_reopen(&bench);
    snapshot = store_snapshot_find(bench.store, spec.id);
    snapshot_copy_record(snapshot, &record);
    assert_true(record.held && record.provisional);
    assert_int_equal(snapshot_commit(snapshot, NULL), E_OK);
    assert_int_equal(snapshot_commit(snapshot, NULL), E_OK);
    snapshot_unref(snapshot);
    str_copy(spec.id, sizeof(spec.id), FIXTURE_SERVER ".s-0000000000000002");
    assert_int_equal(store_snapshot_create(bench.store, bench.volume, &spec, &snapshot, NULL), E_OK);
    bench_wait_ready(snapshot);
    assert_int_equal(snapshot_commit(snapshot, NULL), E_PRECONDITION); /* not held */
    assert_int_equal(snapshot_mark_held(snapshot, NULL), E_OK);
    snapshot_unref(snapshot);
    bench_reopen(&bench);
    snapshot = store_snapshot_next(bench.store, "");
    snapshot_copy_record(snapshot, &record);
    assert_true(record.held && !record.provisional);
    snapshot_unref(snapshot);
    snapshot = store_snapshot_next(bench.store, record.id);
    snapshot_copy_record(snapshot, &record);
    assert_true(record.held && record.provisional);
    assert_string_equal(record.group_id, "g-00000000000000ab");
    snapshot_unref(snapshot);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clones_and_restores),
        cmocka_unit_test(a_source_may_go_before_its_copies),
        cmocka_unit_test(joins_refuses_and_stops),
        cmocka_unit_test(a_deletion_does_not_wait_for_the_disk_for_long),
        cmocka_unit_test(a_repeat_is_told_what_runs),
        cmocka_unit_test(space_is_told_as_it_is),
        cmocka_unit_test(space_of_many_extents_is_its_own),
        cmocka_unit_test(space_that_is_not_there_is_not_promised),
        cmocka_unit_test(an_odd_end_is_copied_too),
        cmocka_unit_test(a_part_of_a_shared_block_is_copied_too),
        cmocka_unit_test(a_thick_copy_has_its_space),
        cmocka_unit_test(a_volume_that_has_just_grown_is_not_cut),
        cmocka_unit_test(a_hold_holds_changes_alone),
        cmocka_unit_test(a_hold_and_copies_let_go_of_their_own),
        cmocka_unit_test(a_group_is_held_then_committed),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
