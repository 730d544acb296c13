/* A volume's limits, with a clock of the test's own: how much passes, when, and what a change does. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/target/limits.h"

#define SECOND UINT64_C(1000000000)
#define START (1000 * SECOND)

/* As one who always has the next command ready: begins those that may begin until `end`; how many that were.
 */
static uint64_t run(struct limits *limits, uint64_t bytes, uint64_t *now_ns, uint64_t end_ns)
{
    uint64_t count = 0;
    for (;;) {
        uint64_t at_ns = limits_take(limits, bytes, *now_ns);
        assert_true(at_ns >= *now_ns);
        if (at_ns >= end_ns)
            break;
        *now_ns = at_ns;
        count++;
    }
    *now_ns = end_ns;
    return count;
}

static void assert_within_percent(uint64_t actual, uint64_t wanted, unsigned percent)
{
    assert_in_range(actual, wanted - wanted * percent / 100, wanted + wanted * percent / 100);
}

static void unlimited_is_free(void **state)
{
    struct limits limits = {0};
    (void)state;
    assert_false(limits_on(&limits));
    for (unsigned i = 0; i < 100000; i++)
        assert_int_equal(limits_take(&limits, MIB, START), START);
    assert_false(limits_set(&limits, &(struct volume_limits){0}, START));
}

static void operations_in_ten_seconds(void **state)
{
    static const uint64_t rates[] = {1, 7, 100, 333, 20000, 1000003};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
        struct limits limits = {0};
        uint64_t now_ns = START;
        assert_true(limits_set(&limits, &(struct volume_limits){.iops = rates[i]}, now_ns));
        assert_true(limits_on(&limits));
        assert_within_percent(run(&limits, 4096, &now_ns, START + 10 * SECOND), 10 * rates[i],
                              rates[i] < 20 ? 10 : 2);
    }
}

static void bytes_in_ten_seconds(void **state)
{
    static const struct {
        uint64_t per_s, command;
    } cases[] = {{10 * MIB, 4 * KIB}, {10 * MIB, MIB}, {UINT64_C(5000000000), 512}, {1234567, 64 * KIB}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct limits limits = {0};
        uint64_t now_ns = START;
        limits_set(&limits, &(struct volume_limits){.bytes_per_s = cases[i].per_s}, now_ns);
        uint64_t bytes = run(&limits, cases[i].command, &now_ns, START + 10 * SECOND) * cases[i].command;
        assert_within_percent(bytes, 10 * cases[i].per_s, 3);
    }
}

/* Whichever is less. What transfers nothing is an operation all the same, and a flush asks nobody. */
static void both_hold(void **state)
{
    struct limits limits = {0};
    uint64_t now_ns = START;
    (void)state;
    limits_set(&limits, &(struct volume_limits){.iops = 1000, .bytes_per_s = MIB}, now_ns);
    assert_within_percent(run(&limits, 4096, &now_ns, now_ns + 10 * SECOND), 2560, 2);
    now_ns += 10 * SECOND;
    assert_within_percent(run(&limits, 0, &now_ns, now_ns + 10 * SECOND), 10100, 1);
}

static void burst_comes_after_an_idle_time(void **state)
{
    struct limits limits = {0};
    uint64_t now_ns = START;
    unsigned count = 0;
    (void)state;
    limits_set(&limits, &(struct volume_limits){.iops = 100, .burst_s = 3}, now_ns);
    assert_int_equal(limits_take(&limits, 0, now_ns), now_ns);
    assert_int_equal(limits_take(&limits, 0, now_ns), now_ns + SECOND / 100);
    now_ns += 3600 * SECOND;
    while (limits_take(&limits, 0, now_ns) == now_ns)
        count++;
    assert_int_equal(count, 301);
    /* It is used up: what follows goes by the rate. */
    now_ns += SECOND;
    assert_within_percent(run(&limits, 0, &now_ns, now_ns + 10 * SECOND), 1100, 2);
}

/* One that costs more than the burst goes, and is paid off before the next. */
static void large_command_passes(void **state)
{
    struct limits limits = {0};
    uint64_t now_ns = START;
    (void)state;
    limits_set(&limits, &(struct volume_limits){.bytes_per_s = 64 * KIB}, now_ns);
    now_ns += SECOND;
    assert_int_equal(limits_take(&limits, MIB, now_ns), now_ns);
    assert_int_equal(limits_take(&limits, 512, now_ns), now_ns + 16 * SECOND - LIMITS_BURST_DEFAULT_NS);
}

/* From the moment of the change: neither what the old limit still owed nor a new burst. */
static void change_holds_at_once(void **state)
{
    struct limits limits = {0};
    uint64_t now_ns = START;
    (void)state;
    limits_set(&limits, &(struct volume_limits){.iops = 1, .burst_s = 1}, now_ns);
    for (unsigned i = 0; i < 128; i++)
        limits_take(&limits, 4096, now_ns);
    assert_true(limits_set(&limits, &(struct volume_limits){.iops = 5000, .burst_s = 3600}, now_ns));
    assert_within_percent(run(&limits, 4096, &now_ns, now_ns + 10 * SECOND), 50000, 1);
    assert_false(limits_set(&limits, &(struct volume_limits){.iops = 5000, .burst_s = 3600}, now_ns));
    assert_true(limits_set(&limits, &(struct volume_limits){0}, now_ns));
    assert_false(limits_on(&limits));
    assert_int_equal(limits_take(&limits, MIB, now_ns), now_ns);
}

/* What was charged and did not begin is there again, and never more than that. */
static void charge_is_given_back(void **state)
{
    struct limits limits = {0};
    (void)state;
    limits_set(&limits, &(struct volume_limits){.iops = 10, .bytes_per_s = MIB}, START);
    limits_take(&limits, MIB, START);
    uint64_t next_ns = limits_take(&limits, MIB, START);
    for (unsigned i = 0; i < 100; i++) {
        limits_give_back(&limits, MIB);
        assert_int_equal(limits_take(&limits, MIB, START), next_ns);
    }
    limits_set(&limits, &(struct volume_limits){.bytes_per_s = 1}, 1);
    limits_give_back(&limits, MIB); /* of before the change */
    assert_int_equal(limits_take(&limits, 1, START), START);
}

/* A new login does not begin anew with what is not paid off; other limits do, and so does a paid debt. */
static void debt_is_kept(void **state)
{
    const struct volume_limits slow = {.iops = 100, .bytes_per_s = MIB}, other = {.bytes_per_s = MIB};
    struct limits limits = {0}, next = {0}, changed = {0}, late = {0};
    struct limits_debt debt;
    (void)state;
    limits_set(&limits, &slow, START);
    assert_false(limits_owe(&limits, START, &debt));
    limits_take(&limits, 8 * MIB, START);
    assert_true(limits_owe(&limits, START + SECOND, &debt));
    limits_set(&next, &slow, START + SECOND);
    limits_resume(&next, &debt);
    assert_int_equal(limits_take(&next, 0, START + SECOND), START + SECOND);
    assert_int_equal(limits_take(&next, 512, START + SECOND), START + 8 * SECOND);
    limits_set(&changed, &other, START + SECOND);
    limits_resume(&changed, &debt);
    assert_int_equal(limits_take(&changed, 512, START + SECOND), START + SECOND);
    limits_set(&late, &slow, START + 9 * SECOND);
    limits_resume(&late, &debt);
    assert_int_equal(limits_take(&late, 512, START + 9 * SECOND), START + 9 * SECOND);
    assert_false(limits_owe(&limits, START + 9 * SECOND, &debt));
}

#define TAKERS 4
#define TAKES 50000

static void *take_many(void *context)
{
    struct limits *limits = context;
    for (unsigned i = 0; i < TAKES; i++)
        limits_take(limits, 4096, START);
    return NULL;
}

/* Several loops at once: nobody's charge is lost. */
static void takers_at_once(void **state)
{
    struct limits limits = {0};
    pthread_t threads[TAKERS];
    (void)state;
    limits_set(&limits, &(struct volume_limits){.iops = 1000, .bytes_per_s = 4096}, START);
    for (unsigned i = 0; i < TAKERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_many, &limits), 0);
    for (unsigned i = 0; i < TAKERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(limits_take(&limits, 4096, START), START + TAKERS * TAKES * SECOND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unlimited_is_free),
        cmocka_unit_test(operations_in_ten_seconds),
        cmocka_unit_test(bytes_in_ten_seconds),
        cmocka_unit_test(both_hold),
        cmocka_unit_test(burst_comes_after_an_idle_time),
        cmocka_unit_test(large_command_passes),
        cmocka_unit_test(change_holds_at_once),
        cmocka_unit_test(charge_is_given_back),
        cmocka_unit_test(debt_is_kept),
        cmocka_unit_test(takers_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
