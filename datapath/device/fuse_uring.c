/*
 * FUSE's requests over io_uring: register, convert, commit. Owns the entries and their memory. Runs on the
 * device's loop; called by fuse_attach.c. In time order: entry_fetched(), entry_begin(), start_…(),
 * entry_done(), entry_answer(), which asks for the entry's next request.
 */
#include "datapath/device/fuse_uring.h"

#include <errno.h>
#include <linux/falloc.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/device/fuse_frontend.h"
#include "datapath/device/resident.h"

#define PARAMETER "/sys/module/fuse/parameters/enable_uring"
#define CPUS_POSSIBLE "/sys/devices/system/cpu/possible"
#define CPUS_ONLINE "/sys/devices/system/cpu/online"
#define CPUS_MAX 4096u
#define TEXT_MAX 4096
#define DEPTH_MIN 2u
#define DEPTH_MAX 64u
#define PAGE 4096u
#define HEAD_SIZE 512u

static void entry_fetched(struct loop_op *op, int res, unsigned flags);
static void entry_begin(struct fuse_uring_entry *entry);
static bool entry_start(struct fuse_uring_entry *entry);
static void entry_done(struct request *request, int result);
static void entry_answer(struct fuse_uring_entry *entry, int error, const void *payload, size_t length);

/* ---- parked ones, oldest first ---- */

static void parked_append(struct fuse_uring *uring, struct fuse_uring_entry *entry)
{
    entry->next = NULL;
    *uring->parked_last = entry;
    uring->parked_last = &entry->next;
}

static struct fuse_uring_entry *parked_take(struct fuse_uring *uring)
{
    struct fuse_uring_entry *entry = uring->parked;
    if (!entry)
        return NULL;
    uring->parked = entry->next;
    if (!uring->parked)
        uring->parked_last = &uring->parked;
    return entry;
}

/* ---- commands ---- */

static void kick_run(struct loop_message *message)
{
    struct fuse_uring *uring = container_of(message, struct fuse_uring, kick);
    uring->kick_posted = false;
    requests_kick(uring->parts->requests);
}

/* What a batch of requests has put together goes to the server at once. */
static void kick_later(struct fuse_uring *uring)
{
    if (uring->kick_posted)
        return;
    uring->kick_posted = true;
    loop_post(uring->parts->loop, &uring->kick);
}

static void entry_register(struct fuse_uring_entry *entry)
{
    struct fuse_uring *uring = entry->uring;
    struct fuse_proto_uring_command data = {.queue = entry->queue};
    entry->buffers[0] = (struct iovec){entry->header, sizeof *entry->header};
    entry->buffers[1] = (struct iovec){entry->payload, FUSE_URING_PAYLOAD};
    struct loop_wide_command command = {FUSE_PROTO_URING_REGISTER, &data, sizeof data, entry->buffers,
                                        ARRAY_SIZE(entry->buffers)};
    loop_command_wide(uring->parts->loop, &entry->op, uring->fd, &command);
}

static void entry_commit(struct fuse_uring_entry *entry)
{
    struct fuse_uring *uring = entry->uring;
    struct fuse_proto_uring_command data = {.commit_id = entry->commit_id, .queue = entry->queue};
    struct loop_wide_command command = {
        .code = FUSE_PROTO_URING_COMMIT_AND_FETCH, .data = &data, .length = sizeof data};
    loop_command_wide(uring->parts->loop, &entry->op, uring->fd, &command);
}

static void entry_fetched(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct fuse_uring_entry *entry = container_of(op, struct fuse_uring_entry, op);
    struct fuse_uring *uring = entry->uring;
    if (res >= 0) {
        entry_begin(entry);
        kick_later(uring);
        return;
    }
    if (uring->stopping)
        return;
    uring->stopping = true;
    bool ended = res == -ENOTCONN || res == -ECONNABORTED || res == -ECANCELED;
    uring->gone(uring->context, ended ? -ENODEV : res);
}

/* ---- a request ---- */

static struct fuse_in_header header_of(const struct fuse_uring_entry *entry)
{
    struct fuse_in_header header;
    memcpy(&header, entry->header->in_out, sizeof header);
    return header;
}

static void entry_put(void *context, int error, const void *payload, size_t length)
{
    entry_answer(context, error, payload, length);
}

/* Put together as it would come by /dev/fuse. No metadata request of ours is longer; what is, is refused. */
static void entry_answer_metadata(struct fuse_uring_entry *entry, const struct fuse_in_header *header)
{
    struct fuse_uring *uring = entry->uring;
    const struct device_state *state = uring->parts->state;
    struct fuse_volume volume = {.size_bytes = state->size_bytes,
                                 .block_size_bytes = (uint32_t)state->block_size_bytes,
                                 .read_only = state->read_only};
    struct fuse_asker asker = {entry_put, entry};
    struct fuse_agreement unchanged = {0};
    _Alignas(struct fuse_in_header) uint8_t head[HEAD_SIZE];
    size_t behind = entry->header->payload_bytes;
    size_t operation = header->len - sizeof *header - behind;
    if (header->len < sizeof *header + behind || header->len > sizeof head ||
        operation > sizeof entry->header->operation) {
        entry_answer(entry, header->opcode == FUSE_LOOKUP ? -ENOENT : -ENOSYS, NULL, 0);
        return;
    }
    memcpy(head, header, sizeof *header);
    memcpy(head + sizeof *header, entry->header->operation, operation);
    memcpy(head + sizeof *header + operation, entry->payload, behind);
    if (!fuse_answer_metadata(&asker, &volume, (const struct fuse_in_header *)head, header->len, &unchanged))
        entry_answer(entry, -ENOSYS, NULL, 0);
}

static int convert_read(struct fuse_uring_entry *entry, const struct fuse_in_header *header)
{
    const struct device_state *state = entry->uring->parts->state;
    struct request *request = &entry->request;
    struct fuse_read_in in;
    memcpy(&in, entry->header->operation, sizeof in);
    request->verb = REQUEST_READ;
    request->offset = in.offset;
    request->length =
        in.offset >= state->size_bytes ? 0 : MIN((uint64_t)in.size, state->size_bytes - in.offset);
    request->data = entry->payload;
    if (request->length > FUSE_URING_PAYLOAD)
        return EINVAL;
    return fuse_frontend_range_check(state, header, request->length ? in.offset : 0, request->length);
}

static int convert_write(struct fuse_uring_entry *entry, const struct fuse_in_header *header)
{
    struct request *request = &entry->request;
    struct fuse_write_in in;
    memcpy(&in, entry->header->operation, sizeof in);
    request->verb = REQUEST_WRITE;
    request->offset = in.offset;
    request->length = in.size;
    if (in.size == 0 || in.size > FUSE_URING_PAYLOAD || entry->header->payload_bytes != in.size)
        return EINVAL;
    return fuse_frontend_range_check(entry->uring->parts->state, header, in.offset, in.size);
}

static int convert_fallocate(struct fuse_uring_entry *entry, const struct fuse_in_header *header)
{
    struct request *request = &entry->request;
    struct fuse_fallocate_in in;
    memcpy(&in, entry->header->operation, sizeof in);
    bool punch = in.mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    bool zero = (in.mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
    request->verb = punch ? REQUEST_DISCARD : REQUEST_ZERO;
    request->offset = in.offset;
    request->length = in.length;
    if (!punch && !zero)
        return EOPNOTSUPP;
    if (in.length == 0)
        return EINVAL;
    return fuse_frontend_range_check(entry->uring->parts->state, header, in.offset, in.length);
}

/* 0, or the positive errno that it deserves; *ret_data: false for metadata. */
static int entry_convert(struct fuse_uring_entry *entry, const struct fuse_in_header *header, bool *ret_data)
{
    entry->request = (struct request){.verb = REQUEST_FLUSH, .done = entry_done};
    *ret_data = true;
    switch (header->opcode) {
    case FUSE_READ:
        return convert_read(entry, header);
    case FUSE_WRITE:
        return convert_write(entry, header);
    case FUSE_FALLOCATE:
        return convert_fallocate(entry, header);
    case FUSE_FSYNC:
        return 0;
    }
    *ret_data = false;
    return 0;
}

static bool entry_changes(const struct fuse_uring_entry *entry)
{
    return entry->request.verb != REQUEST_READ && entry->request.verb != REQUEST_FLUSH;
}

/* Those that wait keep their turn: a stream of small ones must not starve a large one. */
static void entry_begin(struct fuse_uring_entry *entry)
{
    struct fuse_uring *uring = entry->uring;
    struct fuse_in_header header = header_of(entry);
    bool data;
    entry->unique = header.unique;
    entry->commit_id = entry->header->commit_id;
    int wrong = entry_convert(entry, &header, &data);
    if (!data) {
        entry_answer_metadata(entry, &header);
        return;
    }
    if (wrong || (entry->request.verb == REQUEST_READ && entry->request.length == 0)) {
        entry_answer(entry, -wrong, NULL, 0);
        return;
    }
    bool must_wait = uring->parked && entry_changes(entry);
    if (must_wait || !entry_start(entry))
        parked_append(uring, entry);
    if (uring->parked)
        requests_relieve(uring->parts->requests, true);
}

/* ---- starting: false when there is no room for it yet ---- */

static bool start_write(struct fuse_uring_entry *entry)
{
    const struct frontend_parts *parts = entry->uring->parts;
    struct request *request = &entry->request;
    void *room = replay_log_reserve(parts->log, request->length);
    if (!room)
        return false;
    memcpy(room, entry->payload, request->length);
    return requests_submit_change(parts->requests, request);
}

static bool start_zeroes(struct fuse_uring_entry *entry)
{
    const struct frontend_parts *parts = entry->uring->parts;
    return replay_log_reserve(parts->log, 0) && requests_submit_change(parts->requests, &entry->request);
}

static bool entry_start(struct fuse_uring_entry *entry)
{
    switch (entry->request.verb) {
    case REQUEST_WRITE:
        return start_write(entry);
    case REQUEST_DISCARD:
    case REQUEST_ZERO:
        return start_zeroes(entry);
    case REQUEST_READ:
    case REQUEST_FLUSH:
        break;
    }
    requests_submit(entry->uring->parts->requests, &entry->request);
    return true;
}

/* ---- the answer ---- */

static void entry_done(struct request *request, int result)
{
    struct fuse_uring_entry *entry = container_of(request, struct fuse_uring_entry, request);
    struct fuse_uring *uring = entry->uring;
    struct fuse_write_out written = {.size = (uint32_t)request->length};
    switch (request->verb) {
    case REQUEST_READ:
        entry_answer(entry, result, entry->payload, request->length);
        break;
    case REQUEST_WRITE:
        entry_answer(entry, result, &written, sizeof written);
        break;
    case REQUEST_FLUSH:
    case REQUEST_DISCARD:
    case REQUEST_ZERO:
        entry_answer(entry, result, NULL, 0);
        break;
    }
    fuse_uring_resume(uring, 0);
}

static void entry_answer(struct fuse_uring_entry *entry, int error, const void *payload, size_t length)
{
    size_t used = error ? 0 : length;
    struct fuse_out_header out = {
        .len = (uint32_t)(sizeof out + used), .error = error, .unique = entry->unique};
    memcpy(entry->header->in_out, &out, sizeof out);
    if (used && payload != entry->payload)
        memcpy(entry->payload, payload, used);
    entry->header->payload_bytes = (uint32_t)used;
    entry_commit(entry);
}

/* ---- what the machine has ---- */

int fuse_uring_check(struct error *err)
{
    _cleanup_free_ char *text = NULL;
    _cleanup_error_ struct error why = {0};
    if (io_read_file(PARAMETER, TEXT_MAX, &text, NULL, &why))
        return error_set(err, E_UNIMPLEMENTED,
                         "%s cannot be read: before Linux 6.14, or without CONFIG_FUSE_IO_URING, FUSE has no "
                         "io_uring; or the module fuse is not loaded",
                         PARAMETER);
    if (text[0] != 'Y' && text[0] != '1')
        return error_set(err, E_UNIMPLEMENTED, "%s is N: write Y there, or boot with fuse.enable_uring=1",
                         PARAMETER);
    return 0;
}

/* One range of a list: its first and last, and what is behind it; NULL when it is none. */
static const char *range_parse(const char *at, uint64_t *ret_first, uint64_t *ret_last)
{
    if (!str_parse_uint64(at, ret_first, &at))
        return NULL;
    *ret_last = *ret_first;
    if (*at == '-' && !str_parse_uint64(at + 1, ret_last, &at))
        return NULL;
    if (*ret_last < *ret_first || *ret_last >= CPUS_MAX)
        return NULL;
    if (*at == ',')
        return at + 1;
    return *at == '\0' || *at == '\n' ? "" : NULL;
}

unsigned fuse_uring_count_cpus(const char *list)
{
    uint64_t first, last, count = 0;
    for (const char *at = list; (at = range_parse(at, &first, &last));) {
        count += last - first + 1;
        if (*at == '\0')
            return (unsigned)count;
    }
    return 0;
}

bool fuse_uring_has_cpu(const char *list, unsigned cpu)
{
    uint64_t first, last;
    for (const char *at = list; (at = range_parse(at, &first, &last));) {
        if (cpu >= first && cpu <= last)
            return true;
        if (*at == '\0')
            return false;
    }
    return false;
}

/* ---- for fuse_attach.c ---- */

static int memory_take(struct fuse_uring *uring, unsigned count, struct error *err)
{
    size_t headers = ROUND_UP(count * sizeof *uring->headers, (size_t)PAGE);
    size_t payloads = (size_t)count * FUSE_URING_PAYLOAD;
    uring->entries = calloc(count, sizeof *uring->entries);
    uring->headers = aligned_alloc(PAGE, headers);
    uring->payloads = aligned_alloc(PAGE, payloads);
    if (!uring->entries || !uring->headers || !uring->payloads)
        return error_errno(err, ENOMEM, "no memory for %u requests", count);
    memset(uring->headers, 0, headers);
    uring->entries_count = count;
    int r = resident_make(uring->entries, count * sizeof *uring->entries, "requests", err);
    return r ? r : resident_make(uring->payloads, payloads, "requests' data", err);
}

static void entry_init(struct fuse_uring *uring, unsigned index, unsigned queue)
{
    struct fuse_uring_entry *entry = &uring->entries[index];
    entry->uring = uring;
    entry->queue = (uint16_t)queue;
    entry->header = &uring->headers[index];
    entry->payload = uring->payloads + (size_t)index * FUSE_URING_PAYLOAD;
    entry->op.done = entry_fetched;
}

int fuse_uring_init(struct fuse_uring *uring, const struct frontend_parts *parts, struct error *err)
{
    _cleanup_free_ char *possible = NULL, *online = NULL;
    int r = io_read_file(CPUS_POSSIBLE, TEXT_MAX, &possible, NULL, err);
    r = r ? r : io_read_file(CPUS_ONLINE, TEXT_MAX, &online, NULL, err);
    if (r)
        return r;
    unsigned queues = fuse_uring_count_cpus(possible), busy = fuse_uring_count_cpus(online);
    if (queues == 0 || busy == 0 || busy > queues)
        return error_set(err, E_UNIMPLEMENTED, "%s cannot be understood", CPUS_POSSIBLE);
    unsigned depth = (unsigned)(parts->state->buffers_size_bytes / FUSE_URING_PAYLOAD) / busy;
    depth = MIN(MAX(depth, DEPTH_MIN), DEPTH_MAX);
    uring->parts = parts;
    uring->parked_last = &uring->parked;
    uring->kick.run = kick_run;
    r = memory_take(uring, busy * depth + queues - busy, err);
    if (r) {
        fuse_uring_done(uring);
        return r;
    }
    unsigned index = 0;
    for (unsigned queue = 0; queue < queues; queue++) {
        unsigned entries = fuse_uring_has_cpu(online, queue) ? depth : 1;
        for (unsigned i = 0; i < entries && index < uring->entries_count; i++)
            entry_init(uring, index++, queue);
    }
    uring->entries_count = index;
    return 0;
}

void fuse_uring_done(struct fuse_uring *uring)
{
    free(uring->entries);
    free(uring->headers);
    free(uring->payloads);
    uring->entries = NULL;
    uring->headers = NULL;
    uring->payloads = NULL;
    uring->entries_count = 0;
}

void fuse_uring_serve(struct fuse_uring *uring, int fd)
{
    uring->fd = fd;
    atomic_store(&uring->active, true);
    for (unsigned i = 0; i < uring->entries_count; i++)
        entry_register(&uring->entries[i]);
}

void fuse_uring_resume(struct fuse_uring *uring, int log_result)
{
    if (!uring->parked)
        return;
    if (log_result)
        for (struct fuse_uring_entry *entry; (entry = parked_take(uring));)
            entry_answer(entry, -EIO, NULL, 0);
    while (uring->parked && entry_start(uring->parked))
        parked_take(uring);
    if (uring->parked)
        requests_relieve(uring->parts->requests, true);
    kick_later(uring);
}

void fuse_uring_stop(struct fuse_uring *uring)
{
    uring->stopping = true;
}
