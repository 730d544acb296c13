/*
 * Commands that wait for their volume's limits, on the fake loop's clock: throttle.c and limits.c as they
 * are, around them tasks that only count when they go on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/target/limits.h"
#include "datapath/target/reactor.h"
#include "datapath/target/session.h"
#include "datapath/target/task.h"
#include "tests/unit/fake_loop.h"

#define MS UINT64_C(1000000)
#define TASKS 6

static struct limits limits;
static struct session session;
static struct connection connection;
static struct reactor reactor;
static struct task tasks[TASKS];
static uint64_t bytes_of[TASKS], went_ns[TASKS]; /* 0: not yet */
static uint64_t began_ns;

bool scsi_task_limited(const struct scsi_task *scsi)
{
    (void)scsi;
    return true;
}

uint64_t scsi_task_limited_bytes(const struct scsi_task *scsi)
{
    return bytes_of[container_of(scsi, struct task, scsi) - tasks];
}

void connection_operation_end(struct connection *of)
{
    of->inflight--;
}

static void go_on(struct task *task)
{
    went_ns[task - tasks] = loop_now_ns(reactor.loop);
}

static int setup(void **state)
{
    const struct loop_options options = {.entries = 8};
    (void)state;
    limits = (struct limits){0};
    session = (struct session){.limits = &limits};
    reactor = (struct reactor){0};
    if (loop_new(&reactor.loop, &options, NULL) != 0)
        return -1;
    connection = (struct connection){.reactor = &reactor, .session = &session};
    throttle_init(&connection.throttle);
    began_ns = loop_now_ns(reactor.loop);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(connection.inflight, 0);
    assert_null(connection.throttle.first);
    loop_free(reactor.loop);
    return 0;
}

/* Whether it waits. */
static bool ask(unsigned number, uint64_t bytes)
{
    tasks[number] = (struct task){.connection = &connection};
    bytes_of[number] = bytes;
    went_ns[number] = 0;
    return throttle_holds(&tasks[number], go_on);
}

/* When another session's command could begin now, in ms from the beginning. */
static uint64_t next_ms(void)
{
    uint64_t at_ns = limits_take(&limits, 512, loop_now_ns(reactor.loop));
    limits_give_back(&limits, 512);
    return (at_ns - began_ns) / MS;
}

static uint64_t went_ms(unsigned number)
{
    assert_true(went_ns[number] != 0);
    return (went_ns[number] - began_ns) / MS;
}

static void they_go_in_order_at_their_time(void **state)
{
    (void)state;
    limits_set(&limits, &(struct volume_limits){.iops = 10}, began_ns);
    assert_false(ask(0, 4096));
    for (unsigned number = 1; number < TASKS; number++)
        assert_true(ask(number, 4096));
    fake_loop_settle(reactor.loop);
    for (unsigned number = 1; number < TASKS; number++)
        assert_int_equal(went_ms(number), 100 * number);
}

/* By aborting a small command, a large one behind it would go at its price. */
static void one_that_takes_anothers_turn_pays_for_itself(void **state)
{
    (void)state;
    limits_set(&limits, &(struct volume_limits){.bytes_per_s = MIB}, began_ns);
    assert_false(ask(0, MIB));
    assert_true(ask(1, 4096));
    assert_true(ask(2, MIB));
    throttle_leave(&tasks[1]);
    assert_int_equal(next_ms(), 2000);
    fake_loop_settle(reactor.loop);
    assert_int_equal(went_ms(2), 1000); /* the turn that was taken for the other one */
    assert_int_equal(went_ns[1], 0);
}

static void what_leaves_gives_back_its_own(void **state)
{
    (void)state;
    limits_set(&limits, &(struct volume_limits){.bytes_per_s = MIB}, began_ns);
    assert_false(ask(0, MIB));
    assert_true(ask(1, MIB));
    assert_true(ask(2, MIB)); /* which has taken nothing yet */
    assert_int_equal(next_ms(), 2000);
    throttle_leave(&tasks[2]);
    assert_int_equal(next_ms(), 2000);
    throttle_leave(&tasks[1]);
    assert_int_equal(next_ms(), 1000);
    throttle_give_back(&tasks[1]); /* not twice */
    throttle_give_back(&tasks[2]);
    assert_int_equal(next_ms(), 1000);
    throttle_give_back(&tasks[0]); /* let through, and aborted before it was carried out */
    throttle_give_back(&tasks[0]);
    assert_int_equal(next_ms(), 0);
    fake_loop_settle(reactor.loop);
    assert_true(loop_now_ns(reactor.loop) < began_ns + 1000 * MS); /* its timer was ended */
}

static void others_limits_hold_for_who_waits(void **state)
{
    (void)state;
    limits_set(&limits, &(struct volume_limits){.bytes_per_s = KIB}, began_ns);
    assert_false(ask(0, MIB));
    assert_true(ask(1, MIB));
    assert_true(ask(2, MIB));
    limits_set(&limits, &(struct volume_limits){.bytes_per_s = MIB}, began_ns);
    throttle_look_again(&connection);
    fake_loop_settle(reactor.loop);
    assert_int_equal(went_ms(1), 0);
    assert_int_equal(went_ms(2), 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(they_go_in_order_at_their_time, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_takes_anothers_turn_pays_for_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(what_leaves_gives_back_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(others_limits_hold_for_who_waits, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
