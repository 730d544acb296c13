/*
 * Unit test of the fake loop: it passes the real loop's tests of files and sockets (loop_io_test.c), a seed
 * repeats itself, and a test's hook decides.
 */
#include "tests/unit/fake_loop.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/loop_test.h"

#define OPERATIONS 24

struct numbered {
    struct loop_op op;
    int number;
};

static int order[OPERATIONS], order_count;

static void numbered_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    order[order_count++] = container_of(op, struct numbered, op)->number;
}

static void run_order(uint64_t seed, int ret_order[OPERATIONS])
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    struct numbered operations[OPERATIONS];
    char byte;
    struct iovec iov = {&byte, 1};
    int fd = test_file_new();

    fake_loop_seed(loop, seed);
    order_count = 0;
    for (int i = 0; i < OPERATIONS; i++) {
        operations[i] = (struct numbered){.op.done = numbered_done, .number = i};
        loop_readv(loop, &operations[i].op, fd, &iov, 1, 0, 0);
    }
    assert_int_equal(order_count, 0);
    assert_int_equal(fake_loop_inflight(loop), OPERATIONS);
    fake_loop_settle(loop);
    assert_int_equal(order_count, OPERATIONS);
    assert_int_equal(fake_loop_count(loop, FAKE_READ), OPERATIONS);
    memcpy(ret_order, order, sizeof(order));
    loop_free(loop);
    close(fd);
}

static void test_a_seed_decides_the_order(void **state)
{
    int first[OPERATIONS], again[OPERATIONS], other[OPERATIONS];

    (void)state;
    run_order(7, first);
    run_order(7, again);
    run_order(8, other);
    assert_memory_equal(first, again, sizeof(first));
    assert_memory_not_equal(first, other, sizeof(first));
}

static void test_time_moves_only_when_nothing_else_can(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    struct probe late, soon;
    uint64_t begin_ns = loop_now_ns(loop);

    (void)state;
    probe_init(&late, loop, 0);
    probe_init(&soon, loop, 0);
    loop_timeout(loop, &late.op, 3600 * 1000);
    loop_timeout(loop, &soon.op, 1000);
    assert_true(fake_loop_step(loop));
    assert_int_equal(soon.res, -ETIME);
    assert_int_equal(loop_now_ns(loop) - begin_ns, 1000000000u);
    loop_cancel(loop, &late.op);
    fake_loop_settle(loop);
    assert_int_equal(late.res, -ECANCELED);
    assert_int_equal(loop_now_ns(loop) - begin_ns, 1000000000u);
    loop_free(loop);
}

struct script {
    enum fake_verdict verdict;
    int res;
};

static enum fake_verdict script_hook(void *context, const struct fake_op *op, int *ret_res)
{
    struct script *script = context;

    assert_int_equal(op->kind, FAKE_WRITE);
    assert_int_equal(op->offset, 512);
    assert_int_equal(op->length, 2048);
    *ret_res = script->res;
    return script->verdict;
}

static void test_a_hook_holds_fails_and_shortens(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    struct script script = {FAKE_HOLD, 0};
    char bytes[2048] = "short";
    struct iovec iov = {bytes, sizeof(bytes)};
    struct probe probe;
    int fd = test_file_new();

    (void)state;
    fake_loop_hook(loop, script_hook, &script);
    probe_init(&probe, loop, 0);
    loop_writev(loop, &probe.op, fd, &iov, 1, 512, LOOP_RWF_DSYNC);
    assert_false(fake_loop_step(loop));
    script = (struct script){FAKE_FAIL, -EIO};
    fake_loop_settle(loop);
    assert_int_equal(probe.res, -EIO);
    assert_int_equal(lseek(fd, 0, SEEK_END), 0);
    script = (struct script){FAKE_SHORT, 1024};
    loop_writev(loop, &probe.op, fd, &iov, 1, 512, 0);
    fake_loop_settle(loop);
    assert_int_equal(probe.res, 1024);
    assert_int_equal(lseek(fd, 0, SEEK_END), 512 + 1024);
    loop_free(loop);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_seed_decides_the_order),
        cmocka_unit_test(test_time_moves_only_when_nothing_else_can),
        cmocka_unit_test(test_a_hook_holds_fails_and_shortens),
    };
    int failed = cmocka_run_group_tests_name("fake_loop", tests, NULL, NULL);

    return failed + loop_io_tests_run();
}
