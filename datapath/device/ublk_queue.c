/*
 * ublk's queue: fetch, convert, commit. Owns the table of tags. Runs on the device's loop; called by
 * ublk_attach.c. In time order: queue_fetched(), slot_begin(), start_…(), slot_done(), slot_commit(), which
 * asks for the tag's next request.
 */
#include "datapath/device/ublk_queue.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"

#define SECTOR_SHIFT 9

static void queue_fetched(struct loop_op *op, int res, unsigned flags);
static void slot_begin(struct ublk_slot *slot);
static bool slot_start(struct ublk_slot *slot);
static void slot_done(struct request *request, int result);
static void slot_commit(struct ublk_slot *slot, int result);

/* ---- parked ones, oldest first ---- */

static void parked_append(struct ublk_parked *parked, struct ublk_slot *slot)
{
    slot->next = NULL;
    *parked->last = slot;
    parked->last = &slot->next;
}

static struct ublk_slot *parked_take(struct ublk_parked *parked)
{
    struct ublk_slot *slot = parked->first;
    if (!slot)
        return NULL;
    parked->first = slot->next;
    if (!parked->first)
        parked->last = &parked->first;
    return slot;
}

/* ---- commands ---- */

static void slot_command(struct ublk_slot *slot, uint32_t code, int result)
{
    struct ublk_queue *queue = slot->queue;
    struct ublksrv_io_cmd command = {.tag = slot->tag, .result = result}; /* addr 0: user copy */
    loop_command(queue->parts->loop, &slot->op, queue->fd, code, &command);
}

static void kick_run(struct loop_message *message)
{
    struct ublk_queue *queue = container_of(message, struct ublk_queue, kick);
    queue->kick_posted = false;
    requests_kick(queue->parts->requests);
}

/* What a batch of requests has put together goes to the server at once. */
static void kick_later(struct ublk_queue *queue)
{
    if (queue->kick_posted)
        return;
    queue->kick_posted = true;
    loop_post(queue->parts->loop, &queue->kick);
}

static void queue_fetched(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct ublk_slot *slot = container_of(op, struct ublk_slot, op);
    struct ublk_queue *queue = slot->queue;
    if (res == UBLK_IO_RES_OK) {
        slot_begin(slot);
        kick_later(queue);
        return;
    }
    if (!atomic_exchange(&queue->stopping, true))
        queue->gone(queue->context, res);
}

/* ---- a request ---- */

static const struct ublksrv_io_desc *asked(const struct ublk_slot *slot)
{
    return &slot->queue->requests[slot->tag];
}

static bool is_read(const struct ublk_slot *slot)
{
    return ublksrv_get_op(asked(slot)) == UBLK_IO_OP_READ;
}

static bool is_flush(const struct ublk_slot *slot)
{
    return ublksrv_get_op(asked(slot)) == UBLK_IO_OP_FLUSH;
}

/* 0, or the negative errno that it deserves. The kernel checks as much; what crosses a boundary is checked.
 */
static int slot_convert(struct ublk_slot *slot)
{
    const struct device_state *state = slot->queue->parts->state;
    const struct ublksrv_io_desc *desc = asked(slot);
    struct request *request = &slot->request;
    *request = (struct request){.done = slot_done};
    request->fua = desc->op_flags & UBLK_IO_F_FUA;
    request->offset = desc->start_sector << SECTOR_SHIFT;
    request->length = (uint64_t)desc->nr_sectors << SECTOR_SHIFT;
    switch (ublksrv_get_op(desc)) {
    case UBLK_IO_OP_READ:
        request->verb = REQUEST_READ;
        break;
    case UBLK_IO_OP_WRITE:
        request->verb = REQUEST_WRITE;
        break;
    case UBLK_IO_OP_FLUSH:
        request->verb = REQUEST_FLUSH;
        request->offset = request->length = 0;
        return 0;
    case UBLK_IO_OP_DISCARD:
        request->verb = REQUEST_DISCARD;
        break;
    case UBLK_IO_OP_WRITE_ZEROES:
        request->verb = desc->op_flags & UBLK_IO_F_NOUNMAP ? REQUEST_ZERO : REQUEST_DISCARD;
        break;
    default:
        return -EOPNOTSUPP;
    }
    bool data = request->verb == REQUEST_READ || request->verb == REQUEST_WRITE;
    if (request->length == 0 || (data && request->length > UBLK_PROTO_MAX_IO))
        return -EINVAL;
    if (request->offset % state->block_size_bytes || request->length % state->block_size_bytes ||
        desc->start_sector > UINT64_MAX >> SECTOR_SHIFT ||
        !size_range_fits(request->offset, request->length, state->size_bytes))
        return -EINVAL;
    return state->read_only && request->verb != REQUEST_READ ? -EROFS : 0;
}

/* Those that wait keep their turn: a stream of small ones must not starve a large one. */
static void slot_begin(struct ublk_slot *slot)
{
    struct ublk_queue *queue = slot->queue;
    int wrong = slot_convert(slot);
    if (wrong) {
        slot_commit(slot, wrong);
        return;
    }
    struct ublk_parked *parked = is_read(slot) ? &queue->reads : &queue->changes;
    bool must_wait = parked->first && !is_flush(slot);
    if (must_wait || !slot_start(slot))
        parked_append(parked, slot);
    if (queue->changes.first)
        requests_relieve(queue->parts->requests, true);
}

/* ---- starting: false when there is no room for it yet ---- */

static bool start_read(struct ublk_slot *slot)
{
    struct ublk_queue *queue = slot->queue;
    slot->buffer = buffers_take(queue->parts->buffers, slot->request.length);
    if (!slot->buffer)
        return false;
    slot->request.data = slot->buffer;
    requests_submit(queue->parts->requests, &slot->request);
    return true;
}

static bool start_write(struct ublk_slot *slot)
{
    const struct frontend_parts *parts = slot->queue->parts;
    struct request *request = &slot->request;
    void *room = replay_log_reserve(parts->log, request->length);
    if (!room)
        return false;
    ssize_t length = pread(slot->queue->fd, room, request->length, (off_t)UBLK_PROTO_DATA(slot->tag));
    if (length != (ssize_t)request->length) {
        log_error("a write's data cannot be taken from the kernel: %s",
                  length < 0 ? error_name(-errno) : "short");
        slot_commit(slot, -EIO);
        return true;
    }
    return requests_submit_change(parts->requests, request);
}

static bool start_zeroes(struct ublk_slot *slot)
{
    const struct frontend_parts *parts = slot->queue->parts;
    return replay_log_reserve(parts->log, 0) && requests_submit_change(parts->requests, &slot->request);
}

static bool slot_start(struct ublk_slot *slot)
{
    switch (slot->request.verb) {
    case REQUEST_READ:
        return start_read(slot);
    case REQUEST_WRITE:
        return start_write(slot);
    case REQUEST_DISCARD:
    case REQUEST_ZERO:
        return start_zeroes(slot);
    case REQUEST_FLUSH:
        break;
    }
    requests_submit(slot->queue->parts->requests, &slot->request);
    return true;
}

/* ---- the answer ---- */

static int give_data(struct ublk_slot *slot)
{
    ssize_t length =
        pwrite(slot->queue->fd, slot->buffer, slot->request.length, (off_t)UBLK_PROTO_DATA(slot->tag));
    if (length == (ssize_t)slot->request.length)
        return 0;
    log_error("a read's data cannot be given to the kernel: %s", length < 0 ? error_name(-errno) : "short");
    return -EIO;
}

static void slot_done(struct request *request, int result)
{
    struct ublk_slot *slot = container_of(request, struct ublk_slot, request);
    struct ublk_queue *queue = slot->queue;
    if (slot->buffer) {
        result = result ? result : give_data(slot);
        buffers_give(queue->parts->buffers, slot->buffer);
        slot->buffer = NULL;
    }
    slot_commit(slot, result);
    ublk_queue_resume(queue, 0);
}

/* Reads and writes answer with their length: a shorter one would have the kernel ask for the rest. */
static void slot_commit(struct ublk_slot *slot, int result)
{
    enum request_verb verb = slot->request.verb;
    bool data = verb == REQUEST_READ || verb == REQUEST_WRITE;
    slot_command(slot, UBLK_PROTO_COMMIT_AND_FETCH_REQ,
                 result == 0 && data ? (int)slot->request.length : result);
}

/* ---- for ublk_attach.c ---- */

static void resume_parked(struct ublk_parked *parked)
{
    while (parked->first) {
        if (!slot_start(parked->first))
            return;
        parked_take(parked);
    }
}

void ublk_queue_resume(struct ublk_queue *queue, int log_result)
{
    if (!queue->reads.first && !queue->changes.first)
        return;
    if (log_result)
        for (struct ublk_slot *slot; (slot = parked_take(&queue->changes));)
            slot_commit(slot, -EIO);
    resume_parked(&queue->reads);
    resume_parked(&queue->changes);
    if (queue->changes.first)
        requests_relieve(queue->parts->requests, true);
    kick_later(queue);
}

void ublk_queue_serve(struct ublk_queue *queue)
{
    for (unsigned i = 0; i < queue->depth; i++)
        slot_command(&queue->slots[i], UBLK_PROTO_FETCH_REQ, 0);
}

int ublk_queue_init(struct ublk_queue *queue, const struct frontend_parts *parts, int fd,
                    const struct ublksrv_io_desc *requests, unsigned depth, struct error *err)
{
    *queue = (struct ublk_queue){.parts = parts, .fd = fd, .requests = requests, .depth = depth};
    queue->slots = calloc(depth, sizeof *queue->slots);
    if (!queue->slots)
        return error_errno(err, ENOMEM, "no memory for the table of requests");
    for (unsigned i = 0; i < depth; i++) {
        queue->slots[i].queue = queue;
        queue->slots[i].tag = (uint16_t)i;
        queue->slots[i].op.done = queue_fetched;
    }
    queue->reads.last = &queue->reads.first;
    queue->changes.last = &queue->changes.first;
    queue->kick.run = kick_run;
    return 0;
}

void ublk_queue_done(struct ublk_queue *queue)
{
    free(queue->slots);
    queue->slots = NULL;
}
