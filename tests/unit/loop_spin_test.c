/* Unit test of the loop's spinning: what it learns, and that an idle loop sleeps. */
#include "tests/unit/loop_test.h"

#include <sys/resource.h>

#include "datapath/loop/loop_internal.h"

/* How often this thread has gone to sleep. */
static long thread_sleeps(void)
{
    struct rusage usage;

    assert_int_equal(getrusage(RUSAGE_THREAD, &usage), 0);
    return usage.ru_nvcsw;
}

static void wait_after_quick_events(struct loop *loop)
{
    struct probe probe;

    probe_init(&probe, loop, 0);
    loop_spin_learn(loop, 3000000, false, false);
    for (int i = 0; i < 20; i++)
        loop_spin_learn(loop, 1000, true, true);
    assert_true(loop_spin_pays(loop));
    loop_timeout(loop, &probe.op, 200);
    probe_wait(&probe, 1);
}

/* However much it spun while events came quickly, a loop that waits for a distant one spins once, and sleeps.
 * Unless the machine kept it from running until that came: then it waits for another one. */
static void test_an_idle_loop_sleeps(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){.spin_us = 2000});
    long sleeps = thread_sleeps();
    unsigned waits = 0;

    (void)state;
    do {
        assert_true(waits++ < 20);
        wait_after_quick_events(loop);
    } while (thread_sleeps() == sleeps);
    assert_true(loop->spin.gaps < 10 * waits); /* 200 ms are 100 times spin_us */
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
        cmocka_unit_test(test_an_idle_loop_sleeps),
        cmocka_unit_test(test_spinning_is_learnt),
    };

    return cmocka_run_group_tests_name("loop_spin", tests, NULL, NULL);
}
