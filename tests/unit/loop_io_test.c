/* Unit test of the loop's operations on files and sockets. */
#include "tests/unit/loop_test.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

static void test_file_read_and_write(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    char first[4096], second[4096], back[8192];
    struct iovec out[2] = {{first, sizeof(first)}, {second, sizeof(second)}};
    struct iovec in = {back, sizeof(back)};
    struct probe probe;
    int fd = test_file_new();

    (void)state;
    memset(first, 'a', sizeof(first));
    memset(second, 'b', sizeof(second));
    probe_init(&probe, loop, 0);
    loop_writev(loop, &probe.op, fd, out, 2, 4096, LOOP_RWF_DSYNC);
    probe_wait(&probe, 1);
    assert_int_equal(probe.res, 8192);
    loop_readv(loop, &probe.op, fd, &in, 1, 4096, 0);
    probe_wait(&probe, 1);
    assert_int_equal(probe.res, 8192);
    assert_memory_equal(back, first, 4096);
    assert_memory_equal(back + 4096, second, 4096);
    loop_readv(loop, &probe.op, fd, &in, 1, 8192, 0);
    probe_wait(&probe, 1);
    assert_int_equal(probe.res, 4096);
    loop_readv(loop, &probe.op, fd, &in, 1, 1 << 20, 0);
    probe_wait(&probe, 1);
    assert_int_equal(probe.res, 0);
    loop_fdatasync(loop, &probe.op, fd);
    probe_wait(&probe, 1);
    assert_int_equal(probe.res, 0);
    loop_free(loop);
    close(fd);
}

static void test_file_punch_hole(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    char page[4096], zeroes[4096] = {0};
    struct stat before, after;
    struct probe probe;
    int fd = test_file_new();

    (void)state;
    memset(page, 'x', sizeof(page));
    for (int i = 0; i < 4; i++)
        assert_int_equal(pwrite(fd, page, sizeof(page), i * 4096), 4096);
    assert_int_equal(fdatasync(fd), 0);
    assert_int_equal(fstat(fd, &before), 0);
    probe_init(&probe, loop, 0);
    loop_fallocate(loop, &probe.op, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192);
    probe_wait(&probe, 1);
    assert_int_equal(probe.res, 0);
    assert_int_equal(fstat(fd, &after), 0);
    assert_int_equal(before.st_blocks - after.st_blocks, 16);
    assert_int_equal(pread(fd, page, sizeof(page), 4096), 4096);
    assert_memory_equal(page, zeroes, sizeof(page));
    loop_free(loop);
    close(fd);
}

static void test_errors_come_as_completions(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    char byte = 0;
    struct iovec iov = {&byte, 1};
    struct probe probe;

    (void)state;
    probe_init(&probe, loop, 0);
    loop_readv(loop, &probe.op, 999, &iov, 1, 0, 0);
    assert_int_equal(probe.count, 0);
    probe_wait(&probe, 1);
    assert_int_equal(probe.res, -EBADF);
    loop_recv(loop, &probe.op, 999);
    probe_wait(&probe, 1);
    assert_true(probe.res < 0);
    assert_false(probe.flags & LOOP_MORE);
    loop_free(loop);
}

static void test_stream_read(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    char text[] = "over a pipe", back[32];
    struct probe reader;
    int fds[2];

    (void)state;
    assert_int_equal(pipe(fds), 0);
    probe_init(&reader, loop, 0);
    loop_read(loop, &reader.op, fds[0], back, sizeof(back));
    assert_int_equal(write(fds[1], text, sizeof(text)), sizeof(text));
    probe_wait(&reader, 1);
    assert_int_equal(reader.res, sizeof(text));
    assert_string_equal(back, text);
    loop_free(loop);
    close(fds[0]);
    close(fds[1]);
}

/* A message larger than the socket's buffer goes out whole, while it is read in pieces. */
static void test_sendmsg_is_whole(void **state)
{
    enum { LENGTH = 4 * 1024 * 1024 };
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    char *out = malloc(LENGTH), *in = calloc(1, LENGTH);
    struct iovec iov[2] = {{out, 1000}, {out + 1000, LENGTH - 1000}};
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};
    struct probe sender, receiver;
    int fds[2];

    (void)state;
    for (int i = 0; i < LENGTH; i++)
        out[i] = (char)(i * 7 + i / 4096);
    test_socketpair(fds);
    probe_init(&sender, loop, 0);
    probe_init(&receiver, loop, 0);
    loop_sendmsg(loop, &sender.op, fds[0], &message);
    for (int got = 0; got < LENGTH; got += receiver.res) {
        loop_read(loop, &receiver.op, fds[1], in + got, (size_t)(LENGTH - got));
        probe_wait(&receiver, 1);
        assert_true(receiver.res > 0);
    }
    if (sender.count == 0)
        probe_wait(&sender, 1);
    assert_int_equal(sender.res, LENGTH);
    assert_memory_equal(in, out, LENGTH);
    close(fds[1]);
    loop_sendmsg(loop, &sender.op, fds[0], &message); /* and no SIGPIPE */
    probe_wait(&sender, 1);
    assert_int_equal(sender.res, -EPIPE);
    loop_free(loop);
    close(fds[0]);
    free(in);
    free(out);
}

/* ---- multishot receive ---- */

struct receiver {
    struct loop_op op;
    struct loop *loop;
    int fd;
    size_t total, wanted;
    unsigned kept[16]; /* buffers not given back yet */
    int kept_count;
    int enobufs, ended;
    unsigned sum;
};

static void receiver_release(struct receiver *receiver)
{
    for (int i = 0; i < receiver->kept_count; i++)
        loop_recv_release(receiver->loop, receiver->kept[i]);
    receiver->kept_count = 0;
}

/* Keeps every buffer until there are none, then gives them back and starts again. */
static void receiver_done(struct loop_op *op, int res, unsigned flags)
{
    struct receiver *receiver = container_of(op, struct receiver, op);

    if (flags & LOOP_BUFFER) {
        unsigned char *bytes = loop_recv_buffer(receiver->loop, flags);
        for (int i = 0; i < res; i++)
            receiver->sum += bytes[i];
        receiver->kept[receiver->kept_count++] = flags;
    }
    if (res > 0)
        receiver->total += (size_t)res;
    if (res == -ENOBUFS) {
        assert_false(flags & LOOP_MORE);
        receiver->enobufs++;
        receiver_release(receiver);
    }
    if (res == 0)
        receiver->ended++;
    else if (!(flags & LOOP_MORE))
        loop_recv(receiver->loop, &receiver->op, receiver->fd);
    if (receiver->ended)
        loop_stop(receiver->loop);
}

static void test_multishot_receive_goes_on_after_enobufs(void **state)
{
    enum { LENGTH = 64 * 100 };
    struct loop *loop = test_loop_new(&(struct loop_options){.recv_buffers = 4, .recv_buffer_size = 64});
    struct receiver receiver = {.op.done = receiver_done, .loop = loop};
    unsigned char bytes[LENGTH];
    unsigned sum = 0;
    int fds[2];

    (void)state;
    for (int i = 0; i < LENGTH; i++)
        sum += bytes[i] = (unsigned char)(i * 13);
    test_socketpair(fds);
    assert_int_equal(write(fds[1], bytes, LENGTH), LENGTH);
    close(fds[1]);
    receiver.fd = fds[0];
    loop_recv(loop, &receiver.op, fds[0]);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(receiver.total, LENGTH);
    assert_int_equal(receiver.sum, sum);
    assert_true(receiver.enobufs >= 100 / 4 - 1);
    loop_free(loop);
    close(fds[0]);
}

/* ---- accept ---- */

struct acceptor {
    struct loop_op op;
    struct loop *loop;
    int fds[8];
    int count;
};

static void acceptor_done(struct loop_op *op, int res, unsigned flags)
{
    struct acceptor *acceptor = container_of(op, struct acceptor, op);

    assert_true(res >= 0);
    assert_true(flags & LOOP_MORE);
    assert_true(fcntl(res, F_GETFD) & FD_CLOEXEC);
    acceptor->fds[acceptor->count++] = res;
    if (acceptor->count == 3)
        loop_stop(acceptor->loop);
}

static void test_multishot_accept(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct acceptor acceptor = {.op.done = acceptor_done, .loop = loop};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), fds[3];
    socklen_t length;

    (void)state;
    /* An abstract name: nothing is left over. */
    length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
                         snprintf(address.sun_path + 1, 64, "mooring-loop-test-%d", getpid()));
    assert_int_equal(bind(listener, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(listener, 8), 0);
    loop_accept(loop, &acceptor.op, listener);
    for (int i = 0; i < 3; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM, 0);
        assert_int_equal(connect(fds[i], (struct sockaddr *)&address, length), 0);
    }
    assert_int_equal(loop_run(loop), 0);
    for (int i = 0; i < 3; i++) {
        close(fds[i]);
        close(acceptor.fds[i]);
    }
    loop_free(loop);
    close(listener);
}

static void test_poll_tells_events(void **state)
{
    struct loop *loop = test_loop_new(&(struct loop_options){0});
    struct probe probe;
    int fds[2];

    (void)state;
    test_socketpair(fds);
    probe_init(&probe, loop, 0);
    loop_poll(loop, &probe.op, fds[0], POLLIN | POLLOUT);
    probe_wait(&probe, 1);
    assert_int_equal(probe.res, POLLOUT);
    close(fds[1]);
    loop_poll(loop, &probe.op, fds[0], POLLIN);
    probe_wait(&probe, 1);
    assert_true(probe.res & POLLHUP);
    loop_free(loop);
    close(fds[0]);
}

int loop_io_tests_run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_read_and_write),
        cmocka_unit_test(test_file_punch_hole),
        cmocka_unit_test(test_errors_come_as_completions),
        cmocka_unit_test(test_stream_read),
        cmocka_unit_test(test_sendmsg_is_whole),
        cmocka_unit_test(test_multishot_receive_goes_on_after_enobufs),
        cmocka_unit_test(test_multishot_accept),
        cmocka_unit_test(test_poll_tells_events),
    };

    return cmocka_run_group_tests_name("loop_io", tests, NULL, NULL);
}
