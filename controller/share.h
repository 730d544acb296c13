/*
 * Places for calls that wait for storage servers, so that what hangs keeps no thread from the rest. A pool is
 * as many calls as there are threads for them; a share is one server's part of it, for one kind of call. It
 * takes most of what the other shares leave, for a burst of calls that are answered, but no more than half
 * once its oldest has waited for a second. However many shares fill up with calls that nobody answers, they
 * never take the whole pool.
 *
 * Threads: any. Nothing here waits: a call that finds no place is refused.
 */
#pragma once

#include <pthread.h>
#include <stdint.h>

#include "common/error.h"

struct share_pool {
    unsigned places;
    pthread_mutex_t lock;
    unsigned taken; /* locked: of all shares */
};

/* One call's place: the caller's memory, from share_enter() to share_leave(). */
struct share_place {
    struct share *share;
    struct share_place *next, *previous;
    const char *method;
    uint64_t since_ms;
};

struct share {
    struct share_pool *pool;
    const char *who, *where;             /* for words: the server's id and address; borrowed */
    struct share_place *oldest, *newest; /* locked by the pool, like what follows */
    unsigned taken;
    uint64_t logged_ms; /* the last refusal that the log has */
};

void share_pool_init(struct share_pool *pool, unsigned places);
void share_pool_done(struct share_pool *pool);
void share_init(struct share *share, struct share_pool *pool, const char *who, const char *where);

/* Take a place, of `most` at most (0: as many as the pool gives). E_UNAVAILABLE, naming the server and what
 * has waited for it the longest, when there is none. method: outlives the place. */
int share_enter(struct share *share, unsigned most, const char *method, struct share_place *ret_place,
                struct error *err);
void share_leave(struct share_place *place);
