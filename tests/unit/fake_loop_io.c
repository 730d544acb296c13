/*
 * Carrying out the fake loop's operations, at the moment they complete, by the ordinary system calls. Called
 * by fake_loop.c, on the test's thread.
 */
#include "tests/unit/fake_loop_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/size.h"

static int result(ssize_t n)
{
    return n < 0 ? -errno : (int)n;
}

/* A regular file or block device is always ready; what else the kernel would wait for is polled. */
static bool fd_ready(int fd, short events)
{
    struct pollfd wait = {.fd = fd, .events = events};

    return poll(&wait, 1, 0) != 0;
}

bool fake_pending_ready(struct loop *loop, const struct pending *pending)
{
    if (pending->cancelled)
        return true;
    switch (pending->what.kind) {
    case FAKE_READ:
    case FAKE_RECV:
    case FAKE_ACCEPT:
        return fd_ready(pending->what.fd, POLLIN);
    case FAKE_WRITE:
    case FAKE_SENDMSG:
        return fd_ready(pending->what.fd, POLLOUT);
    case FAKE_POLL:
        return fd_ready(pending->what.fd, (short)pending->what.flags);
    case FAKE_TIMEOUT:
        return pending->when_ns <= loop->now_ns;
    case FAKE_FDATASYNC:
    case FAKE_FALLOCATE:
    case FAKE_WORK:
    case FAKE_KINDS:
        return true;
    }
    return true;
}

/* The first `limit` bytes of the vector. */
static unsigned vector_cut(struct iovec *iov, unsigned count, uint64_t limit)
{
    for (unsigned i = 0; i < count; i++) {
        if (iov[i].iov_len >= limit) {
            iov[i].iov_len = limit;
            return i + 1;
        }
        limit -= iov[i].iov_len;
    }
    return count;
}

static int run_vector(struct pending *pending, uint64_t limit)
{
    unsigned count = vector_cut(pending->iov, pending->iov_count, limit);
    bool stream = pending->what.offset == UINT64_MAX, reading = pending->what.kind == FAKE_READ;
    off_t offset = (off_t)pending->what.offset;
    int fd = pending->what.fd, n = (int)count;

    if (stream)
        return result(reading ? readv(fd, pending->iov, n) : writev(fd, pending->iov, n));
    if (reading)
        return result(preadv2(fd, pending->iov, n, offset, pending->what.flags));
    return result(pwritev2(fd, pending->iov, n, offset, pending->what.flags));
}

static int run_sendmsg(struct pending *pending)
{
    struct iovec iov[64];
    struct msghdr message = *pending->message;
    uint64_t skip = pending->progress;
    size_t count = 0;
    int n;

    assert(message.msg_iovlen <= ARRAY_SIZE(iov));
    for (size_t i = 0; i < message.msg_iovlen; i++) {
        struct iovec part = message.msg_iov[i];
        uint64_t cut = MIN(skip, (uint64_t)part.iov_len);
        skip -= cut;
        if (part.iov_len > cut)
            iov[count++] = (struct iovec){(char *)part.iov_base + cut, part.iov_len - cut};
    }
    message.msg_iov = iov;
    message.msg_iovlen = count;
    n = result(sendmsg(pending->what.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
    if (n < 0)
        return n == -EAGAIN || pending->progress == 0 ? n : (int)pending->progress;
    pending->progress += (uint64_t)n;
    return pending->progress < pending->what.length ? -EAGAIN : (int)pending->progress;
}

static int run_recv(struct loop *loop, struct pending *pending, unsigned *ret_flags)
{
    for (unsigned i = 0; i < loop->buffers_count; i++) {
        if (loop->buffer_out[i])
            continue;
        int n = result(recv(pending->what.fd, loop->buffers + (size_t)i * loop->buffer_size,
                            loop->buffer_size, MSG_DONTWAIT));
        if (n > 0) {
            loop->buffer_out[i] = true;
            *ret_flags = LOOP_MORE | LOOP_BUFFER | i << LOOP_FLAG_SHIFT;
        }
        return n;
    }
    return -ENOBUFS;
}

static int run_poll(const struct pending *pending)
{
    struct pollfd wait = {.fd = pending->what.fd, .events = (short)pending->what.flags};

    return poll(&wait, 1, 0) < 0 ? -errno : wait.revents;
}

static int run_work(struct pending *pending)
{
    struct loop *loop = fake_loop_current;
    int res;

    fake_loop_current = NULL; /* work does not run on the loop */
    res = pending->work->work(pending->work);
    fake_loop_current = loop;
    return res;
}

int fake_pending_run(struct loop *loop, struct pending *pending, uint64_t limit, unsigned *ret_flags)
{
    const struct fake_op *what = &pending->what;
    int n;

    switch (what->kind) {
    case FAKE_READ:
    case FAKE_WRITE:
        return run_vector(pending, limit);
    case FAKE_FDATASYNC:
        return result(fdatasync(what->fd));
    case FAKE_FALLOCATE:
        return result(fallocate(what->fd, what->flags, (off_t)what->offset, (off_t)what->length));
    case FAKE_TIMEOUT:
        return -ETIME;
    case FAKE_ACCEPT:
        n = result(accept4(what->fd, NULL, NULL, SOCK_CLOEXEC));
        *ret_flags = n >= 0 ? LOOP_MORE : 0;
        return n;
    case FAKE_RECV:
        return run_recv(loop, pending, ret_flags);
    case FAKE_SENDMSG:
        return run_sendmsg(pending);
    case FAKE_POLL:
        return run_poll(pending);
    case FAKE_WORK:
        return run_work(pending);
    case FAKE_KINDS:
        break;
    }
    return -EINVAL;
}
