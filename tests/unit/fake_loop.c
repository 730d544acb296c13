/*
 * The fake loop: see fake_loop.h. A table of what is in flight; each step lists what could happen now and
 * lets the seed choose. One thread, the test's.
 */
#include "tests/unit/fake_loop_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/size.h"

struct loop *fake_loop_current;

static uint64_t fake_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- the loop ---- */

int loop_new(struct loop **ret, const struct loop_options *options, struct error *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));

    (void)err;
    assert(loop);
    loop->random = 1;
    loop->now_ns = 1000000000u;
    loop->last = &loop->first;
    loop->buffers_count = options->recv_buffers;
    loop->buffer_size = options->recv_buffer_size;
    loop->buffers = calloc(options->recv_buffers + 1, options->recv_buffer_size + 1);
    loop->buffer_out = calloc(options->recv_buffers + 1, sizeof(bool));
    assert(loop->buffers && loop->buffer_out);
    *ret = loop;
    return 0;
}

static void pending_free(struct pending *pending)
{
    free(pending->iov);
    free(pending);
}

void loop_drain(struct loop *loop)
{
    for (unsigned i = 0; i < loop->count; i++)
        pending_free(loop->table[i]);
    loop->count = 0;
    loop->held = 0;
}

struct loop *loop_free(struct loop *loop)
{
    if (!loop)
        return NULL;
    loop_drain(loop);
    free(loop->table);
    free(loop->buffers);
    free(loop->buffer_out);
    free(loop);
    return NULL;
}

void fake_loop_seed(struct loop *loop, uint64_t seed)
{
    loop->random = seed;
}

void fake_loop_hook(struct loop *loop, fake_hook hook, void *context)
{
    loop->hook = hook;
    loop->hook_context = context;
}

void fake_loop_chances(struct loop *loop, unsigned errors, unsigned shorts)
{
    loop->errors = errors;
    loop->shorts = shorts;
}

unsigned fake_loop_inflight(const struct loop *loop)
{
    return loop->count;
}

unsigned fake_loop_count(const struct loop *loop, enum fake_kind kind)
{
    return loop->counts[kind];
}

unsigned fake_loop_held(const struct loop *loop)
{
    return loop->held;
}

int loop_hold_fd(struct loop *loop, int fd)
{
    if (fcntl(fd, F_GETFD) < 0)
        return -errno;
    loop->held++;
    return 0;
}

struct loop *loop_current(void)
{
    return fake_loop_current;
}

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

void loop_stop(struct loop *loop)
{
    loop->stopping = true;
}

void loop_post(struct loop *loop, struct loop_message *message)
{
    message->next = NULL;
    *loop->last = message;
    loop->last = &message->next;
}

/* ---- starting ---- */

static struct pending *pending_new(struct loop *loop, enum fake_kind kind, struct loop_op *op, int fd)
{
    struct pending *pending = calloc(1, sizeof(*pending));

    if (loop->count == loop->room) {
        loop->room = loop->room ? 2 * loop->room : 64;
        loop->table = realloc(loop->table, loop->room * sizeof(struct pending *));
    }
    assert(pending && loop->table);
    pending->what = (struct fake_op){.kind = kind, .op = op, .fd = fd};
    pending->number = loop->number++;
    loop->table[loop->count++] = pending;
    return pending;
}

static void pending_vector(struct loop *loop, enum fake_kind kind, struct loop_op *op, int fd,
                           const struct iovec *iov, unsigned iov_count, uint64_t offset, int flags)
{
    struct pending *pending = pending_new(loop, kind, op, fd);

    pending->iov = calloc(iov_count, sizeof(*iov));
    assert(pending->iov);
    memcpy(pending->iov, iov, iov_count * sizeof(*iov));
    pending->iov_count = iov_count;
    pending->what.offset = offset;
    pending->what.flags = flags;
    for (unsigned i = 0; i < iov_count; i++)
        pending->what.length += iov[i].iov_len;
}

void loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov, unsigned iov_count,
                uint64_t offset, int rwf_flags)
{
    pending_vector(loop, FAKE_READ, op, fd, iov, iov_count, offset, rwf_flags);
}

void loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov, unsigned iov_count,
                 uint64_t offset, int rwf_flags)
{
    pending_vector(loop, FAKE_WRITE, op, fd, iov, iov_count, offset, rwf_flags);
}

void loop_read(struct loop *loop, struct loop_op *op, int fd, void *buffer, size_t length)
{
    struct iovec iov = {buffer, length};

    pending_vector(loop, FAKE_READ, op, fd, &iov, 1, UINT64_MAX, 0);
}

void loop_fdatasync(struct loop *loop, struct loop_op *op, int fd)
{
    pending_new(loop, FAKE_FDATASYNC, op, fd);
}

void loop_fallocate(struct loop *loop, struct loop_op *op, int fd, int mode, uint64_t offset, uint64_t length)
{
    struct pending *pending = pending_new(loop, FAKE_FALLOCATE, op, fd);

    pending->what.flags = mode;
    pending->what.offset = offset;
    pending->what.length = length;
}

void loop_offload(struct loop *loop, struct loop_work *work)
{
    pending_new(loop, FAKE_WORK, &work->op, -1)->work = work;
}

void loop_timeout(struct loop *loop, struct loop_op *op, uint64_t timeout_ms)
{
    pending_new(loop, FAKE_TIMEOUT, op, -1)->when_ns = loop->now_ns + timeout_ms * 1000000u;
}

void loop_accept(struct loop *loop, struct loop_op *op, int fd)
{
    pending_new(loop, FAKE_ACCEPT, op, fd);
}

void loop_recv(struct loop *loop, struct loop_op *op, int fd)
{
    pending_new(loop, FAKE_RECV, op, fd);
}

void loop_sendmsg(struct loop *loop, struct loop_op *op, int fd, const struct msghdr *message)
{
    struct pending *pending = pending_new(loop, FAKE_SENDMSG, op, fd);

    pending->message = message;
    for (size_t i = 0; i < message->msg_iovlen; i++)
        pending->what.length += message->msg_iov[i].iov_len;
}

void loop_poll(struct loop *loop, struct loop_op *op, int fd, unsigned events)
{
    pending_new(loop, FAKE_POLL, op, fd)->what.flags = (int)events;
}

/* As in the kernel, what reads or writes a file cannot be stopped any more; the seed says whether it began.
 */
void loop_cancel(struct loop *loop, struct loop_op *op)
{
    for (unsigned i = 0; i < loop->count; i++)
        if (loop->table[i]->what.op == op && loop->table[i]->what.kind != FAKE_WORK)
            loop->table[i]->cancelled = true;
}

/* ---- receive buffers ---- */

void *loop_recv_buffer(struct loop *loop, unsigned flags)
{
    assert(flags & LOOP_BUFFER && loop->buffer_out[flags >> LOOP_FLAG_SHIFT]);
    return loop->buffers + (size_t)(flags >> LOOP_FLAG_SHIFT) * loop->buffer_size;
}

void loop_recv_release(struct loop *loop, unsigned flags)
{
    if (!(flags & LOOP_BUFFER))
        return;
    assert(loop->buffer_out[flags >> LOOP_FLAG_SHIFT]); /* given back once */
    loop->buffer_out[flags >> LOOP_FLAG_SHIFT] = false;
}

/* ---- what the seed and the test decide ---- */

static bool on_file(enum fake_kind kind)
{
    return kind == FAKE_READ || kind == FAKE_WRITE || kind == FAKE_FDATASYNC || kind == FAKE_FALLOCATE;
}

static enum fake_verdict fake_verdict(struct loop *loop, const struct pending *pending, int *ret_res)
{
    enum fake_verdict verdict = FAKE_GO;
    bool transfer = pending->what.kind == FAKE_READ || pending->what.kind == FAKE_WRITE;

    if (pending->cancelled) {
        *ret_res = -ECANCELED;
        return FAKE_FAIL;
    }
    if (loop->hook)
        verdict = loop->hook(loop->hook_context, &pending->what, ret_res);
    if (verdict != FAKE_GO || !on_file(pending->what.kind))
        return verdict;
    if (fake_random(&loop->random) % 1000 < loop->errors) {
        *ret_res = -EIO;
        return FAKE_FAIL;
    }
    if (transfer && pending->what.length > 512 && fake_random(&loop->random) % 1000 < loop->shorts) {
        *ret_res = (int)(512 * (1 + fake_random(&loop->random) % ((pending->what.length - 1) / 512)));
        return FAKE_SHORT;
    }
    return FAKE_GO;
}

/* ---- one step ---- */

static void table_remove(struct loop *loop, unsigned index)
{
    loop->count--;
    memmove(&loop->table[index], &loop->table[index + 1], (loop->count - index) * sizeof(struct pending *));
}

/* Try the operation at index. False when it is held, or did only a part and waits for its peer. */
static bool fake_try(struct loop *loop, unsigned index)
{
    struct pending *pending = loop->table[index];
    struct loop_op *op = pending->what.op;
    uint64_t limit = pending->what.length, progress = pending->progress;
    unsigned flags = 0;
    int res = 0;

    switch (fake_verdict(loop, pending, &res)) {
    case FAKE_HOLD:
        return false;
    case FAKE_FAIL:
        break;
    case FAKE_SHORT:
        limit = (uint64_t)res;
        res = fake_pending_run(loop, pending, limit, &flags);
        break;
    case FAKE_GO:
        res = fake_pending_run(loop, pending, limit, &flags);
        break;
    }
    if (res == -EAGAIN && pending->what.fd >= 0)
        return pending->progress != progress;
    loop->counts[pending->what.kind]++;
    if (!(flags & LOOP_MORE)) {
        table_remove(loop, index);
        pending_free(pending);
    }
    op->done(op, res, flags);
    return true;
}

static bool fake_message(struct loop *loop)
{
    struct loop_message *message = loop->first;

    if (!message)
        return false;
    loop->first = message->next;
    if (!loop->first)
        loop->last = &loop->first;
    message->run(message);
    return true;
}

/* A start in the table drawn by the seed, then round: the first that can happen does. */
static bool fake_operation(struct loop *loop)
{
    unsigned start = loop->count ? (unsigned)(fake_random(&loop->random) % loop->count) : 0;

    for (unsigned i = 0; i < loop->count; i++) {
        unsigned index = (start + i) % loop->count;
        if (fake_pending_ready(loop, loop->table[index]) && fake_try(loop, index))
            return true;
    }
    return false;
}

static bool fake_advance(struct loop *loop)
{
    uint64_t next_ns = UINT64_MAX;

    for (unsigned i = 0; i < loop->count; i++)
        if (loop->table[i]->what.kind == FAKE_TIMEOUT && loop->table[i]->when_ns > loop->now_ns)
            next_ns = MIN(next_ns, loop->table[i]->when_ns);
    if (next_ns == UINT64_MAX)
        return false;
    loop->now_ns = next_ns;
    return true;
}

/* All but moving the time. */
static bool fake_act(struct loop *loop)
{
    struct loop *outer = fake_loop_current;
    bool message_first = fake_random(&loop->random) & 1, did;

    fake_loop_current = loop;
    did = message_first ? fake_message(loop) || fake_operation(loop)
                        : fake_operation(loop) || fake_message(loop);
    fake_loop_current = outer;
    return did;
}

bool fake_loop_step(struct loop *loop)
{
    return fake_act(loop) || (fake_advance(loop) && fake_act(loop));
}

void fake_loop_settle(struct loop *loop)
{
    while (fake_loop_step(loop))
        ;
}

void fake_loops_settle(struct loop **loops, unsigned count, uint64_t seed)
{
    bool did = true;

    while (did) {
        unsigned start = (unsigned)(fake_random(&seed) % count);
        did = false;
        for (unsigned i = 0; i < count && !did; i++)
            did = fake_act(loops[(start + i) % count]);
        for (unsigned i = 0; i < count && !did; i++)
            did = fake_loop_step(loops[i]);
    }
}

int loop_run(struct loop *loop)
{
    while (!loop->stopping && fake_loop_step(loop))
        ;
    loop->stopping = false;
    return 0;
}
