/* How long to wait before the next attempt to reach the storage server: 20 ms, doubling to 1 s, with jitter,
 * so that the nodes of a server that comes back do not all knock at once. Pure. */
#pragma once

#include <stdint.h>

#define BACKOFF_MIN_MS 20u
#define BACKOFF_MAX_MS 1000u

struct backoff {
    unsigned attempts;
    uint64_t seed;
};

/* Between half the step and the whole step. */
unsigned backoff_next_ms(struct backoff *backoff);
void backoff_reset(struct backoff *backoff);
