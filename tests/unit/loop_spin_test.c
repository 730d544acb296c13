/* Unit test of the loop's spinning: what it learns, and that an idle loop sleeps. */
#include "tests/unit/loop_test.h"

#include <time.h>

#include "datapath/loop/loop_internal.h"

static uint64_t thread_cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* However much it spun while events came quickly, a loop that waits for a distant one sleeps. */
static void test_an_idle_loop_uses_no_cpu(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){.spin_us = 2000});
    struct probe probe;
    uint64_t cpu_ns;

    (void)state;
    probe_init(&probe, loop, 0);
    loop_spin_learn(loop, 3000000, false, false);
    for (int i = 0; i < 20; i++)
        loop_spin_learn(loop, 1000, true, true);
    assert_true(loop_spin_pays(loop));
    loop_timeout(loop, &probe.op, 200);
    cpu_ns = thread_cpu_ns();
    probe_wait(&probe, 1);
    assert_true(thread_cpu_ns() - cpu_ns < 50 * 1000000u); /* of 200; a spin is 2 */
    loop_free(loop);
}

static void test_spinning_is_learnt(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){.spin_us = 50});
    int tried = 0;

    (void)state;
    assert_false(loop_spin_pays(loop));
    for (int i = 0; i < 20; i++)
        loop_spin_learn(loop, 30000, false, false); /* short enough, and slept through */
    assert_true(loop_spin_pays(loop));
    for (int i = 0; i < 20; i++)
        loop_spin_learn(loop, 60000, true, true); /* spinning made them longer */
    for (int i = 0; i < 640; i++)
        tried += loop_spin_pays(loop);
    assert_int_equal(tried, 10); /* only to see whether that has changed */
    for (int i = 0; i < 20; i++)
        loop_spin_learn(loop, 5000, true, true);
    assert_true(loop_spin_pays(loop));
    for (int i = 0; i < 20; i++)
        loop_spin_learn(loop, 10000000, true, false); /* the loop has become idle */
    for (int i = 0; i < 640; i++)
        assert_false(loop_spin_pays(loop));
    loop_free(loop);
}

int loop_spin_tests_run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_idle_loop_uses_no_cpu),
        cmocka_unit_test(test_spinning_is_learnt),
    };

    return cmocka_run_group_tests_name("loop_spin", tests, NULL, NULL);
}
