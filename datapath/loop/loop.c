/*
 * The loop itself: one ring, its thread, and what reaches it from other threads.
 *
 * loop_run() is the thread's body: submit and wait once a batch, then call done() of what completed, then
 * finished work and messages. Other threads push onto lock-free stacks and wake the loop by an eventfd, but
 * only when it said that it sleeps.
 */
#include "datapath/loop/loop_internal.h"

#include <assert.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "common/cleanup.h"
#include "common/time.h"

static void loop_wake_done(struct loop_op *op, int res, unsigned flags);

static _Thread_local struct loop *current_loop;

/* ---- making and freeing ---- */

static int ring_init(struct loop *loop, const struct loop_options *options, struct error *err)
{
    unsigned entries = options->entries ? options->entries : 256;
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
                 IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
    };
    int rc;

    if (entries > LOOP_ENTRIES_MAX)
        entries = LOOP_ENTRIES_MAX;
    params.cq_entries = entries * 8;
    params.flags |= options->wide ? IORING_SETUP_SQE128 : 0;
    rc = io_uring_queue_init_params(entries, &loop->ring, &params);
    if (rc < 0)
        return error_errno(err, -rc,
                           "io_uring: cannot set up a ring; Linux 6.1 or newer is needed, "
                           "kernel.io_uring_disabled must be 0");
    rc = io_uring_register_files_sparse(&loop->ring, LOOP_HELD_MAX);
    if (rc < 0)
        goto fail;
    if (options->recv_buffers) {
        rc = loop_buffers_init(loop, options->recv_buffers, options->recv_buffer_size);
        if (rc < 0)
            goto fail;
    }
    /* by a slot's place, which counts narrow ones */
    loop->timeouts = calloc((size_t)loop->ring.sq.ring_entries << options->wide, sizeof(*loop->timeouts));
    if (loop->timeouts)
        return 0;
    rc = -ENOMEM;
fail:
    io_uring_queue_exit(&loop->ring);
    loop_buffers_done(loop);
    return error_errno(err, -rc, "io_uring: cannot register the loop's files and receive buffers");
}

int loop_new(struct loop **ret, const struct loop_options *options, struct error *err)
{
    struct loop *loop = aligned_alloc(64, sizeof(struct loop)); /* sizeof is a multiple of its alignment */
    int rc;

    if (!loop)
        return error_errno(err, ENOMEM, "event loop");
    *loop = (struct loop){.wake_op.done = loop_wake_done, .now_ns = time_now_ns()};
    loop->spin.budget_ns = (uint64_t)options->spin_us * 1000;
    loop->failed_last = &loop->failed_first;
    loop->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (loop->wake_fd < 0) {
        rc = error_errno(err, errno, "event loop: eventfd");
        goto fail;
    }
    rc = loop_offload_init(&loop->offload, options->offload_threads ? options->offload_threads : 2);
    if (rc < 0) {
        error_errno(err, -rc, "event loop: offload threads");
        goto fail;
    }
    rc = ring_init(loop, options, err);
    if (rc < 0) {
        loop_offload_done(&loop->offload);
        goto fail;
    }
    *ret = loop;
    return 0;
fail:
    fd_close(loop->wake_fd);
    free(loop);
    return rc;
}

/* Whose completion this is (NULL: nobody's), no longer counted as in flight unless more of it follow. */
static struct loop_op *loop_settle(struct loop *loop, const struct io_uring_cqe *cqe)
{
    uintptr_t data = (uintptr_t)cqe->user_data;

    if (!data)
        return NULL;
    if (data & LOOP_COMMAND_TAG)
        loop->commands--;
    else if (!(cqe->flags & IORING_CQE_F_MORE))
        loop->inflight--;
    return (struct loop_op *)(data & ~(uintptr_t)LOOP_COMMAND_TAG); /* NOLINT(performance-no-int-to-ptr) */
}

/* Cancel everything, then wait for what cannot be cancelled: the kernel may be writing to the owners' memory.
 */
static void loop_cancel_all(struct loop *loop)
{
    struct io_uring_cqe *cqe;
    struct io_uring_sqe *sqe;
    bool cancelled = false;

    while (loop->inflight > 0) {
        if (!cancelled && (sqe = loop_queue_silent(loop))) {
            io_uring_prep_cancel(sqe, NULL, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
            io_uring_sqe_set_data(sqe, NULL);
            cancelled = true;
        }
        io_uring_submit_and_wait(&loop->ring, 1);
        while (loop->inflight > 0 && io_uring_peek_cqe(&loop->ring, &cqe) == 0) {
            loop_settle(loop, cqe);
            io_uring_cqe_seen(&loop->ring, cqe);
        }
    }
}

void loop_drain(struct loop *loop)
{
    assert(current_loop != loop);
    if (loop->enabled && !loop->drained) {
        assert(pthread_equal(loop->thread, pthread_self()));
        loop_cancel_all(loop);
        io_uring_unregister_ring_fd(&loop->ring); /* it belongs to this thread */
    }
    /* At once, not when the kernel gets to the ring: whoever takes the pool's lock next must not have to
     * wait. */
    if (!loop->drained)
        io_uring_unregister_files(&loop->ring);
    loop->drained = true;
}

struct loop *loop_free(struct loop *loop)
{
    if (!loop)
        return NULL;
    loop_offload_done(&loop->offload);
    loop_drain(loop);
    io_uring_queue_exit(&loop->ring);
    loop_buffers_done(loop);
    fd_close(loop->wake_fd);
    free(loop->timeouts);
    free(loop);
    return NULL;
}

int loop_hold_fd(struct loop *loop, int fd)
{
    int rc;

    if (fd < 0) /* to the kernel, -1 here means to let go of one */
        return -EBADF;
    if (loop->held == LOOP_HELD_MAX)
        return -ENOSPC;
    rc = io_uring_register_files_update(&loop->ring, loop->held, &fd, 1);
    if (rc < 0)
        return rc;
    loop->held++;
    return 0;
}

/* Bind the ring to this thread, once. 0 or -errno. */
static int loop_enable(struct loop *loop)
{
    int rc;

    if (loop->enabled)
        return 0;
    /* liburing 2.3 declares io_uring_enable_rings() but does not export it. */
    rc = io_uring_register((unsigned)loop->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (rc < 0)
        return rc;
    loop->enabled = true;
    loop->thread = pthread_self();
    io_uring_register_ring_fd(&loop->ring); /* cheaper system calls; it works as well without */
    return 0;
}

/* ---- queueing ---- */

struct io_uring_sqe *loop_queue_silent(struct loop *loop)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);

    if (sqe || loop_enable(loop) < 0)
        return sqe;
    io_uring_submit(&loop->ring);
    return io_uring_get_sqe(&loop->ring);
}

struct io_uring_sqe *loop_queue(struct loop *loop, struct loop_op *op)
{
    struct io_uring_sqe *sqe = loop_queue_silent(loop);

    if (sqe)
        loop->inflight++;
    else
        loop_fail(loop, op, -EBUSY);
    return sqe;
}

void loop_fail(struct loop *loop, struct loop_op *op, int res)
{
    op->res = res;
    op->next = NULL;
    *loop->failed_last = op;
    loop->failed_last = &op->next;
}

/* ---- from other threads ---- */

/*
 * No wake-up is lost: the poster writes the stack, then reads `sleeping`; the loop writes `sleeping`, then
 * reads the stack; all four are sequentially consistent, so at least one of the two sees the other's write.
 */
void loop_wake(struct loop *loop)
{
    uint64_t one = 1;

    if (!atomic_load(&loop->sleeping) || !atomic_exchange(&loop->sleeping, false))
        return;
    while (write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

void loop_post(struct loop *loop, struct loop_message *message)
{
    struct loop_message *newest = atomic_load_explicit(&loop->messages, memory_order_relaxed);

    do {
        message->next = newest;
    } while (!atomic_compare_exchange_weak(&loop->messages, &newest, message));
    loop_wake(loop);
}

void loop_stop(struct loop *loop)
{
    int saved = errno;

    atomic_store(&loop->stopping, true);
    loop_wake(loop);
    errno = saved;
}

bool loop_quiet(struct loop *loop)
{
    return !atomic_load(&loop->messages) && !atomic_load(&loop->works_done) && !atomic_load(&loop->stopping);
}

static void loop_wake_done(struct loop_op *op, int res, unsigned flags)
{
    struct loop *loop = container_of(op, struct loop, wake_op);

    (void)res;
    (void)flags;
    loop->wake_armed = false;
}

static void loop_arm_wake(struct loop *loop)
{
    if (loop->wake_armed)
        return;
    loop->wake_armed = true;
    loop_read(loop, &loop->wake_op, loop->wake_fd, &loop->wake_count, sizeof(loop->wake_count));
}

/* ---- one batch ---- */

static void loop_dispatch(struct loop *loop, const struct io_uring_cqe *cqe)
{
    struct loop_op *op = loop_settle(loop, cqe);
    unsigned flags = cqe->flags & IORING_CQE_F_MORE ? LOOP_MORE : 0;

    if (!op)
        return;
    if (cqe->flags & IORING_CQE_F_BUFFER)
        flags |= LOOP_BUFFER | (cqe->flags >> IORING_CQE_BUFFER_SHIFT) << LOOP_FLAG_SHIFT;
    op->done(op, cqe->res, flags);
}

/* What completes while this runs is for the next batch, so that messages get their turn. */
static void loop_reap(struct loop *loop)
{
    struct io_uring_cqe *ready, cqe;

    for (unsigned left = io_uring_cq_ready(&loop->ring); left > 0; left--) {
        if (io_uring_peek_cqe(&loop->ring, &ready) < 0)
            return;
        cqe = *ready;
        io_uring_cqe_seen(&loop->ring, ready);
        loop_dispatch(loop, &cqe);
    }
}

static void loop_run_failed(struct loop *loop)
{
    struct loop_op *op = loop->failed_first, *next;

    loop->failed_first = NULL;
    loop->failed_last = &loop->failed_first;
    for (; op; op = next) {
        next = op->next;
        op->done(op, op->res, 0);
    }
}

static void loop_run_works(struct loop *loop)
{
    struct loop_work *newest, *work = NULL, *next;

    if (!atomic_load_explicit(&loop->works_done, memory_order_relaxed))
        return;
    for (newest = atomic_exchange(&loop->works_done, NULL); newest; newest = next) {
        next = newest->next;
        newest->next = work;
        work = newest;
    }
    for (; work; work = next) {
        next = work->next;
        work->op.done(&work->op, work->op.res, 0);
    }
}

static void loop_run_messages(struct loop *loop)
{
    struct loop_message *newest, *message = NULL, *next;

    if (!atomic_load_explicit(&loop->messages, memory_order_relaxed))
        return;
    for (newest = atomic_exchange(&loop->messages, NULL); newest; newest = next) {
        next = newest->next;
        newest->next = message;
        message = newest;
    }
    for (; message; message = next) {
        next = message->next;
        message->run(message);
    }
}

/* ---- waiting ---- */

/* What the kernel could not do now it is asked again; -EAGAIN is a lack of memory, which needs a moment. */
static int wait_result(int rc)
{
    if (rc == -EAGAIN)
        poll(NULL, 0, 1);
    return rc >= 0 || rc == -EINTR || rc == -EAGAIN || rc == -EBUSY ? 0 : rc;
}

static bool loop_pending(struct loop *loop)
{
    return loop->failed_first || io_uring_cq_ready(&loop->ring) || !loop_quiet(loop);
}

static int loop_sleep(struct loop *loop)
{
    int rc;

    atomic_store(&loop->sleeping, true);
    if (loop_quiet(loop))
        rc = io_uring_submit_and_wait(&loop->ring, 1);
    else
        rc = io_uring_submit_and_get_events(&loop->ring);
    atomic_store(&loop->sleeping, false);
    return wait_result(rc);
}

/* Submit what was queued and return when something has come, spinning first where that has paid. */
static int loop_wait(struct loop *loop)
{
    uint64_t begin_ns;
    bool spin, found = false;
    int rc;

    if (loop_pending(loop))
        return wait_result(io_uring_submit_and_get_events(&loop->ring));
    if (loop->spin.budget_ns == 0)
        return loop_sleep(loop);
    begin_ns = time_now_ns();
    spin = loop_spin_pays(loop);
    if (spin) {
        rc = wait_result(io_uring_submit_and_get_events(&loop->ring));
        if (rc < 0)
            return rc;
        found = loop_pending(loop) || loop_spin(loop);
    }
    rc = found ? wait_result(io_uring_get_events(&loop->ring)) : loop_sleep(loop);
    loop_spin_learn(loop, time_now_ns() - begin_ns, spin, found);
    return rc;
}

int loop_run(struct loop *loop)
{
    int rc = loop_enable(loop);

    assert(!current_loop && !loop->drained);
    if (rc < 0)
        return rc;
    assert(pthread_equal(loop->thread, pthread_self()));
    current_loop = loop;
    while (!atomic_exchange(&loop->stopping, false)) {
        loop_arm_wake(loop);
        rc = loop_wait(loop);
        if (rc < 0)
            break;
        loop->now_ns = time_now_ns();
        loop_reap(loop);
        loop_run_failed(loop);
        loop_run_works(loop);
        loop_run_messages(loop);
    }
    current_loop = NULL;
    return rc;
}

struct loop *loop_current(void)
{
    return current_loop;
}

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}
