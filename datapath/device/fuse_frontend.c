/*
 * The FUSE frontend's data path: read a request, turn it into a struct request, answer. Owns the table of
 * requests; each has its record in the ledger. Runs on the device's loop; called by fuse_attach.c.
 */
#include "datapath/device/fuse_frontend.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "datapath/device/fuse_answer.h"
#include "datapath/device/resident.h"
#include "datapath/device/softirq.h"

#define BATCH 32

static void channel_readable(struct loop_op *op, int res, unsigned flags);
static int channel_read(struct fuse_channel *channel);
static void dispatch(struct fuse_request *slot, size_t length, void *data, bool in_log);
static bool slot_start(struct fuse_request *slot, void *data, bool in_log);
static void slot_settling(struct request *request, int result);
static void slot_done(struct request *request, int result);

/* ---- the table ---- */

static struct fuse_request *slot_take(struct fuse_frontend *frontend)
{
    struct fuse_request *slot = frontend->free;
    frontend->free = slot->next_free;
    frontend->in_flight++;
    slot->request = (struct request){.settling = slot_settling, .done = slot_done};
    slot->buffer = NULL;
    return slot;
}

static void slot_give(struct fuse_request *slot)
{
    struct fuse_frontend *frontend = slot->frontend;
    if (slot->buffer)
        buffers_give(frontend->buffers, slot->buffer);
    slot->buffer = NULL;
    slot->next_free = frontend->free;
    frontend->free = slot;
    frontend->in_flight--;
}

static struct fuse_channel *slot_channel(const struct fuse_request *slot)
{
    return &slot->frontend->channels[slot->record->channel];
}

/* From here on the request is never carried out again, only answered. */
static void slot_settle(struct fuse_request *slot, int error)
{
    slot->record->result = error;
    atomic_store_explicit(&slot->record->state, FUSE_RECORD_ANSWERING, memory_order_release);
}

static void slot_answer(struct fuse_request *slot, int error, const void *payload, size_t length)
{
    slot_settle(slot, error);
    fuse_answer(slot_channel(slot)->fd, slot->record->head.header.unique, error, payload, length);
    slot_give(slot);
}

static void slot_put(void *context, int error, const void *payload, size_t length)
{
    const struct fuse_request *slot = context;
    fuse_answer(slot_channel(slot)->fd, slot->record->head.header.unique, error, payload, length);
}

/* ---- reading /dev/fuse ---- */

/* One thread reads, so one descriptor is polled: each request would wake both. The other is a second
 * thread's, some day; it lives in the holder like the first. */
static void channel_arm(struct fuse_channel *channel)
{
    if (channel != &channel->frontend->channels[0])
        return;
    if (channel->armed || channel->fd < 0 || !channel->frontend->running)
        return;
    channel->armed = true;
    loop_poll(channel->frontend->loop, &channel->poll, channel->fd, POLLIN);
}

static bool frontend_stalled(const struct fuse_frontend *frontend)
{
    return frontend->parked || !frontend->free;
}

static void channel_readable(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct fuse_channel *channel = container_of(op, struct fuse_channel, poll);
    struct fuse_frontend *frontend = channel->frontend;
    channel->armed = false;
    if (!frontend->running || res == -ECANCELED)
        return;
    int r = 0;
    for (int i = 0; i < BATCH && r == 0 && !frontend_stalled(frontend); i++)
        r = channel_read(channel);
    requests_kick(frontend->requests);
    if (r < 0 && r != -EAGAIN) {
        fuse_frontend_stop(frontend);
        frontend->gone(frontend->context, r);
        return;
    }
    if (!frontend_stalled(frontend))
        channel_arm(channel);
}

/* One request: its head becomes its record, its data, if it is a write, goes to where it will stay, behind
 * the log's tail. Where that is stands in the record before the kernel can put anything there. */
static int channel_read(struct fuse_channel *channel)
{
    struct fuse_frontend *frontend = channel->frontend;
    assert(!frontend->claimed); /* it would land where their data may be; while one is left, one is parked */
    struct fuse_request *slot = frontend->free;
    struct fuse_record *record = slot->record;
    void *room = replay_log_reserve(frontend->log, FUSE_PROTO_MAX_WRITE);
    void *data = room ? room : frontend->ledger->landing;
    record->position = room ? replay_log_tail(frontend->log) : FUSE_LEDGER_LANDING;
    record->channel = (uint32_t)(channel - frontend->channels);
    atomic_store_explicit(&record->state, FUSE_RECORD_TAKEN, memory_order_release);
    struct iovec iov[2] = {{record->head.bytes, sizeof record->head.bytes}, {data, FUSE_PROTO_MAX_WRITE}};
    ssize_t length = readv(channel->fd, iov, 2);
    if (length < 0)
        return errno == EINTR || errno == ENOENT ? 0 : -errno;
    if (length < (ssize_t)sizeof record->head.header || (size_t)length != record->head.header.len)
        return -EPROTO;
    slot = slot_take(frontend);
    dispatch(slot, (size_t)length, data, room != NULL);
    return 0;
}

static void dispatch(struct fuse_request *slot, size_t length, void *data, bool in_log)
{
    struct fuse_frontend *frontend = slot->frontend;
    const struct device_state *state = frontend->state;
    struct fuse_volume volume = {.size_bytes = state->size_bytes,
                                 .block_size_bytes = (uint32_t)state->block_size_bytes,
                                 .read_only = state->read_only};
    switch (slot->record->head.header.opcode) {
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_FSYNC:
    case FUSE_FALLOCATE:
        if (!slot_start(slot, data, in_log)) {
            assert(!frontend->parked);
            frontend->parked = slot;
            if (slot->record->head.header.opcode != FUSE_READ)
                requests_relieve(frontend->requests, true);
        }
        return;
    }
    struct fuse_asker asker = {slot_put, slot};
    size_t head_length = MIN(length, sizeof slot->record->head.bytes);
    bool init = slot->record->head.header.opcode == FUSE_INIT;
    if (length > head_length && slot->record->head.header.opcode == FUSE_LOOKUP)
        slot_answer(slot, -ENOENT, NULL, 0); /* a longer name than ours */
    else if (fuse_answer_metadata(&asker, &volume, &slot->record->head.header, head_length,
                                  &frontend->agreement))
        slot_give(slot);
    else
        slot_answer(slot, -ENOSYS, NULL, 0);
    if (init && frontend->agreement.uring)
        frontend->switched(frontend->context);
}

/* ---- data requests: false when there is no room for it yet ---- */

static const void *slot_argument(const struct fuse_request *slot)
{
    return slot->record->head.bytes + sizeof slot->record->head.header;
}

int fuse_frontend_range_check(const struct device_state *state, const struct fuse_in_header *header,
                              uint64_t offset, uint64_t length)
{
    if (header->nodeid != FUSE_PROTO_VOLUME_INO)
        return EISDIR;
    if (offset % state->block_size_bytes || length % state->block_size_bytes)
        return EINVAL;
    if (!size_range_fits(offset, length, state->size_bytes))
        return header->opcode == FUSE_WRITE ? EFBIG : EINVAL;
    if (state->read_only && header->opcode != FUSE_READ)
        return EROFS;
    return 0;
}

static int range_check(const struct fuse_request *slot, uint64_t offset, uint64_t length)
{
    return fuse_frontend_range_check(slot->frontend->state, &slot->record->head.header, offset, length);
}

static void slot_request(struct fuse_request *slot, enum request_verb verb, uint64_t offset, uint64_t length)
{
    slot->request.verb = verb;
    slot->request.offset = offset;
    slot->request.length = length;
}

static void slot_submit(struct fuse_request *slot, enum request_verb verb, uint64_t offset, uint64_t length,
                        void *data)
{
    slot_request(slot, verb, offset, length);
    slot->request.data = data;
    requests_submit(slot->frontend->requests, &slot->request);
}

static bool start_read(struct fuse_request *slot)
{
    struct fuse_read_in in;
    memcpy(&in, slot_argument(slot), sizeof in);
    uint64_t size = slot->frontend->state->size_bytes;
    uint64_t length = in.offset >= size ? 0 : MIN((uint64_t)in.size, size - in.offset);
    int wrong = length > FUSE_PROTO_MAX_WRITE ? EINVAL : range_check(slot, length ? in.offset : 0, length);
    if (wrong || length == 0) {
        slot_answer(slot, -wrong, NULL, 0);
        return true;
    }
    slot->buffer = buffers_take(slot->frontend->buffers, length);
    if (!slot->buffer)
        return false;
    slot_submit(slot, REQUEST_READ, in.offset, length, slot->buffer);
    return true;
}

static bool start_write(struct fuse_request *slot, void *data, bool in_log)
{
    struct fuse_frontend *frontend = slot->frontend;
    struct fuse_write_in in;
    memcpy(&in, slot_argument(slot), sizeof in);
    int wrong = range_check(slot, in.offset, in.size);
    if (!wrong && slot->record->head.header.len != FUSE_HEAD_SIZE + in.size)
        wrong = EINVAL;
    if (wrong || in.size == 0) {
        slot_answer(slot, wrong ? -wrong : -EINVAL, NULL, 0);
        return true;
    }
    if (!in_log) {
        void *room = replay_log_reserve(frontend->log, in.size);
        if (!room)
            return false;
        memcpy(room, data, in.size);
        slot->record->position = replay_log_tail(frontend->log);
    }
    slot_request(slot, REQUEST_WRITE, in.offset, in.size);
    return requests_submit_change(frontend->requests, &slot->request);
}

static bool start_fallocate(struct fuse_request *slot)
{
    struct fuse_frontend *frontend = slot->frontend;
    struct fuse_fallocate_in in;
    memcpy(&in, slot_argument(slot), sizeof in);
    bool punch = in.mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    bool zero = (in.mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
    int wrong = punch || zero ? range_check(slot, in.offset, in.length) : EOPNOTSUPP;
    if (wrong || in.length == 0) {
        slot_answer(slot, wrong ? -wrong : -EINVAL, NULL, 0);
        return true;
    }
    if (!replay_log_reserve(frontend->log, 0))
        return false;
    slot->record->position = replay_log_tail(frontend->log);
    slot_request(slot, punch ? REQUEST_DISCARD : REQUEST_ZERO, in.offset, in.length);
    return requests_submit_change(frontend->requests, &slot->request);
}

static bool slot_start(struct fuse_request *slot, void *data, bool in_log)
{
    switch (slot->record->head.header.opcode) {
    case FUSE_READ:
        return start_read(slot);
    case FUSE_WRITE:
        return start_write(slot, data, in_log);
    case FUSE_FALLOCATE:
        return start_fallocate(slot);
    default: /* FUSE_FSYNC */
        slot_submit(slot, REQUEST_FLUSH, 0, 0, NULL);
        return true;
    }
}

static void slot_settling(struct request *request, int result)
{
    slot_settle(container_of(request, struct fuse_request, request), result);
}

static void settle_run(struct loop_message *message)
{
    struct fuse_frontend *frontend = container_of(message, struct fuse_frontend, settle);
    frontend->settle_posted = false;
    frontend->softirqs(frontend->softirq_fd);
}

/* The block device's users are told once the batch's answers are given. */
static void settle_later(struct fuse_frontend *frontend)
{
    if (frontend->settle_posted)
        return;
    frontend->settle_posted = true;
    loop_post(frontend->loop, &frontend->settle);
}

static void slot_done(struct request *request, int result)
{
    struct fuse_request *slot = container_of(request, struct fuse_request, request);
    struct fuse_frontend *frontend = slot->frontend;
    struct fuse_write_out written = {.size = (uint32_t)request->length};
    switch (request->verb) {
    case REQUEST_READ:
        slot_answer(slot, result, slot->buffer, request->length);
        break;
    case REQUEST_WRITE:
        slot_answer(slot, result, &written, sizeof written);
        break;
    case REQUEST_FLUSH:
    case REQUEST_DISCARD:
    case REQUEST_ZERO:
        slot_answer(slot, result, NULL, 0);
        break;
    }
    settle_later(frontend);
    fuse_frontend_resume(frontend, 0);
}

/* ---- after a crash, where the kernel does not send again ---- */

static bool opcode_changes(uint32_t opcode)
{
    return opcode == FUSE_WRITE || opcode == FUSE_FALLOCATE;
}

static bool slot_settled(const struct fuse_request *slot)
{
    uint32_t opcode = slot->record->head.header.opcode;
    return atomic_load_explicit(&slot->record->state, memory_order_acquire) == FUSE_RECORD_ANSWERING &&
           (opcode_changes(opcode) || opcode == FUSE_FSYNC); /* a read's data is gone: it is read again */
}

/* The entry of a request that will be carried out again stays in the log until that is answered, whatever
 * flushes come before. */
static void slot_claim(struct fuse_request *slot)
{
    struct fuse_frontend *frontend = slot->frontend;
    if (!opcode_changes(slot->record->head.header.opcode))
        return;
    struct replay_entry *entry = replay_log_reclaim(frontend->log, slot->record->position);
    if (!entry)
        return;
    if (!slot_settled(slot))
        slot->request.entry = entry;
    else if (slot->record->result)
        replay_log_voided(frontend->log, entry);
    else
        replay_log_answered(frontend->log, entry, false);
}

unsigned fuse_frontend_claim(struct fuse_frontend *frontend, const int fds[FUSE_CHANNELS])
{
    struct fuse_request *unclaimed = NULL, **last = &frontend->claimed;
    unsigned count = 0;
    for (unsigned i = 0; i < FUSE_LEDGER_SIZE; i++) {
        struct fuse_request *slot = &frontend->table[i];
        const struct fuse_record *record = slot->record;
        uint64_t unique = record->head.header.unique;
        if (unique == 0 || record->channel >= FUSE_CHANNELS ||
            !frontend->request_known(fds[record->channel], unique)) {
            slot->next_free = unclaimed;
            unclaimed = slot;
            continue;
        }
        frontend->free = slot;
        slot_take(frontend);
        slot->next_free = NULL;
        *last = slot;
        last = &slot->next_free;
        slot_claim(slot);
        count++;
    }
    frontend->free = unclaimed;
    return count;
}

static bool slot_in_log(const struct fuse_request *slot)
{
    return slot->request.entry || slot_settled(slot) || !opcode_changes(slot->record->head.header.opcode);
}

/* Not in the log yet: its data is behind the tail, where nothing else may come before it. */
static bool slot_at_tail(const struct fuse_request *slot)
{
    return !slot_in_log(slot) && slot->record->position == replay_log_tail(slot->frontend->log);
}

/* First what is behind the tail; last what found the log full: its room comes from the others' end. */
static struct fuse_request *claimed_next(struct fuse_frontend *frontend)
{
    struct fuse_request **best = &frontend->claimed;
    for (struct fuse_request **at = best; *at; at = &(*at)->next_free) {
        if (slot_at_tail(*at)) {
            best = at;
            break;
        }
        if (slot_in_log(*at) && !slot_in_log(*best))
            best = at;
    }
    struct fuse_request *slot = *best;
    *best = slot->next_free;
    return slot;
}

static void slot_resume(struct fuse_request *slot)
{
    struct replay_entry *entry = slot->request.entry;
    if (entry->op == REPLAY_WRITE)
        slot_submit(slot, REQUEST_WRITE, entry->offset, entry->length, replay_entry_payload(entry));
    else
        slot_submit(slot, entry->op == REPLAY_ZERO ? REQUEST_ZERO : REQUEST_DISCARD, entry->offset,
                    entry->length, NULL);
}

static void slot_recover(struct fuse_request *slot)
{
    struct fuse_frontend *frontend = slot->frontend;
    const struct fuse_in_header *header = &slot->record->head.header;
    bool write = header->opcode == FUSE_WRITE;
    void *data = frontend->ledger->landing;
    bool in_log = write && slot_at_tail(slot);
    if (in_log) /* of that size it was reserved then: the tail stays where it is */
        data = replay_log_reserve(frontend->log, header->len - FUSE_HEAD_SIZE);
    if (slot_settled(slot)) {
        struct fuse_write_out written = {.size = header->len - (uint32_t)FUSE_HEAD_SIZE};
        slot_answer(slot, slot->record->result, &written, write ? sizeof written : 0);
    } else if (slot->request.entry) {
        slot_resume(slot);
    } else if (write && !in_log && slot->record->position != FUSE_LEDGER_LANDING) {
        log_error("the data of a write that a crashed process had taken is not in the log");
        slot_answer(slot, -EIO, NULL, 0);
    } else {
        dispatch(slot, header->len, data, in_log);
    }
}

static void claimed_recover(struct fuse_frontend *frontend)
{
    while (frontend->running && frontend->claimed && !frontend->parked)
        slot_recover(claimed_next(frontend));
}

void fuse_frontend_recover(struct fuse_frontend *frontend)
{
    claimed_recover(frontend);
    requests_kick(frontend->requests);
}

/* ---- for fuse_attach.c ---- */

int fuse_frontend_init(struct fuse_frontend *frontend, struct loop *loop, const struct device_state *state,
                       struct requests *requests, struct replay_log *log, struct buffers *buffers,
                       struct error *err)
{
    *frontend = (struct fuse_frontend){.loop = loop, .state = state, .requests = requests, .log = log};
    frontend->buffers = buffers;
    frontend->request_known = fuse_answer_known;
    frontend->settle.run = settle_run;
    frontend->softirqs = softirq_run;
    frontend->softirq_fd = -1;
    frontend->table = calloc(FUSE_LEDGER_SIZE, sizeof *frontend->table);
    if (!frontend->table)
        return error_errno(err, ENOMEM, "no memory for the table of requests");
    int r = resident_make(frontend->table, FUSE_LEDGER_SIZE * sizeof *frontend->table, "requests", err);
    if (r) {
        fuse_frontend_done(frontend);
        return r;
    }
    frontend->softirq_fd = softirq_open();
    for (int i = 0; i < FUSE_CHANNELS; i++)
        frontend->channels[i] =
            (struct fuse_channel){.frontend = frontend, .fd = -1, .poll = {.done = channel_readable}};
    return 0;
}

void fuse_frontend_done(struct fuse_frontend *frontend)
{
    free(frontend->table);
    frontend->table = frontend->free = NULL;
    frontend->softirq_fd = fd_close(frontend->softirq_fd);
}

void fuse_frontend_set_ledger(struct fuse_frontend *frontend, struct fuse_ledger *ledger)
{
    frontend->ledger = ledger;
    frontend->free = NULL;
    for (unsigned i = 0; i < FUSE_LEDGER_SIZE; i++) {
        frontend->table[i].frontend = frontend;
        frontend->table[i].record = &ledger->records[i];
        frontend->table[i].next_free = frontend->free;
        frontend->free = &frontend->table[i];
    }
}

void fuse_frontend_add(struct fuse_frontend *frontend, int fd)
{
    frontend->running = true;
    for (int i = 0; i < FUSE_CHANNELS; i++) {
        if (frontend->channels[i].fd < 0) {
            frontend->channels[i].fd = fd;
            channel_arm(&frontend->channels[i]);
            return;
        }
    }
}

int fuse_frontend_resend(struct fuse_frontend *frontend, int fd)
{
    struct fuse_out_header notify = {.len = sizeof notify, .error = FUSE_PROTO_NOTIFY_RESEND};
    ssize_t r = write(fd, &notify, sizeof notify);
    frontend->agreement.resends = r >= 0;
    return r < 0 ? -errno : 0;
}

void fuse_frontend_resume(struct fuse_frontend *frontend, int log_result)
{
    struct fuse_request *slot = frontend->parked;
    if (slot) {
        frontend->parked = NULL;
        bool change = slot->record->head.header.opcode != FUSE_READ;
        if (change && log_result)
            slot_answer(slot, -EIO, NULL, 0);
        else if (!slot_start(slot, frontend->ledger->landing, false))
            frontend->parked = slot;
        if (frontend->parked && change)
            requests_relieve(frontend->requests, true);
        claimed_recover(frontend);
        requests_kick(frontend->requests);
    }
    if (!frontend->running || frontend_stalled(frontend))
        return;
    for (int i = 0; i < FUSE_CHANNELS; i++)
        channel_arm(&frontend->channels[i]);
}

void fuse_frontend_stop(struct fuse_frontend *frontend)
{
    frontend->running = false;
    for (int i = 0; i < FUSE_CHANNELS; i++)
        if (frontend->channels[i].armed)
            loop_cancel(frontend->loop, &frontend->channels[i].poll);
}
