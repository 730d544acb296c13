/* The ranges that a scrub keeps, against a model of cells: never a miss, and exact as long as there is room.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/store/scrub_internal.h"

#define CELLS 400u

static void add_random(struct scrub_ranges *ranges, bool *model, unsigned *seed, size_t max)
{
    unsigned from = (unsigned)rand_r(seed) % CELLS, wish = 1 + (unsigned)rand_r(seed) % 30;
    unsigned to = MIN(from + wish, CELLS);
    struct scrub_range range = {.offset = from, .end = to, .errnum = EIO, .since_unix_s = 1};

    switch (rand_r(seed) % 4) {
    case 0:
        scrub_ranges_clear(ranges, from, to);
        memset(model + from, false, to - from);
        break;
    case 1:
        scrub_ranges_rewrite(ranges, from, to);
        break;
    default:
        assert_int_equal(scrub_ranges_add(ranges, &range, max), 0);
        memset(model + from, true, to - from);
        break;
    }
}

static void check_ranges(const struct scrub_ranges *ranges, const bool *model, bool exact)
{
    bool told[CELLS] = {false};

    for (size_t i = 0; i < ranges->count; i++) {
        assert_true(ranges->items[i].offset < ranges->items[i].end && ranges->items[i].end <= CELLS);
        assert_true(i == 0 || ranges->items[i].offset >= ranges->items[i - 1].end);
        memset(told + ranges->items[i].offset, true, ranges->items[i].end - ranges->items[i].offset);
    }
    for (unsigned cell = 0; cell < CELLS; cell++) {
        if (model[cell] && !told[cell])
            fail_msg("%u is not told", cell);
        if (exact && told[cell] && !model[cell])
            fail_msg("%u is told", cell);
    }
}

static void ranges_at_random(void **state)
{
    const char *given = getenv("MOORING_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);

    (void)state;
    print_message("seed %u (MOORING_SEED repeats it)\n", seed);
    for (unsigned round = 0; round < 300; round++) {
        size_t max = round % 3 == 0 ? 1 : round % 3 == 1 ? 8 : SCRUB_RANGES_MAX;
        struct scrub_ranges ranges = {0};
        bool model[CELLS] = {false};

        for (unsigned i = 0; i < 40; i++) {
            add_random(&ranges, model, &seed, max);
            /* Forty changes make no more than the largest bound, so all of it is exact. */
            check_ranges(&ranges, model, max == SCRUB_RANGES_MAX);
        }
        scrub_ranges_clear(&ranges, 0, CELLS);
        assert_int_equal(ranges.count, 0);
        scrub_ranges_done(&ranges);
    }
}

static void places_at_random(void **state)
{
    unsigned seed = (unsigned)time(NULL);
    struct scrub_seen seen = {0};
    bool model[CELLS] = {false};

    (void)state;
    for (unsigned i = 0; i < 60; i++) {
        unsigned from = (unsigned)rand_r(&seed) % CELLS, wish = 1 + (unsigned)rand_r(&seed) % 12;
        unsigned to = MIN(from + wish, CELLS);

        scrub_seen_add(&seen, from, to);
        memset(model + from, true, to - from);
        for (unsigned cell = 0; cell < CELLS; cell++) {
            unsigned end = cell;

            while (end < CELLS && model[end])
                end++;
            assert_int_equal(scrub_seen_from(&seen, cell, CELLS), end - cell);
        }
    }
    scrub_seen_done(&seen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_at_random),
        cmocka_unit_test(places_at_random),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
