/*
 * Scrub: all that is allocated to volumes and snapshots is read in the background, so that what the disk
 * cannot read any more is known before it is needed. XFS keeps no checksums of data: bytes that the disk
 * returns without an error, but changed, are not found.
 *
 * A round reads each data file once, in the order of ids, past every cache, one read at a time, at a set rate
 * and at a quarter of the disk's time at most. What was read, and what could not be, is kept in the pool and
 * outlives the process; a round goes on where it was. A range that could not be read is told until it can be
 * read: in a later round, or because it was written anew, which has it read at once.
 *
 * Threads: [any] as in store.h: memory only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/id.h"
#include "datapath/store/store.h"

struct scrub_options {
    uint64_t bytes_per_s;     /* 0: no rounds */
    uint64_t interval_s;      /* from the beginning of a round to that of the next */
    uint64_t (*now_ns)(void); /* clocks; NULL: the host's */
    int64_t (*unix_s)(void);
};

/* Load what is known, once for a store, before its first image is used. It is freed with the store. */
int store_scrub_open(struct store *store, const struct scrub_options *options, struct error *err);
/* Begin on a thread of its own. */
int store_scrub_start(struct store *store, struct error *err);
/* End that thread, after its read in flight, and save. Again and without a start, too. */
void store_scrub_stop(struct store *store);

/* For who has no thread, before store_scrub_start(): do what is due, one read at most. How long until there
 * is more to do, in ns. */
uint64_t store_scrub_step(struct store *store);

/* Begin a round now, unless one runs. E_PRECONDITION when there are none. [any] */
int store_scrub_request(struct store *store, struct error *err);

struct scrub_round {
    int64_t began_unix_s, ended_unix_s; /* 0: it has not */
    uint64_t read_bytes;
    uint64_t shared_bytes; /* not read again, since they share space with what was */
    uint64_t unreadable_bytes;
    uint64_t files_count; /* that were read whole */
};

struct scrub_status {
    bool running;
    struct scrub_round round, last; /* the one that runs; the last that ended */
    unsigned progress_percent;      /* of the files, and of the one that is read */
    uint64_t bytes_per_s;
    int64_t next_unix_s;  /* of the next round, 0: none */
    size_t unreadable;    /* ranges, of … */
    size_t unreadable_of; /* … so many files; the first of them: */
    char first[ID_SNAPSHOT_MAX + 1];
};
void store_scrub_status(struct store *store, struct scrub_status *ret); /* [any] */

struct scrub_error {
    char id[ID_SNAPSHOT_MAX + 1];
    uint64_t offset, length;
    int errnum;
    int64_t since_unix_s;
};
/* What cannot be read of one volume or snapshot, or of all when id is NULL: at most `room`, in order. Returns
 * how many there are. [any] */
size_t store_scrub_errors(struct store *store, const char *id, struct scrub_error *ret, size_t room);

/* When a volume or snapshot was last read to its end; 0: never. [any] */
int64_t store_scrub_read_at(struct store *store, const char *id);
