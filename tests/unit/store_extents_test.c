/*
 * Which ranges of a snapshot are allocated, and which differ from an older one, on a real XFS: never a miss,
 * against a comparison byte by byte; how much more than needed is told.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "datapath/store/store_internal.h"
#include "tests/unit/store_bench.h"

#define SIZE (8 * MIB)
#define BLOCK 4096u
#define BLOCKS (SIZE / BLOCK)

struct ranges {
    bool told[BLOCKS];
    uint64_t end; /* of the last one */
    unsigned count, stop_after;
};

/* In order, aligned, never touching each other: neighbours are one. */
static int note(uint64_t offset, uint64_t length, void *context)
{
    struct ranges *ranges = context;

    assert_true(length > 0 && offset % BLOCK == 0 && length % BLOCK == 0);
    assert_true(ranges->count == 0 || offset > ranges->end);
    assert_true(offset + length <= SIZE);
    for (uint64_t block = offset / BLOCK; block < (offset + length) / BLOCK; block++)
        ranges->told[block] = true;
    ranges->end = offset + length;
    ranges->count++;
    return ranges->stop_after > 0 && ranges->count == ranges->stop_after ? 77 : 0;
}

static void change_at_random(struct bench *bench, unsigned *seed, unsigned changes)
{
    for (unsigned i = 0; i < changes; i++) {
        static const enum image_verb verbs[] = {IMAGE_WRITE, IMAGE_WRITE, IMAGE_UNMAP, IMAGE_WRITE_ZEROES};
        enum image_verb verb = verbs[rand_r(seed) % 4];
        uint64_t block = (uint64_t)rand_r(seed) % BLOCKS;
        uint64_t wish = 1 + (uint64_t)rand_r(seed) % 40; /* MIN() would throw the dice twice */
        uint64_t blocks = MIN(wish, BLOCKS - block);

        /* Zeroes with 'a' keep their space, and the same byte may be written again. */
        test_io_run(&bench->loop, bench->image, verb, block * BLOCK, blocks * BLOCK, 'a' + rand_r(seed) % 3,
                    NULL);
    }
}

static bool differs(const char *data, const char *base, uint64_t block)
{
    static const char zeroes[BLOCK];

    return memcmp(data + block * BLOCK, base ? base + block * BLOCK : zeroes, BLOCK) != 0;
}

/* Returns how many blocks were told; *ret_needed how many had to be. */
static unsigned check_ranges(struct bench *bench, struct snapshot *snapshot, struct snapshot *base,
                             uint64_t from, unsigned *ret_needed)
{
    struct snapshot_record record, base_record;
    struct ranges *ranges = calloc(1, sizeof(*ranges));
    char *data, *base_data = NULL;
    unsigned told = 0, needed = 0;
    size_t size;

    snapshot_copy_record(snapshot, &record);
    data = bench_data(bench->fixture, "snapshots", record.id, &size);
    if (base) {
        snapshot_copy_record(base, &base_record);
        base_data = bench_data(bench->fixture, "snapshots", base_record.id, &size);
    }
    assert_int_equal(snapshot_extents(snapshot, base, from, note, ranges, NULL), E_OK);
    for (uint64_t block = 0; block < BLOCKS; block++) {
        bool due = block >= from / BLOCK && differs(data, base_data, block);

        if (due && !ranges->told[block])
            fail_msg("block %" PRIu64 " differs and is not told", block);
        if (block < from / BLOCK)
            assert_false(ranges->told[block]);
        told += ranges->told[block];
        needed += due;
    }
    free(ranges);
    free(data);
    free(base_data);
    *ret_needed = needed;
    return told;
}

static void never_a_miss(void **state)
{
    const char *given = getenv("MOORING_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL), needed;
    struct snapshot *snapshots[6];
    struct bench bench;

    print_message("seed %u (MOORING_SEED repeats it)\n", seed);
    bench_open(&bench, state, SIZE);
    for (unsigned n = 0; n < ARRAY_SIZE(snapshots); n++) {
        change_at_random(&bench, &seed, 12);
        snapshots[n] = bench_snapshot(&bench, n);
        if (n % 2)
            change_at_random(&bench, &seed, 4); /* while it is copied */
        bench_wait_ready(snapshots[n]);
    }
    for (unsigned n = 0; n < ARRAY_SIZE(snapshots); n++) {
        unsigned told = check_ranges(&bench, snapshots[n], NULL, 0, &needed);

        print_message("snapshot %u: %u blocks allocated, %u of them not zeroes\n", n, told, needed);
        for (unsigned base = 0; base < n; base++) {
            told = check_ranges(&bench, snapshots[n], snapshots[base], 0, &needed);
            print_message("  since %u: %u blocks told, %u differ\n", base, told, needed);
            check_ranges(&bench, snapshots[n], snapshots[base], (uint64_t)(rand_r(&seed) % BLOCKS) * BLOCK,
                         &needed);
        }
    }
    for (unsigned n = 0; n < ARRAY_SIZE(snapshots); n++)
        snapshot_unref(snapshots[n]);
    bench_close(&bench);
}

/* What did not change is not told: else a delta would be worth nothing. */
static void what_is_shared_is_not_told(void **state)
{
    struct snapshot *first, *second;
    struct ranges *ranges = calloc(1, sizeof(*ranges));
    struct bench bench;
    unsigned needed;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, SIZE, 'x');
    first = bench_snapshot(&bench, 1);
    bench_wait_ready(first);
    bench_write(&bench, MIB, BLOCK, 'y');
    bench_write(&bench, 5 * MIB, 2 * BLOCK, 'y');
    second = bench_snapshot(&bench, 2);
    bench_wait_ready(second);
    assert_int_equal(check_ranges(&bench, second, first, 0, &needed), 3);
    assert_int_equal(needed, 3);
    ranges->stop_after = 1;
    assert_int_equal(snapshot_extents(second, first, 0, note, ranges, NULL), 77); /* as visit() said */
    assert_int_equal(ranges->end, MIB + BLOCK);
    ranges->stop_after = 0;
    assert_int_equal(snapshot_extents(second, first, ranges->end, note, ranges, NULL), E_OK); /* resumed */
    assert_int_equal(ranges->count, 2);
    free(ranges);
    snapshot_unref(first);
    snapshot_unref(second);
    bench_close(&bench);
}

static void refusals(void **state)
{
    struct volume_record spec = fixture_spec(2);
    struct snapshot_record taken = bench_snapshot_spec(3);
    struct snapshot *first, *second, *other, *late;
    struct volume *volume;
    struct bench bench;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, MIB, 'x');
    volume = fixture_create(bench.store, &spec);
    first = bench_snapshot(&bench, 1);
    second = bench_snapshot(&bench, 2);
    assert_int_equal(store_snapshot_create(bench.store, volume, &taken, &other, NULL), E_OK);
    bench_wait_ready(first);
    bench_wait_ready(second);
    bench_wait_ready(other);
    assert_int_equal(snapshot_extents(first, second, 0, note, NULL, NULL), E_INVALID_ARGUMENT);
    assert_int_equal(snapshot_extents(first, first, 0, note, NULL, NULL), E_INVALID_ARGUMENT);
    assert_int_equal(snapshot_extents(second, other, 0, note, NULL, NULL), E_INVALID_ARGUMENT);
    assert_int_equal(snapshot_extents(second, first, 0, note, NULL, NULL), E_OK); /* nothing differs */
    assert_int_equal(snapshot_extents(second, first, UINT64_MAX, note, NULL, NULL), E_OK);
    shares_allow(0);
    late = bench_snapshot(&bench, 4);
    assert_int_equal(snapshot_extents(late, first, 0, note, NULL, NULL), E_PRECONDITION);
    shares_allow(-1);
    bench_wait_ready(late);
    snapshot_unref(first);
    snapshot_unref(second);
    snapshot_unref(other);
    snapshot_unref(late);
    volume_unref(volume);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(never_a_miss),
        cmocka_unit_test(what_is_shared_is_not_told),
        cmocka_unit_test(refusals),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
