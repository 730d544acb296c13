/*
 * Starting operations: each function here fills one submission slot. The loop's thread only; called by
 * whoever embeds the operation. Nothing here waits or completes.
 */
#include "datapath/loop/loop_internal.h"

#include <limits.h>
#include <sys/mman.h>

#include "common/size.h"

_Static_assert(LOOP_RWF_DSYNC == RWF_DSYNC, "the loop's flag is the kernel's");

/* The kernel takes 32 bits; a longer transfer comes back short. */
static unsigned ops_length(size_t length)
{
    return (unsigned)MIN(length, (size_t)INT_MAX);
}

void loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov, unsigned iov_count,
                uint64_t offset, int rwf_flags)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);

    if (!sqe)
        return;
    if (iov_count == 1)
        io_uring_prep_read(sqe, fd, iov->iov_base, ops_length(iov->iov_len), offset);
    else
        io_uring_prep_readv(sqe, fd, iov, iov_count, offset);
    sqe->rw_flags = rwf_flags;
    io_uring_sqe_set_data(sqe, op);
}

void loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov, unsigned iov_count,
                 uint64_t offset, int rwf_flags)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);

    if (!sqe)
        return;
    if (iov_count == 1)
        io_uring_prep_write(sqe, fd, iov->iov_base, ops_length(iov->iov_len), offset);
    else
        io_uring_prep_writev(sqe, fd, iov, iov_count, offset);
    sqe->rw_flags = rwf_flags;
    io_uring_sqe_set_data(sqe, op);
}

void loop_read(struct loop *loop, struct loop_op *op, int fd, void *buffer, size_t length)
{
    struct iovec iov = {.iov_base = buffer, .iov_len = length};

    loop_readv(loop, op, fd, &iov, 1, (uint64_t)-1, 0);
}

void loop_fdatasync(struct loop *loop, struct loop_op *op, int fd)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);

    if (!sqe)
        return;
    io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data(sqe, op);
}

void loop_fallocate(struct loop *loop, struct loop_op *op, int fd, int mode, uint64_t offset, uint64_t length)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);

    if (!sqe)
        return;
    io_uring_prep_fallocate(sqe, fd, mode, (off_t)offset, (off_t)length);
    io_uring_sqe_set_data(sqe, op);
}

/* The kernel reads the time when the slot is submitted, and the slot is not given out again before. */
void loop_timeout(struct loop *loop, struct loop_op *op, uint64_t timeout_ms)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);
    struct __kernel_timespec *timeout;

    if (!sqe)
        return;
    timeout = &loop->timeouts[sqe - loop->ring.sq.sqes];
    timeout->tv_sec = (long long)(timeout_ms / 1000);
    timeout->tv_nsec = (long long)(timeout_ms % 1000) * 1000000;
    io_uring_prep_timeout(sqe, timeout, 0, 0);
    io_uring_sqe_set_data(sqe, op);
}

void loop_accept(struct loop *loop, struct loop_op *op, int fd)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);

    if (!sqe)
        return;
    io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
    io_uring_sqe_set_data(sqe, op);
}

void loop_recv(struct loop *loop, struct loop_op *op, int fd)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);

    if (!sqe)
        return;
    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = LOOP_BUFFER_GROUP;
    io_uring_sqe_set_data(sqe, op);
}

void loop_sendmsg(struct loop *loop, struct loop_op *op, int fd, const struct msghdr *message)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);

    if (!sqe)
        return;
    io_uring_prep_sendmsg(sqe, fd, message, MSG_NOSIGNAL | MSG_WAITALL);
    io_uring_sqe_set_data(sqe, op);
}

void loop_poll(struct loop *loop, struct loop_op *op, int fd, unsigned events)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);

    if (!sqe)
        return;
    io_uring_prep_poll_add(sqe, fd, events);
    io_uring_sqe_set_data(sqe, op);
}

/* Without a slot for it, a cancel is asked for by a system call: it must not be lost. It may miss an
 * operation that is still unsubmitted, which then fails for the same lack. */
void loop_cancel(struct loop *loop, struct loop_op *op)
{
    struct io_uring_sync_cancel_reg reg = {.addr = (uintptr_t)op, .fd = -1};
    struct io_uring_sqe *sqe = loop_queue_silent(loop);

    if (!sqe) {
        io_uring_register_sync_cancel(&loop->ring, &reg);
        return;
    }
    io_uring_prep_cancel(sqe, op, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data(sqe, NULL);
}

/* ---- provided receive buffers: one mapping, first the kernel's ring of descriptors, then the bytes ---- */

static void buffers_give(struct loop *loop, unsigned number)
{
    io_uring_buf_ring_add(loop->buffers, loop->buffers_memory + (size_t)number * loop->buffer_size,
                          loop->buffer_size, (unsigned short)number,
                          io_uring_buf_ring_mask(loop->buffers_count), 0);
    io_uring_buf_ring_advance(loop->buffers, 1);
}

int loop_buffers_init(struct loop *loop, unsigned count, unsigned size_bytes)
{
    size_t ring_bytes = ROUND_UP(count * sizeof(struct io_uring_buf), 4096);
    struct io_uring_buf_reg reg = {.ring_entries = count, .bgid = LOOP_BUFFER_GROUP};
    void *memory;
    int rc;

    if (count > 32768 || (count & (count - 1)) || size_bytes == 0)
        return -EINVAL;
    loop->buffers_bytes = ring_bytes + (size_t)count * size_bytes;
    memory = mmap(NULL, loop->buffers_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    reg.ring_addr = (uintptr_t)memory;
    rc = io_uring_register_buf_ring(&loop->ring, &reg, 0);
    if (rc < 0) {
        munmap(memory, loop->buffers_bytes);
        return rc;
    }
    loop->buffers = memory;
    loop->buffers_memory = (char *)memory + ring_bytes;
    loop->buffers_count = count;
    loop->buffer_size = size_bytes;
    io_uring_buf_ring_init(loop->buffers);
    for (unsigned i = 0; i < count; i++)
        buffers_give(loop, i);
    return 0;
}

void loop_buffers_done(struct loop *loop)
{
    if (loop->buffers)
        munmap(loop->buffers, loop->buffers_bytes);
}

void *loop_recv_buffer(struct loop *loop, unsigned flags)
{
    return loop->buffers_memory + (size_t)(flags >> LOOP_FLAG_SHIFT) * loop->buffer_size;
}

void loop_recv_release(struct loop *loop, unsigned flags)
{
    if (flags & LOOP_BUFFER)
        buffers_give(loop, flags >> LOOP_FLAG_SHIFT);
}
