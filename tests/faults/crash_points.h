/*
 * What the crash points of the store are made of: the table of its operations (crash_operations.c), and a
 * pool in words (crash_state.c). Single-threaded but for what the store itself starts.
 */
#pragma once

#include <stdbool.h>

#include "datapath/store/store.h"

struct crash_pool {
    int fd; /* its directory */
    struct store_options options;
};

/*
 * One operation: add one by a line in the table. prepare() makes what it begins with, in a pool that is
 * empty otherwise. run() is the operation, and may be repeated after it: the result is the same then. Both
 * are 0, or give words. between[] make further states that it may be left in, and from which a repeat leads
 * to the same; each begins with prepare().
 */
#define CRASH_BETWEEN_MAX 3u

struct crash_operation {
    const char *name;
    int (*prepare)(struct store *store, struct error *err);
    int (*run)(struct store *store, struct error *err);
    int (*between[CRASH_BETWEEN_MAX])(struct store *store, struct error *err); /* NULL: no more */
    int (*litter)(const struct crash_pool *pool); /* or NULL: half-made things, once the store is closed */
    bool opening;                                 /* what is cut off is the opening of the store, not run() */
};

#define CRASH_INNER_POOL "made" /* a pool in the pool's directory, for what needs no store */

extern const char *crash_pool_path; /* for prepare(), which knows the store only */
extern const struct crash_operation crash_operations[], crash_operations_more[];
extern const size_t crash_operations_count, crash_operations_more_count;

/* Of the first table; it is there. */
const struct crash_operation *crash_operation_find(const char *name);

/* Remove all volumes, snapshots, nodes and names. No store is open. */
void crash_pool_empty(const struct crash_pool *pool);

/*
 * All that the store and the folder below it have, sorted, in words that two runs of the same give alike: no
 * times, no secrets, no random names. The caller frees; NULL when memory ran out.
 */
char *crash_pool_words(const struct crash_pool *pool, struct store *store);
