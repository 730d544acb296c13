/*
 * The replay log's ring: append, release, adoption. Owns the mapping. Runs on the device's loop thread;
 * called by fuse_frontend.c (append), requests.c (answers and flushes) and replay.c (the replay itself).
 */
#include "datapath/device/replay_log.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/device/resident.h"

#define LOG_MAGIC UINT64_C(0x4d6f6f72696e674c) /* "MooringL" */
#define LOG_FORMAT 1u
#define LOG_PAGE 4096u
#define ENTRY_ALIGN 64u

struct replay_log_header {
    uint64_t magic;
    uint32_t format;
    uint32_t unused;
    uint64_t epoch;
    uint64_t capacity_bytes;
    _Atomic uint64_t head; /* position of the first entry that still stands */
    char volume_id[ID_VOLUME_MAX + 1];
    char boot_id[ID_BOOT_LENGTH + 1];
};

_Static_assert(sizeof(struct replay_entry) == ENTRY_ALIGN, "the entry's header is one line");
_Static_assert(sizeof(struct replay_log_header) <= LOG_PAGE, "the log's header is one page");

static struct replay_entry *entry_at(const struct replay_log *log, uint64_t position)
{
    return (struct replay_entry *)(log->ring + position % log->capacity_bytes);
}

static uint64_t log_head(const struct replay_log *log)
{
    return atomic_load_explicit(&log->header->head, memory_order_relaxed);
}

/* ---- checksum: against a half-written entry, not against an enemy ---- */

static uint64_t mix(uint64_t sum, uint64_t word)
{
    sum = (sum ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return sum ^ (sum >> 29);
}

static uint64_t word_at(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* Four lanes, so that the multiplications overlap; in variables of their own, so that none is in memory. */
static uint64_t bytes_checksum(const uint8_t *bytes, uint64_t length)
{
    uint64_t a = 1, b = 2, c = 3, d = 4;
    uint8_t rest[4 * sizeof(uint64_t)] = {0};
    for (; length >= sizeof rest; bytes += sizeof rest, length -= sizeof rest) {
        a = mix(a, word_at(bytes));
        b = mix(b, word_at(bytes + 8));
        c = mix(c, word_at(bytes + 16));
        d = mix(d, word_at(bytes + 24));
    }
    memcpy(rest, bytes, length);
    a = mix(a, word_at(rest));
    b = mix(b, word_at(rest + 8));
    c = mix(c, word_at(rest + 16));
    d = mix(d, word_at(rest + 24));
    return mix(mix(mix(mix(length, a), b), c), d);
}

static uint64_t entry_checksum(const struct replay_entry *entry, uint64_t position)
{
    uint64_t sum = mix(entry->op, entry->total_length);
    sum = mix(mix(mix(sum, entry->offset), entry->length), entry->payload_length);
    sum = mix(sum, position);
    if (entry->op != REPLAY_WRITE)
        return sum;
    return mix(sum, bytes_checksum((const uint8_t *)(entry + 1), entry->payload_length));
}

/* ---- opening ---- */

static int log_map(struct replay_log *log, int fd, uint64_t mapped_bytes, struct error *err)
{
    void *memory = mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return error_errno(err, errno, "cannot map the replay log");
    *log = (struct replay_log){.header = memory, .ring = (uint8_t *)memory + LOG_PAGE};
    log->mapped_bytes = mapped_bytes;
    log->capacity_bytes = mapped_bytes - LOG_PAGE;
    log->clock = 1;
    int r = resident_make(memory, mapped_bytes, "the replay log", err);
    if (r)
        replay_log_done(log);
    return r;
}

int replay_log_create(struct replay_log *log, const char *volume_id, uint64_t epoch, uint64_t size_bytes,
                      int *ret_fd, struct error *err)
{
    if (size_bytes < REPLAY_LOG_SIZE_MIN || size_bytes > 4 * GIB)
        return error_set(err, E_INVALID_ARGUMENT, "the replay log's size must be 4 MiB to 4 GiB");
    uint64_t mapped_bytes = LOG_PAGE + ROUND_UP(size_bytes, LOG_PAGE);
    _cleanup_fd_ int fd = memfd_create("mooring-replay-log", MFD_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "cannot make the replay log's memory");
    if (ftruncate(fd, (off_t)mapped_bytes) < 0)
        return error_errno(err, errno, "cannot size the replay log");
    int r = log_map(log, fd, mapped_bytes, err);
    if (r)
        return r;
    struct replay_log_header *header = log->header;
    header->format = LOG_FORMAT;
    header->epoch = epoch;
    header->capacity_bytes = log->capacity_bytes;
    str_copy(header->volume_id, sizeof header->volume_id, volume_id);
    header->magic = LOG_MAGIC;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* Whether a whole entry begins at position, with nothing of it beyond one lap from the head. */
static bool entry_valid(const struct replay_log *log, uint64_t position)
{
    uint64_t at = position % log->capacity_bytes;
    uint64_t room = MIN(log->capacity_bytes - at, log_head(log) + log->capacity_bytes - position);
    if (room < ENTRY_ALIGN)
        return false;
    const struct replay_entry *entry = entry_at(log, position);
    if (entry->position != position || entry->total_length < ENTRY_ALIGN ||
        entry->total_length % ENTRY_ALIGN || entry->total_length > room)
        return false;
    if (entry->op < REPLAY_WRITE || entry->op > REPLAY_PAD ||
        entry->payload_length > entry->total_length - ENTRY_ALIGN)
        return false;
    return entry->checksum == entry_checksum(entry, position);
}

static int header_check(const struct replay_log *log, const char *volume_id, uint64_t epoch,
                        struct error *err)
{
    const struct replay_log_header *header = log->header;
    if (header->magic != LOG_MAGIC || header->format != LOG_FORMAT ||
        header->capacity_bytes != log->capacity_bytes)
        return error_set(err, E_CORRUPT, "the holder's log is none that this build knows");
    if (header->epoch != epoch || strncmp(header->volume_id, volume_id, sizeof header->volume_id) != 0)
        return error_set(err, E_STALE, "the holder's log belongs to another attachment and was destroyed");
    return 0;
}

int replay_log_adopt(struct replay_log *log, int fd, const char *volume_id, uint64_t epoch, struct error *err)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return error_errno(err, errno, "cannot read the size of the replay log");
    if (status.st_size == 0) /* by one that ended before it had made another */
        return error_set(err, E_STALE, "the holder's log belongs to another attachment and was destroyed");
    if (status.st_size < (off_t)(LOG_PAGE + REPLAY_LOG_SIZE_MIN) || status.st_size % LOG_PAGE)
        return error_set(err, E_CORRUPT, "the holder's log has an impossible size");
    int r = log_map(log, fd, (uint64_t)status.st_size, err);
    if (r)
        return r;
    r = header_check(log, volume_id, epoch, err);
    if (r) {
        replay_log_done(log);
        if (r == E_STALE && (ftruncate(fd, 0) < 0))
            return error_errno(err, errno, "cannot destroy another attachment's replay log");
        return r;
    }
    for (log->tail = log_head(log); entry_valid(log, log->tail);) {
        struct replay_entry *entry = entry_at(log, log->tail);
        entry->answered_clock = log->clock;
        log->tail += entry->total_length;
    }
    return 0;
}

void replay_log_done(struct replay_log *log)
{
    if (log->header)
        munmap(log->header, log->mapped_bytes);
    *log = (struct replay_log){0};
}

/* ---- append ---- */

static struct replay_entry *entry_commit(struct replay_log *log, enum replay_op op, uint64_t offset,
                                         uint64_t length, uint64_t payload_length, uint64_t total_length)
{
    struct replay_entry *entry = entry_at(log, log->tail);
    entry->op = op;
    entry->total_length = (uint32_t)total_length;
    entry->offset = offset;
    entry->length = length;
    entry->payload_length = payload_length;
    entry->answered_clock = 0;
    entry->voided = entry->stable = 0;
    entry->checksum = entry_checksum(entry, log->tail);
    atomic_store_explicit((_Atomic uint64_t *)&entry->position, log->tail, memory_order_release);
    log->tail += total_length;
    return entry;
}

static bool log_has_room(const struct replay_log *log, uint64_t bytes)
{
    return log->tail + bytes - log_head(log) <= log->capacity_bytes;
}

void *replay_log_reserve(struct replay_log *log, uint64_t payload_max)
{
    uint64_t need = ENTRY_ALIGN + ROUND_UP(payload_max, ENTRY_ALIGN);
    uint64_t to_end = log->capacity_bytes - log->tail % log->capacity_bytes;
    if (to_end < need) {
        if (!log_has_room(log, to_end + need))
            return NULL;
        struct replay_entry *pad = entry_commit(log, REPLAY_PAD, 0, 0, 0, to_end);
        replay_log_answered(log, pad, true);
    }
    return log_has_room(log, need) ? entry_at(log, log->tail) + 1 : NULL;
}

struct replay_entry *replay_log_append(struct replay_log *log, enum replay_op op, uint64_t offset,
                                       uint64_t length, uint64_t payload_length)
{
    assert(op != REPLAY_PAD && (op == REPLAY_WRITE || payload_length == 0));
    uint64_t total_length = ENTRY_ALIGN + ROUND_UP(payload_length, ENTRY_ALIGN);
    uint64_t to_end = log->capacity_bytes - log->tail % log->capacity_bytes;
    if (to_end < total_length || !log_has_room(log, total_length))
        return NULL;
    return entry_commit(log, op, offset, length, payload_length, total_length);
}

void *replay_entry_payload(struct replay_entry *entry)
{
    return entry + 1;
}

uint64_t replay_log_tail(const struct replay_log *log)
{
    return log->tail;
}

struct replay_entry *replay_log_reclaim(struct replay_log *log, uint64_t position)
{
    struct replay_entry *entry = replay_log_first(log);
    while (entry && entry->position < position)
        entry = replay_log_next(log, entry);
    if (!entry || entry->position != position)
        return NULL;
    entry->answered_clock = 0;
    entry->stable = 0;
    return entry;
}

/* ---- release ---- */

/* The head moves past what is answered and older than the newest flush that succeeded. */
static void log_release(struct replay_log *log)
{
    uint64_t head = log_head(log);
    while (head < log->tail) {
        struct replay_entry *entry = entry_at(log, head);
        if (entry->answered_clock == 0 || (!entry->stable && entry->answered_clock >= log->stable_clock))
            break;
        head += entry->total_length;
    }
    atomic_store_explicit(&log->header->head, head, memory_order_release);
}

void replay_log_answered(struct replay_log *log, struct replay_entry *entry, bool stable)
{
    assert(entry->answered_clock == 0);
    entry->answered_clock = log->clock;
    entry->stable = stable;
    if (stable)
        log_release(log);
}

void replay_log_voided(struct replay_log *log, struct replay_entry *entry)
{
    assert(entry->answered_clock == 0);
    entry->voided = 1;
    replay_log_answered(log, entry, true);
}

uint64_t replay_log_flush_begin(struct replay_log *log)
{
    return ++log->clock;
}

void replay_log_flushed(struct replay_log *log, uint64_t clock)
{
    if (clock > log->stable_clock)
        log->stable_clock = clock;
    log_release(log);
}

/* ---- reading ---- */

uint64_t replay_log_used_bytes(const struct replay_log *log)
{
    return log->tail - log_head(log);
}

bool replay_log_empty(const struct replay_log *log)
{
    return log->tail == log_head(log);
}

static struct replay_entry *entry_from(struct replay_log *log, uint64_t position)
{
    while (position < log->tail) {
        struct replay_entry *entry = entry_at(log, position);
        if (entry->op != REPLAY_PAD && !entry->voided)
            return entry;
        position += entry->total_length;
    }
    return NULL;
}

struct replay_entry *replay_log_first(struct replay_log *log)
{
    return entry_from(log, log_head(log));
}

struct replay_entry *replay_log_next(struct replay_log *log, struct replay_entry *entry)
{
    return entry_from(log, entry->position + entry->total_length);
}

void replay_log_overlay(struct replay_log *log, uint64_t offset, uint64_t length, void *data)
{
    struct replay_entry *entry = replay_log_first(log);
    for (; entry; entry = replay_log_next(log, entry)) {
        uint64_t begin = MAX(offset, entry->offset);
        uint64_t end = MIN(offset + length, entry->offset + entry->length);
        if (begin >= end)
            continue;
        uint8_t *to = (uint8_t *)data + (begin - offset);
        if (entry->op == REPLAY_WRITE)
            memcpy(to, (uint8_t *)replay_entry_payload(entry) + (begin - entry->offset), end - begin);
        else
            memset(to, 0, end - begin);
    }
}

const char *replay_log_boot_id(const struct replay_log *log)
{
    return log->header->boot_id;
}

void replay_log_set_boot_id(struct replay_log *log, const char *boot_id)
{
    str_copy(log->header->boot_id, sizeof log->header->boot_id, boot_id);
}
