/*
 * Snapshots on a real XFS: what they hold of a volume that is written to meanwhile, when changes wait and for
 * what, and what is left when making one fails or is cut off. Nothing is mocked; FICLONERANGE can be held
 * back (store_io.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/snapshot.h"
#include "datapath/store/store_internal.h"
#include "tests/unit/store_bench.h"

#define SIZE (8 * MIB)
#define EMPTY_POOL "lock\nnames/\nnodes/\npool.json\nsnapshots/\ntrash/\nvolumes/\n"

/* ---- what it holds ---- */

static void it_holds_the_bytes_of_its_moment(void **state)
{
    _cleanup_free_ char *expected = NULL, *found = NULL;
    struct bench bench;
    struct snapshot *snapshot, *again;
    struct snapshot_record record;
    size_t size = 0;

    bench_open(&bench, state, SIZE);
    for (unsigned i = 0; i < 40; i++)
        bench_write(&bench, (uint64_t)(i * 97 % 2048) * 4096, 4096, 'a' + (int)i % 26);
    expected = bench_data(bench.fixture, "volumes", volume_id(bench.volume), &size);
    snapshot = bench_snapshot(&bench, 1);
    bench_write(&bench, 0, SIZE, 'Z'); /* all of it, while it is being shared */
    bench_wait_ready(snapshot);
    found = bench_data(bench.fixture, "snapshots", FIXTURE_SERVER ".s-0000000000000001", &size);
    assert_int_equal(size, SIZE);
    assert_memory_equal(found, expected, SIZE);
    assert_int_equal(snapshot_copy_record(snapshot, &record), 0);
    assert_int_equal(record.size_bytes, SIZE);
    assert_int_equal(record.block_size_bytes, 4096);
    assert_int_equal(record.sequence, 1);
    assert_string_equal(record.source_volume_id, volume_id(bench.volume));
    snapshot_unref(snapshot);
    bench_reopen(&bench);
    again = store_snapshot_next(bench.store, "");
    assert_non_null(again);
    assert_int_equal(snapshot_progress_percent(again), 100);
    assert_int_equal(snapshot_wait(again, 0, NULL), E_OK);
    free(found);
    found = bench_data(bench.fixture, "snapshots", FIXTURE_SERVER ".s-0000000000000001", &size);
    assert_memory_equal(found, expected, SIZE);
    snapshot_unref(again);
    assert_int_equal(store_snapshot_delete(bench.store, record.id, NULL), E_OK);
    assert_int_equal(store_snapshot_delete(bench.store, record.id, NULL), E_OK);
    assert_null(store_snapshot_find(bench.store, record.id));
    bench_close(&bench);
}

/*
 * The writer sets A, and after its answer B. Their ranges lie where the copy comes to A first and to B last,
 * with much between, so that without waiting B would be newer than A in nearly every snapshot.
 */
struct chain {
    struct bench *bench;
    uint64_t a, b;
    atomic_uint asked, answered; /* of B */
    atomic_bool stop;
};

static void *chain_run(void *context)
{
    struct chain *chain = context;
    struct bench *bench = chain->bench;
    static _Alignas(4096) unsigned block[1024];

    for (unsigned i = 1; !atomic_load(&chain->stop); i++) {
        block[0] = i;
        atomic_store(&chain->asked, i);
        test_io_run(&bench->loop, bench->image, IMAGE_WRITE, chain->a, 4096, 0, block);
        test_io_run(&bench->loop, bench->image, IMAGE_WRITE, chain->b, 4096, 0, block);
        atomic_store(&chain->answered, i);
    }
    return NULL;
}

static void no_write_is_there_without_what_it_depends_on(void **state)
{
    struct bench bench;
    struct chain chain = {.bench = &bench, .a = 0, .b = 30 * MIB};
    unsigned moved = 0;
    pthread_t thread;

    bench_open(&bench, state, 32 * MIB);
    for (uint64_t offset = RANGE; offset < 32 * MIB; offset += 2 * RANGE)
        bench_write(&bench, offset, 4096, 'x');
    assert_int_equal(pthread_create(&thread, NULL, chain_run, &chain), 0);
    for (unsigned n = 1; n <= 25; n++) {
        unsigned before = atomic_load(&chain.answered), after, a, b;
        struct snapshot *snapshot = bench_snapshot(&bench, n);
        struct snapshot_record record;
        char *data;
        size_t size;

        after = atomic_load(&chain.asked);
        bench_wait_ready(snapshot);
        snapshot_copy_record(snapshot, &record);
        data = bench_data(bench.fixture, "snapshots", record.id, &size);
        memcpy(&a, data + chain.a, sizeof(a));
        memcpy(&b, data + chain.b, sizeof(b));
        free(data);
        if (b > a)
            fail_msg("snapshot %u has B %u without A, which is %u", n, b, a);
        if (b < before || a > after)
            fail_msg("snapshot %u: A %u, B %u, though asked for between %u and %u", n, a, b, before, after);
        moved += atomic_load(&chain.answered) != before;
        snapshot_unref(snapshot);
        assert_int_equal(store_snapshot_delete(bench.store, record.id, NULL), E_OK);
    }
    atomic_store(&chain.stop, true);
    pthread_join(thread, NULL);
    print_message("%u snapshots of 25 were made amid changes, %u of them\n", moved,
                  atomic_load(&chain.answered));
    assert_true(moved > 0);
    bench_close(&bench);
}

/* ---- who waits, and for what ---- */

static void a_change_waits_for_its_own_range_alone(void **state)
{
    static char byte[4096];
    struct bench bench;
    struct snapshot *snapshot;
    struct test_io *late;

    bench_open(&bench, state, SIZE);
    for (uint64_t offset = 0; offset < SIZE; offset += RANGE)
        bench_write(&bench, offset, 4096, 'x');
    shares_allow(0);
    snapshot = bench_snapshot(&bench, 1);
    shares_wait(1); /* the first batch is at the door */
    late = test_io_start(&bench.loop, bench.image, IMAGE_WRITE, SIZE - RANGE, 4096, 'y', NULL);
    test_io_run(&bench.loop, bench.image, IMAGE_READ, SIZE - RANGE, 4096, 0, byte); /* no reader waits */
    assert_int_equal(byte[0], 'x');
    assert_false(test_io_is_done(late));
    test_io_run(&bench.loop, bench.image, IMAGE_FLUSH, 0, 0, 0, NULL);
    assert_false(test_io_is_done(late));
    shares_allow(2); /* what was begun, and then what is waited for, before all that is left */
    assert_int_equal(test_io_end(late, NULL), 0);
    assert_int_equal(shares_offset(1), SIZE - RANGE);
    shares_wait(3);
    assert_int_equal(snapshot_wait(snapshot, time_now_ms(), NULL), E_DEADLINE);
    assert_true(snapshot_progress_percent(snapshot) > 0 && snapshot_progress_percent(snapshot) < 100);
    test_io_run(&bench.loop, bench.image, IMAGE_WRITE, SIZE - RANGE, 4096, 'z', NULL); /* not again */
    shares_allow(-1);
    bench_wait_ready(snapshot);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

/* It would wait until all is shared, the UNMAP having come first. */
static void a_small_change_does_not_wait_for_a_large_one(void **state)
{
    struct snapshot *snapshot;
    struct test_io *large, *small;
    struct bench bench;
    char *data;
    size_t size;

    bench_open(&bench, state, SIZE);
    for (uint64_t offset = 0; offset < SIZE; offset += 2 * 4096)
        bench_write(&bench, offset, 4096, 'x');
    shares_allow(0);
    snapshot = bench_snapshot(&bench, 1);
    shares_wait(1);
    large = test_io_start(&bench.loop, bench.image, IMAGE_UNMAP, 0, SIZE, 0, NULL);
    small = test_io_start(&bench.loop, bench.image, IMAGE_WRITE, SIZE - RANGE, 4096, 'y', NULL);
    test_io_run(&bench.loop, bench.image, IMAGE_FLUSH, 0, 0, 0, NULL);
    shares_allow(2);
    assert_int_equal(test_io_end(small, NULL), 0);
    assert_int_equal(shares_offset(1), SIZE - RANGE);
    assert_false(test_io_is_done(large));
    shares_allow(-1);
    assert_int_equal(test_io_end(large, NULL), 0);
    assert_true(shares_count() < (int)(SIZE / RANGE)); /* many ranges at once, for the large one too */
    bench_wait_ready(snapshot);
    data = bench_data(bench.fixture, "snapshots", FIXTURE_SERVER ".s-0000000000000001", &size);
    for (size_t at = 0; at < size; at += 4096)
        assert_int_equal(data[at], at % 8192 ? 0 : 'x');
    free(data);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

static void each_kind_of_change_waits(void **state)
{
    static const enum image_verb verbs[] = {IMAGE_WRITE, IMAGE_UNMAP, IMAGE_WRITE_ZEROES};
    struct bench bench;
    struct snapshot *snapshot;
    struct test_io *late[4];
    char *data;
    size_t size;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, SIZE, 'x');
    shares_allow(0);
    snapshot = bench_snapshot(&bench, 1);
    for (unsigned i = 0; i < 3; i++)
        late[i] = test_io_start(&bench.loop, bench.image, verbs[i], (i + 1) * MIB, MIB, 'y', NULL);
    late[3] = test_io_start(&bench.loop, bench.image, IMAGE_UNMAP, 0, SIZE, 0, NULL); /* every range */
    test_io_run(&bench.loop, bench.image, IMAGE_FLUSH, 0, 0, 0, NULL);
    for (unsigned i = 0; i < 4; i++)
        assert_false(test_io_is_done(late[i]));
    assert_int_equal(image_discard_all(bench.image, NULL), E_BUSY);
    shares_allow(-1);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(test_io_end(late[i], NULL), 0);
    bench_wait_ready(snapshot);
    data = bench_data(bench.fixture, "snapshots", FIXTURE_SERVER ".s-0000000000000001", &size);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(data[i], 'x');
    free(data);
    assert_int_equal(image_discard_all(bench.image, NULL), 0);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

/* ---- when it fails ---- */

static void a_failure_leaves_nothing_and_lets_all_go(void **state)
{
    static const int errnums[] = {EIO, ENOSPC};
    struct store_capacity before, after;
    struct bench bench;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, SIZE, 'x');
    assert_int_equal(store_capacity(bench.store, &before, NULL), E_OK);
    for (unsigned i = 0; i < 2; i++) {
        _cleanup_error_ struct error err = {0};
        struct snapshot *snapshot;
        struct test_io *late;

        shares_reset();
        shares_fail(0, errnums[i]);
        shares_allow(0);
        snapshot = bench_snapshot(&bench, 1);
        late = test_io_start(&bench.loop, bench.image, IMAGE_WRITE, 0, SIZE / 4, 'y', NULL);
        test_io_run(&bench.loop, bench.image, IMAGE_FLUSH, 0, 0, 0, NULL);
        assert_false(test_io_is_done(late));
        shares_allow(-1);
        assert_int_equal(test_io_end(late, NULL), 0);
        assert_int_equal(snapshot_wait(snapshot, time_now_ms() + 60000, &err),
                         errnums[i] == EIO ? -EIO : E_NO_SPACE);
        assert_null(store_snapshot_find(bench.store, FIXTURE_SERVER ".s-0000000000000001"));
        snapshot_unref(snapshot);
        fixture_assert_listing(bench.fixture, EMPTY_POOL "volumes/store-1.0000000000000001/\n"
                                                         "volumes/store-1.0000000000000001/data\n"
                                                         "volumes/store-1.0000000000000001/volume.json\n");
    }
    assert_int_equal(store_capacity(bench.store, &after, NULL), E_OK);
    assert_int_equal(after.promised_bytes, before.promised_bytes);
    shares_reset();
    snapshot_unref(bench_snapshot(&bench, 1)); /* the id is free again */
    bench_close(&bench);
}

/* A repeat would build in the same place, and have its parts removed under its hands. */
static void an_id_is_free_when_its_remains_are_gone(void **state)
{
    struct snapshot *snapshot, *found;
    struct bench bench;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, SIZE, 'x');
    shares_fail(0, EIO);
    shares_allow(0);
    snapshot = bench_snapshot(&bench, 1);
    discards_hold(true);
    shares_allow(-1);
    discards_wait();
    found = store_snapshot_find(bench.store, FIXTURE_SERVER ".s-0000000000000001");
    discards_hold(false);
    assert_ptr_equal(found, snapshot);
    assert_int_equal(snapshot_wait(snapshot, time_now_ms() + 60000, NULL), -EIO);
    snapshot_unref(found);
    snapshot_unref(snapshot);
    shares_reset();
    snapshot = bench_snapshot(&bench, 1);
    bench_wait_ready(snapshot);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

/* What was answered before the cut may be lost: the snapshot would have holes that nobody knows of. */
static void a_disk_that_lost_writes_makes_no_snapshot(void **state)
{
    struct snapshot *snapshot;
    struct bench bench;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, SIZE, 'x');
    shares_allow(0);
    snapshot = bench_snapshot(&bench, 1);
    assert_int_equal(volume_mark_write_failed(bench.volume, NULL), E_OK);
    shares_allow(-1);
    assert_int_equal(snapshot_wait(snapshot, UINT64_MAX, NULL), E_PRECONDITION);
    assert_null(store_snapshot_find(bench.store, FIXTURE_SERVER ".s-0000000000000001"));
    snapshot_unref(snapshot);
    bench_close(&bench);
}

static void deleting_stops_the_copying(void **state)
{
    struct bench bench;
    struct snapshot *snapshot;

    bench_open(&bench, state, SIZE);
    for (uint64_t offset = 0; offset < SIZE; offset += RANGE)
        bench_write(&bench, offset, 4096, 'x');
    shares_allow(1);
    snapshot = bench_snapshot(&bench, 1);
    shares_wait(2);
    shares_allow(-1);
    assert_int_equal(store_snapshot_delete(bench.store, FIXTURE_SERVER ".s-0000000000000001", NULL), E_OK);
    assert_null(store_snapshot_find(bench.store, FIXTURE_SERVER ".s-0000000000000001"));
    snapshot_unref(snapshot);
    bench_write(&bench, 0, SIZE, 'y');
    fixture_assert_listing(bench.fixture, EMPTY_POOL "volumes/store-1.0000000000000001/\n"
                                                     "volumes/store-1.0000000000000001/data\n"
                                                     "volumes/store-1.0000000000000001/volume.json\n");
    bench_close(&bench);
}

static void repeats_differences_and_limits(void **state)
{
    struct snapshot *snapshots[STORE_COPIES_MAX], *again = NULL;
    struct snapshot_record spec = bench_snapshot_spec(0);
    struct bench bench;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, SIZE, 'x');
    shares_allow(0);
    for (unsigned i = 0; i < STORE_COPIES_MAX; i++)
        snapshots[i] = bench_snapshot(&bench, i);
    assert_int_equal(store_snapshot_create(bench.store, bench.volume, &spec, &again, NULL), E_OK);
    assert_ptr_equal(again, snapshots[0]);
    snapshot_unref(again);
    str_copy(spec.name, sizeof(spec.name), "other");
    assert_int_equal(store_snapshot_create(bench.store, bench.volume, &spec, &again, NULL), E_EXISTS);
    spec = bench_snapshot_spec(99);
    assert_int_equal(store_snapshot_create(bench.store, bench.volume, &spec, &again, NULL), E_BUSY);
    assert_null(store_snapshot_find(bench.store, spec.id));
    spec.name[0] = '\0';
    assert_int_equal(store_snapshot_create(bench.store, bench.volume, &spec, &again, NULL),
                     E_INVALID_ARGUMENT);
    str_copy(spec.id, sizeof(spec.id), "store-2.s-0000000000000001");
    assert_int_equal(store_snapshot_create(bench.store, bench.volume, &spec, &again, NULL),
                     E_INVALID_ARGUMENT);
    shares_allow(-1);
    for (unsigned i = 0; i < STORE_COPIES_MAX; i++) {
        struct snapshot_record record;

        bench_wait_ready(snapshots[i]);
        snapshot_copy_record(snapshots[i], &record);
        assert_int_equal(record.sequence, i + 1);
        snapshot_unref(snapshots[i]);
    }
    assert_int_equal(volume_mark_write_failed(bench.volume, NULL), E_OK);
    spec = bench_snapshot_spec(99);
    assert_int_equal(store_snapshot_create(bench.store, bench.volume, &spec, &again, NULL), E_PRECONDITION);
    bench_close(&bench);
}

/* ---- how long a change waits ---- */

#define DEPTH 16u
#define ROUNDS_MAX 4000u

struct waits {
    double ms[DEPTH * ROUNDS_MAX];
    size_t count;
};

static int compare_ms(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;

    return (left > right) - (left < right);
}

static void waits_print(const char *when, struct waits *waits)
{
    assert_true(waits->count > 0);
    qsort(waits->ms, waits->count, sizeof(double), compare_ms);
    print_message("%s: %zu writes, median %.2f ms, 99 %% %.2f ms, longest %.2f ms\n", when, waits->count,
                  waits->ms[waits->count / 2], waits->ms[waits->count * 99 / 100],
                  waits->ms[waits->count - 1]);
}

/* 4 KiB anywhere, DEPTH at once, until the snapshot is ready, or for so many rounds. */
static void write_at_random(struct bench *bench, struct snapshot *until, unsigned rounds, struct waits *waits)
{
    unsigned seed = 7, blocks = (unsigned)(volume_size_bytes(bench->volume) / 4096);

    while (rounds-- > 0 && (!until || snapshot_progress_percent(until) < 100)) {
        struct test_io *ios[DEPTH];

        for (unsigned i = 0; i < DEPTH; i++)
            ios[i] = test_io_start(&bench->loop, bench->image, IMAGE_WRITE,
                                   (uint64_t)((unsigned)rand_r(&seed) % blocks) * 4096, 4096, 'w', NULL);
        for (unsigned i = 0; i < DEPTH; i++) {
            waits->ms[waits->count++] = (double)test_io_wait(ios[i]) / 1e6;
            assert_int_equal(test_io_end(ios[i], NULL), 0);
        }
    }
}

/* Every second block of 4 KiB is a hole: as many extents as there can be. Printed, not judged. */
static void the_wait_is_told(void **state)
{
    struct waits *before = calloc(1, sizeof(*before)), *amid = calloc(1, sizeof(*amid));
    struct snapshot *snapshot;
    struct bench bench;
    uint64_t began_ms;

    assert_true(before && amid);
    bench_open(&bench, state, 64 * MIB);
    bench_write(&bench, 0, 64 * MIB, 'x');
    for (uint64_t offset = 0; offset < 64 * MIB; offset += 8192)
        test_io_run(&bench.loop, bench.image, IMAGE_UNMAP, offset, 4096, 0, NULL);
    write_at_random(&bench, NULL, 20, before);
    began_ms = time_now_ms();
    snapshot = bench_snapshot(&bench, 1);
    write_at_random(&bench, snapshot, ROUNDS_MAX, amid);
    bench_wait_ready(snapshot);
    waits_print("no snapshot", before);
    waits_print("8192 extents being shared", amid);
    print_message("ready after %" PRIu64 " ms; the longest of %d calls that share took %.2f ms\n",
                  time_now_ms() - began_ms, shares_count(), (double)shares_longest_ns() / 1e6);
    free(before);
    free(amid);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_holds_the_bytes_of_its_moment),
        cmocka_unit_test(no_write_is_there_without_what_it_depends_on),
        cmocka_unit_test(a_change_waits_for_its_own_range_alone),
        cmocka_unit_test(a_small_change_does_not_wait_for_a_large_one),
        cmocka_unit_test(each_kind_of_change_waits),
        cmocka_unit_test(a_failure_leaves_nothing_and_lets_all_go),
        cmocka_unit_test(an_id_is_free_when_its_remains_are_gone),
        cmocka_unit_test(a_disk_that_lost_writes_makes_no_snapshot),
        cmocka_unit_test(deleting_stops_the_copying),
        cmocka_unit_test(repeats_differences_and_limits),
        cmocka_unit_test(the_wait_is_told),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
