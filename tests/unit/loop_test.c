/*
 * Unit test of the loop: threads, time, cancelling and ending. What it does with files and sockets is in
 * loop_io_test.c.
 */
#include "tests/unit/loop_test.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/time.h>

#include "common/time.h"

/* ---- time ---- */

static void test_timeout_completes_with_etime(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    struct probe late, soon;
    uint64_t begin_ns = time_now_ns();

    (void)state;
    probe_init(&late, loop, 1);
    probe_init(&soon, loop, 0);
    loop_timeout(loop, &late.op, 20);
    loop_timeout(loop, &soon.op, 1);
    assert_int_equal(soon.count + late.count, 0);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(soon.count, 1);
    assert_int_equal(soon.res, -ETIME);
    assert_int_equal(late.res, -ETIME);
    assert_true(time_now_ns() - begin_ns >= 20 * 1000000u);
    assert_true(loop_now_ns(loop) > begin_ns);
    loop_free(loop);
}

static void test_more_operations_than_slots(void **state)
{
    enum { COUNT = 100 };
    struct loop *loop = test_loop_new(&(struct loop_options){.entries = 8});
    struct probe probes[COUNT];

    (void)state;
    for (int i = 0; i < COUNT; i++) {
        probe_init(&probes[i], loop, 0);
        loop_timeout(loop, &probes[i].op, (uint64_t)(i % 7));
    }
    for (int i = 0; i < COUNT; i++)
        if (probes[i].count == 0)
            probe_wait(&probes[i], 1);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(probes[i].count, 1);
        assert_int_equal(probes[i].res, -ETIME);
    }
    loop_free(loop);
}

/* ---- messages ---- */

#define POSTERS 4
#define POSTS 20000

struct poster;

struct counted_message {
    struct loop_message message;
    struct poster *poster;
    unsigned number;
};

struct poster {
    pthread_t thread;
    struct loop *loop;
    struct counted_message messages[POSTS];
    unsigned seen;
};

static unsigned storm_total;

static void storm_run(struct loop_message *message)
{
    struct counted_message *counted = container_of(message, struct counted_message, message);

    assert_int_equal(counted->number, counted->poster->seen);
    counted->poster->seen++;
    if (++storm_total == POSTERS * POSTS)
        loop_stop(counted->poster->loop);
}

static void *storm_post(void *context)
{
    struct poster *poster = context;

    for (unsigned i = 0; i < POSTS; i++) {
        poster->messages[i] =
            (struct counted_message){.message.run = storm_run, .poster = poster, .number = i};
        loop_post(poster->loop, &poster->messages[i].message);
        if (i % 64 == 0)
            poll(NULL, 0, i % 1024 == 0 ? 1 : 0); /* let the loop fall asleep now and then */
    }
    return NULL;
}

static void storm(unsigned spin_us)
{
    struct loop *loop = test_loop_new(&(struct loop_options){.spin_us = spin_us});
    struct poster *posters = calloc(POSTERS, sizeof(*posters));

    assert_non_null(posters);
    storm_total = 0;
    for (int i = 0; i < POSTERS; i++) {
        posters[i].loop = loop;
        assert_int_equal(pthread_create(&posters[i].thread, NULL, storm_post, &posters[i]), 0);
    }
    assert_int_equal(loop_run(loop), 0);
    for (int i = 0; i < POSTERS; i++) {
        pthread_join(posters[i].thread, NULL);
        assert_int_equal(posters[i].seen, POSTS);
    }
    assert_int_equal(storm_total, POSTERS * POSTS);
    free(posters);
    loop_free(loop);
}

static void test_message_storm_keeps_order_and_count(void **state)
{
    (void)state;
    storm(0);
    storm(20);
}

/* Two loops hand one message back and forth: each hop finds the other asleep, so one lost wake-up hangs it.
 */
struct bouncer {
    struct loop_message message;
    struct loop *loops[2];
    int hops;
};

#define HOPS 5000

static void bounce_run(struct loop_message *message)
{
    struct bouncer *bouncer = container_of(message, struct bouncer, message);

    bouncer->hops++;
    if (bouncer->hops >= HOPS) {
        loop_stop(bouncer->loops[0]);
        loop_stop(bouncer->loops[1]);
        return;
    }
    loop_post(bouncer->loops[bouncer->hops % 2], message);
}

static void *bounce_thread(void *context)
{
    struct bouncer *bouncer = context;

    loop_run(bouncer->loops[1]);
    loop_drain(bouncer->loops[1]);
    return NULL;
}

static void bounce(unsigned spin_us)
{
    struct loop_options options = {.spin_us = spin_us};
    struct bouncer bouncer = {.message.run = bounce_run};
    pthread_t thread;

    bouncer.loops[0] = test_loop_new(&options);
    bouncer.loops[1] = test_loop_new(&options);
    assert_int_equal(pthread_create(&thread, NULL, bounce_thread, &bouncer), 0);
    loop_post(bouncer.loops[0], &bouncer.message);
    assert_int_equal(loop_run(bouncer.loops[0]), 0);
    pthread_join(thread, NULL);
    assert_int_equal(bouncer.hops, HOPS);
    loop_free(bouncer.loops[0]);
    loop_free(bouncer.loops[1]);
}

/* One thread posts at a moment that sweeps, post by post, over the loop's way into sleep. */
struct sweep {
    struct loop_message message;
    struct loop *loop;
    atomic_uint run;
};

#define SWEEPS 40000u

static void sweep_run(struct loop_message *message)
{
    atomic_fetch_add(&container_of(message, struct sweep, message)->run, 1);
}

static void *sweep_post(void *context)
{
    struct sweep *sweep = context;

    for (unsigned i = 0; i < SWEEPS; i++) {
        for (volatile unsigned wait = 0; wait < i % 4000; wait++)
            ;
        loop_post(sweep->loop, &sweep->message);
        while (atomic_load(&sweep->run) == i)
            if (i % 64 == 0)
                poll(NULL, 0, 0);
    }
    loop_stop(sweep->loop);
    return NULL;
}

static void test_no_wake_up_is_lost(void **state)
{
    struct sweep sweep = {.message.run = sweep_run, .loop = test_loop_new(&(struct loop_options){0})};
    pthread_t thread;

    (void)state;
    bounce(0);
    bounce(30);
    assert_int_equal(pthread_create(&thread, NULL, sweep_post, &sweep), 0);
    assert_int_equal(loop_run(sweep.loop), 0);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&sweep.run), SWEEPS);
    loop_free(sweep.loop);
}

static void test_stop_before_run_returns_at_once(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});

    (void)state;
    assert_null(loop_current());
    loop_stop(loop);
    assert_int_equal(loop_run(loop), 0);
    assert_null(loop_current());
    loop_free(loop);
}

static struct loop *signal_loop;

static void stop_by_signal(int number)
{
    (void)number;
    loop_stop(signal_loop);
}

static void test_stop_from_a_signal_handler(void **state)
{
    struct sigaction action = {.sa_handler = stop_by_signal}, before;
    struct itimerval timer = {.it_value.tv_usec = 20000};

    (void)state;
    signal_loop = test_loop_new(&(struct loop_options){0});
    assert_int_equal(sigaction(SIGVTALRM, &action, &before), 0);
    assert_int_equal(raise(SIGVTALRM), 0);
    assert_int_equal(loop_run(signal_loop), 0);
    sigaction(SIGVTALRM, &before, NULL);
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &timer, NULL), 0);
    assert_int_equal(loop_run(signal_loop), 0);
    sigaction(SIGALRM, &before, NULL);
    loop_free(signal_loop);
}

/* ---- offload ---- */

struct counted_work {
    struct loop_work work;
    struct loop *loop;
    pthread_t starter;
    int value;
};

#define WORKS 500

static int works_finished;

static int work_run(struct loop_work *work)
{
    struct counted_work *counted = container_of(work, struct counted_work, work);

    assert_false(pthread_equal(counted->starter, pthread_self()));
    assert_null(loop_current());
    return counted->value;
}

static void work_done(struct loop_op *op, int res, unsigned flags)
{
    struct counted_work *counted = container_of(op, struct counted_work, work.op);

    assert_int_equal(flags, 0);
    assert_int_equal(res, counted->value);
    assert_true(pthread_equal(counted->starter, pthread_self()));
    if (++works_finished == WORKS)
        loop_stop(counted->loop);
}

static void test_offload_runs_each_once(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){.offload_threads = 3});
    struct counted_work *works = calloc(WORKS, sizeof(*works));

    (void)state;
    assert_non_null(works);
    works_finished = 0;
    for (int i = 0; i < WORKS; i++) {
        works[i] = (struct counted_work){.work = {.work = work_run, .op.done = work_done},
                                         .loop = loop,
                                         .starter = pthread_self(),
                                         .value = i - 250};
        loop_offload(loop, &works[i].work);
    }
    assert_int_equal(works_finished, 0);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(works_finished, WORKS);
    loop_free(loop);
    free(works);
}

struct gate_work {
    struct loop_work work;
    int gate;
    atomic_bool begun, finished;
};

static int gate_run(struct loop_work *work)
{
    struct gate_work *gated = container_of(work, struct gate_work, work);
    uint64_t value;

    atomic_store(&gated->begun, true);
    while (read(gated->gate, &value, sizeof(value)) < 0 && errno == EINTR)
        ;
    atomic_store(&gated->finished, true);
    return 0;
}

static void never_done(struct loop_op *op, int res, unsigned flags)
{
    (void)op;
    fail_msg("done() was called (result %d, flags %u)", res, flags);
}

static void *open_gate(void *context)
{
    uint64_t one = 1;

    poll(NULL, 0, 20);
    assert_int_equal(write(*(int *)context, &one, sizeof(one)), sizeof(one));
    return NULL;
}

/* loop_free() waits for work that runs, drops what has not begun, and calls no done(). */
static void test_free_waits_for_running_work(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){.offload_threads = 1});
    int gate = eventfd(0, EFD_CLOEXEC);
    struct gate_work works[2];
    pthread_t opener;

    (void)state;
    for (int i = 0; i < 2; i++) {
        works[i] = (struct gate_work){.work = {.work = gate_run, .op.done = never_done}, .gate = gate};
        loop_offload(loop, &works[i].work);
    }
    while (!atomic_load(&works[0].begun))
        poll(NULL, 0, 1);
    assert_int_equal(pthread_create(&opener, NULL, open_gate, &gate), 0);
    loop_free(loop);
    pthread_join(opener, NULL);
    assert_true(atomic_load(&works[0].finished));
    assert_false(atomic_load(&works[1].begun));
    close(gate);
}

/* ---- cancelling and ending ---- */

static void test_cancel_one_operation(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    struct probe kept, cancelled;
    int fds[2];
    char byte;

    (void)state;
    test_socketpair(fds);
    probe_init(&cancelled, loop, 1);
    probe_init(&kept, loop, 0);
    loop_read(loop, &cancelled.op, fds[0], &byte, 1);
    loop_poll(loop, &kept.op, fds[1], POLLIN);
    loop_cancel(loop, &cancelled.op);
    assert_int_equal(cancelled.count, 0);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(cancelled.res, -ECANCELED);
    assert_int_equal(kept.count, 0);
    loop_cancel(loop, &cancelled.op); /* no longer in flight: harmless */
    loop_cancel(loop, &kept.op);
    probe_wait(&kept, 1);
    assert_int_equal(kept.res, -ECANCELED);
    assert_int_equal(cancelled.count, 1);
    loop_free(loop);
    close(fds[0]);
    close(fds[1]);
}

static void test_cancel_timeout(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    struct probe probe;

    (void)state;
    probe_init(&probe, loop, 1);
    loop_timeout(loop, &probe.op, 3600 * 1000);
    loop_cancel(loop, &probe.op);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(probe.res, -ECANCELED);
    loop_free(loop);
}

/* After loop_free() the kernel writes to nobody's memory any more, and no done() was called. */
static void test_free_cancels_what_is_in_flight(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){.recv_buffers = 4, .recv_buffer_size = 64});
    struct loop_op ops[5] = {[0 ... 4] = {.done = never_done}};
    struct probe timer;
    char before[8] = "untouch", buffer[8] = "untouch";
    int fds[2];

    (void)state;
    test_socketpair(fds);
    probe_init(&timer, loop, 1);
    loop_read(loop, &ops[0], fds[0], buffer, sizeof(buffer));
    loop_recv(loop, &ops[1], fds[1]);
    loop_timeout(loop, &ops[2], 3600 * 1000);
    loop_poll(loop, &ops[3], fds[0], POLLIN);
    loop_timeout(loop, &timer.op, 1);
    assert_int_equal(loop_run(loop), 0);
    loop_poll(loop, &ops[4], fds[1], POLLIN); /* never submitted */
    loop_free(loop);
    assert_int_equal(write(fds[1], "bytes", 5), 5);
    poll(NULL, 0, 5);
    assert_memory_equal(buffer, before, sizeof(buffer));
    close(fds[0]);
    close(fds[1]);
}

static void test_free_of_a_loop_that_never_ran(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    struct loop_op op = {.done = never_done};

    (void)state;
    loop_timeout(loop, &op, 1);
    assert_null(loop_free(loop));
    assert_null(loop_free(NULL));
}

static void test_hold_is_limited(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    int fd = test_file_new(), rc = 0, held = 0;

    (void)state;
    assert_int_equal(loop_hold_fd(loop, -1), -EBADF);
    while (rc == 0 && held < 100) {
        rc = loop_hold_fd(loop, fd);
        held += rc == 0;
    }
    assert_int_equal(rc, -ENOSPC);
    assert_int_equal(held, 8);
    loop_free(loop);
    close(fd);
}

static void test_bad_options_are_refused(void **state)
{
    struct loop_options options = {.recv_buffers = 3, .recv_buffer_size = 64};
    struct error err = {0};
    struct loop *loop = NULL;

    (void)state;
    assert_true(loop_new(&loop, &options, &err) < 0);
    assert_null(loop);
    error_done(&err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timeout_completes_with_etime),
        cmocka_unit_test(test_more_operations_than_slots),
        cmocka_unit_test(test_message_storm_keeps_order_and_count),
        cmocka_unit_test(test_no_wake_up_is_lost),
        cmocka_unit_test(test_stop_before_run_returns_at_once),
        cmocka_unit_test(test_stop_from_a_signal_handler),
        cmocka_unit_test(test_offload_runs_each_once),
        cmocka_unit_test(test_free_waits_for_running_work),
        cmocka_unit_test(test_cancel_one_operation),
        cmocka_unit_test(test_cancel_timeout),
        cmocka_unit_test(test_free_cancels_what_is_in_flight),
        cmocka_unit_test(test_free_of_a_loop_that_never_ran),
        cmocka_unit_test(test_hold_is_limited),
        cmocka_unit_test(test_bad_options_are_refused),
    };
    int failed;

    alarm(90); /* a lost wake-up hangs: die by name */
    failed = cmocka_run_group_tests_name("loop", tests, NULL, NULL);

    return failed + loop_spin_tests_run() + loop_io_tests_run();
}
