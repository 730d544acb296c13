/*
 * Inside store/ only: what scrub.c, which reads, shares with scrub_state.c, which remembers, and
 * scrub_ranges.c.
 */
#pragma once

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datapath/store/scrub.h"
#include "datapath/store/store_internal.h"

/* ---- scrub_ranges.c: ranges of a file that cannot be read; pure ---- */

#define SCRUB_RANGES_MAX 64 /* of one file; then ranges are told as one with what lies between */

struct scrub_range {
    uint64_t offset, end;
    int64_t since_unix_s;
    int errnum;
    bool rewritten; /* since: to be read again */
};

struct scrub_ranges { /* in order, apart */
    struct scrub_range *items;
    size_t count, room;
};

void scrub_ranges_done(struct scrub_ranges *ranges);
/* Nothing of [from, to) is unreadable. Where there is no room to split one, it stays whole. */
void scrub_ranges_clear(struct scrub_ranges *ranges, uint64_t from, uint64_t to);
/* This is, with at most `max` ranges afterwards; `since` stays what it was where they meet. 0 or -ENOMEM. */
int scrub_ranges_add(struct scrub_ranges *ranges, const struct scrub_range *range, size_t max);
/* [from, to) was written: what of that is unreadable is marked. False when that is nothing. */
bool scrub_ranges_rewrite(struct scrub_ranges *ranges, uint64_t from, uint64_t to);
uint64_t scrub_ranges_bytes(const struct scrub_ranges *ranges);

/* A set of places on the disk, as ranges; it takes no more when it is full. */
struct scrub_seen {
    struct scrub_place {
        uint64_t start, end;
    } * items;
    size_t count, room;
};
void scrub_seen_done(struct scrub_seen *seen);
void scrub_seen_add(struct scrub_seen *seen, uint64_t start, uint64_t end);
/* How much from start on is in it, up to end. */
uint64_t scrub_seen_from(const struct scrub_seen *seen, uint64_t start, uint64_t end);

/* ---- scrub_state.c ---- */

struct scrub_entry { /* of a volume or snapshot that was read, or could not be */
    char id[ID_SNAPSHOT_MAX + 1];
    int64_t read_unix_s;
    struct scrub_ranges ranges;
};

struct scrub {
    struct store *store;
    struct scrub_options options;

    pthread_mutex_t lock; /* memory only, before the index lock; guards what follows */
    pthread_cond_t wake;
    bool stopping, poked, requested;
    bool changed, urgent; /* since it was saved */
    bool running;
    struct scrub_round round, last;
    int64_t due_unix_s;                /* the next round; 0: not known yet */
    char at[ID_SNAPSHOT_MAX + 1];      /* which file is read; "": the first is next */
    uint64_t offset;                   /* read up to there */
    struct index entries;              /* struct scrub_entry */
    size_t ranges_count;               /* of all */
    bool rewritten;                    /* some range may be: see there */
    char read_id[ID_SNAPSHOT_MAX + 1]; /* being read, there, and written meanwhile */
    uint64_t read_from, read_to;
    bool read_stale;

    /* Of whoever steps. */
    pthread_t thread;
    bool started;
    void *buffer;
    uint64_t not_before_ns; /* the next step */
    uint64_t paid_until_ns; /* by the rate */
    uint64_t saved_ns;
    uint64_t extent_start, extent_end; /* of `at`, around or after `offset`; end 0: not known */
    uint64_t place;                    /* of its start on the disk where it is shared, else 0 */
    uint64_t fine_end;                 /* up to there piece by piece: a longer read failed */
    unsigned tries;                    /* that failed for another reason than the disk */
    unsigned told;                     /* lines in the log about this file */
    bool save_failed;
    struct scrub_seen seen; /* of what is shared, in this round */
};

int scrub_state_load(struct scrub *scrub, struct error *err);
int scrub_state_save(struct scrub *scrub, struct error *err);
void scrub_state_done(struct scrub *scrub);

/* Of `id` this was read. */
void scrub_state_readable(struct scrub *scrub, const char *id, uint64_t from, uint64_t to);
/* Of `id` this could not be read. Returns whether that was known. */
bool scrub_state_unreadable(struct scrub *scrub, const char *id, uint64_t from, uint64_t to, int errnum);
/* `id` was read to its end. Returns how much of it is unreadable. */
uint64_t scrub_state_whole(struct scrub *scrub, const char *id);
/* A range that was written since it could not be read; false: there is none. */
bool scrub_state_rewritten(struct scrub *scrub, char ret_id[ID_SNAPSHOT_MAX + 1], uint64_t *ret_from,
                           uint64_t *ret_to);
/* Whether changes of `id` are told: from before it is read for what cannot be read, as long as there is some.
 */
void scrub_state_watch(struct scrub *scrub, const char *id, bool always);

uint64_t scrub_file_size(struct store *store, const char *id); /* 0 when it is not there. [any] */

/* ---- for the rest of the store ---- */

struct scrub *scrub_free(struct scrub *scrub); /* NULL is fine; returns NULL */
/* Of a volume that is `suspect`: this was written, or discarded. [any] */
void scrub_note_change(struct volume *volume, uint64_t offset, uint64_t length);
void scrub_forget(struct store *store, const char *id); /* it is deleted. [any] */
