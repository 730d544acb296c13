/*
 * The replay log (invariant 1): every change that the device sent and that no later flush has made stable, in
 * the order in which it was taken up, in shared memory (a memfd) that outlives the process in the holder's
 * hands.
 *
 * A ring of entries of one volume and one epoch; another's is destroyed unread. An entry is a 64-byte header
 * and, for a write, its payload, which is also the buffer that the write is sent from: the data is read from
 * /dev/fuse straight into the log. An entry becomes part of the log by one store (its position), last, and
 * carries a checksum: after a kill at any instruction the tail is an entry or it is not.
 *
 * An entry leaves from the head, once it was answered and a flush that was sent after that succeeded. Time is
 * a counter: replay_log_flush_begin() ticks it.
 *
 * One thread, the device's loop. No I/O, no allocation after open.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/id.h"

enum replay_op {
    REPLAY_WRITE = 1,   /* payload at offset */
    REPLAY_ZERO = 2,    /* zeroes, space kept: WRITE SAME */
    REPLAY_DISCARD = 3, /* deallocated, reads as zeroes: UNMAP, or WRITE SAME with UNMAP */
    REPLAY_PAD = 4,     /* the rest of the ring before it wraps */
};

/* In shared memory. What the checksum does not cover may change while the entry stands. */
struct replay_entry {
    uint64_t
        position; /* where it is, counted from the log's birth: a stale lap never matches. Stored last. */
    uint64_t checksum; /* of the fields from `op` to `payload_length`, position, and the payload */
    uint32_t op;
    uint32_t total_length; /* bytes of the ring that it takes, header included; a multiple of 64 */
    uint64_t offset;
    uint64_t length;
    uint64_t payload_length;
    uint64_t answered_clock; /* not covered: 0 until answered */
    uint32_t voided;         /* not covered: the target refused it, it is never replayed */
    uint32_t stable;         /* not covered: it may leave as soon as all before it have left */
};

struct replay_log_header;

struct replay_log {
    struct replay_log_header *header; /* the mapping */
    uint8_t *ring;
    uint64_t capacity_bytes;
    uint64_t mapped_bytes;
    uint64_t tail;         /* position after the last entry */
    uint64_t clock;        /* ticks with each flush that is sent; starts at 1 */
    uint64_t stable_clock; /* the newest flush that succeeded */
};

#define REPLAY_LOG_SIZE_MIN (4u * 1024 * 1024)

/* A new, empty log; the caller owns *ret_fd (the memfd). */
int replay_log_create(struct replay_log *log, const char *volume_id, uint64_t epoch, uint64_t size_bytes,
                      int *ret_fd, struct error *err);

/*
 * Take over the log behind fd (borrowed). E_STALE when it belongs to another volume or epoch: it was wiped,
 * unread. E_CORRUPT when it is no log of a format that this build knows. A torn tail entry is dropped. All
 * entries count as answered: call it before the first flush of the session that reinstates the old one.
 */
int replay_log_adopt(struct replay_log *log, int fd, const char *volume_id, uint64_t epoch,
                     struct error *err);
void replay_log_done(struct replay_log *log);

/* Room for a payload of up to payload_max bytes, in one piece, which the next append takes; NULL when the log
 * is too full. Nothing is in the log yet. */
void *replay_log_reserve(struct replay_log *log, uint64_t payload_max);

/* Make the reserved room an entry; payload_length bytes were put there by the caller. NULL when the last
 * reserve did not succeed. The entry stays in place until it leaves the log. */
struct replay_entry *replay_log_append(struct replay_log *log, enum replay_op op, uint64_t offset,
                                       uint64_t length, uint64_t payload_length);
void *replay_entry_payload(struct replay_entry *entry);

/* Where the next entry will stand; after a reserve, its. */
uint64_t replay_log_tail(const struct replay_log *log);

/* The entry at position counts as not answered once more, and stays until it is; NULL when none stands there.
 * After an adoption, for a command that is carried out again. */
struct replay_entry *replay_log_reclaim(struct replay_log *log, uint64_t position);

/* The target answered the entry's command. stable: it was carried out write-through; it stays all the same
 * while an older entry stands, whose replay alone would undo it. */
void replay_log_answered(struct replay_log *log, struct replay_entry *entry, bool stable);

/* The target refused it: it is not replayed. */
void replay_log_voided(struct replay_log *log, struct replay_entry *entry);

/* A flush is about to be sent (again): the tick to give to replay_log_flushed() when it has succeeded. */
uint64_t replay_log_flush_begin(struct replay_log *log);
void replay_log_flushed(struct replay_log *log, uint64_t clock);

uint64_t replay_log_used_bytes(const struct replay_log *log);
bool replay_log_empty(const struct replay_log *log);

/* In order, for the replay; pads and voided entries are left out. NULL at the end. */
struct replay_entry *replay_log_first(struct replay_log *log);
struct replay_entry *replay_log_next(struct replay_log *log, struct replay_entry *entry);

/* Lay what the log holds of [offset, offset + length) over data, as the replay would leave it there. */
void replay_log_overlay(struct replay_log *log, uint64_t offset, uint64_t length, void *data);

/* The boot id under which the entries were sent; "" before the first login. */
const char *replay_log_boot_id(const struct replay_log *log);
void replay_log_set_boot_id(struct replay_log *log, const char *boot_id);
