/* Helpers of the loop's unit test, and of the fake loop's, which must pass the same tests. */
#include "tests/unit/loop_test.h"

#include <stdlib.h>
#include <unistd.h>

static void probe_done(struct loop_op *op, int res, unsigned flags)
{
    struct probe *probe = container_of(op, struct probe, op);

    assert_ptr_equal(loop_current(), probe->loop);
    probe->count++;
    probe->res = res;
    probe->flags = flags;
    if (probe->count == probe->wanted)
        loop_stop(probe->loop);
}

void probe_init(struct probe *probe, struct loop *loop, int wanted)
{
    *probe = (struct probe){.op.done = probe_done, .loop = loop, .wanted = wanted};
}

void probe_wait(struct probe *probe, int wanted)
{
    probe->wanted = probe->count + wanted;
    assert_int_equal(loop_run(probe->loop), 0);
    assert_true(probe->count >= probe->wanted);
}

struct loop *test_loop_new(const struct loop_options *options)
{
    struct error err = {0};
    struct loop *loop = NULL;

    if (loop_new(&loop, options, &err) != 0)
        fail_msg("%s", error_text(&err));
    return loop;
}

int test_file_new(void)
{
    char name[] = "loop-test-XXXXXX";
    int fd = mkstemp(name);

    assert_true(fd >= 0);
    assert_int_equal(unlink(name), 0);
    return fd;
}

void test_socketpair(int ret_fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret_fds), 0);
}
