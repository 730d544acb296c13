/*
 * How much a volume may do in a second, over all its sessions on all loops: IOPS and bandwidth, each with a
 * burst. The generic cell rate algorithm (ITU-T I.371, annex A, virtual scheduling): a limit is one atomic
 * time, the theoretical arrival of the next unit, which each command moves on by what it costs. So a command
 * learns by one compare-and-swap how long it waits; who waits, and on which timer, is throttle.h.
 *
 * A command may begin while the theoretical arrival is at most the burst ahead of the clock. It is charged
 * as a whole when it is taken: one that costs more than the burst is let through, and those behind it wait.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "datapath/store/record.h"

#define LIMITS_BURST_DEFAULT_NS UINT64_C(100000000) /* for a burst_s of 0 */

struct rate {
    atomic_uint_fast64_t per_s; /* units; 0: unlimited */
    atomic_uint_fast64_t burst_ns;
    atomic_uint_fast64_t arrival_ns; /* theoretical, of the next unit */
};

struct limits {
    atomic_bool limited; /* what an unlimited volume's commands pay for all this */
    struct rate operations, bytes;
    struct volume_limits set; /* as last set; who sets it */
};

/*
 * Begin to hold to these; equal ones change nothing. Nothing is saved up at this moment: a burst comes after
 * an idle time only. One thread at a time; limits_take() may run meanwhile, and then goes by the old ones,
 * the new ones, or partly either. True when they were others.
 */
bool limits_set(struct limits *limits, const struct volume_limits *to, uint64_t now_ns);

/* Charge one operation of so many bytes: when it may begin, now_ns or later. Any thread. */
uint64_t limits_take(struct limits *limits, uint64_t bytes, uint64_t now_ns);

/* Take such a charge back: the operation ended before it began. Any thread. */
void limits_give_back(struct limits *limits, uint64_t bytes);

/* What was let through beyond the limits, and is not paid off yet: kept over a time without sessions, so that
 * who logs in anew does not begin anew. */
struct limits_debt {
    struct volume_limits set; /* the limits that it is of */
    uint64_t operations_ns, bytes_ns;
};

bool limits_owe(const struct limits *limits, uint64_t now_ns, struct limits_debt *ret); /* false: nothing */
/* After limits_set(): pay it off first, where the limits are still those. */
void limits_resume(struct limits *limits, const struct limits_debt *debt);

static inline bool limits_on(const struct limits *limits)
{
    return atomic_load_explicit(&limits->limited, memory_order_relaxed);
}
