/* How long to wait before the next attempt to reach the storage server: 20 ms, doubling to 1 s, with jitter,
 * so that the nodes of a server that comes back do not all knock at once. Of several portals each is tried
 * once at every step: those that are dead must not keep us from the one that is back. Pure. */
#pragma once

#include <stdint.h>

#define BACKOFF_MIN_MS 20u
#define BACKOFF_MAX_MS 1000u

struct backoff {
    unsigned steps, tried; /* portals, at this step */
    uint64_t seed;
};

/* After an attempt on one of so many portals: between half the step and the whole step when that was the last
 * of them, else of the first step. */
unsigned backoff_next_ms(struct backoff *backoff, unsigned portals);
void backoff_reset(struct backoff *backoff);
