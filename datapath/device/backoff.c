/* The reconnect back-off. Pure; called by initiator.c. */
#include "datapath/device/backoff.h"

static uint64_t random_next(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *seed >> 33;
}

unsigned backoff_next_ms(struct backoff *backoff)
{
    unsigned step_ms = BACKOFF_MAX_MS;
    if (backoff->attempts < 6)
        step_ms = BACKOFF_MIN_MS << backoff->attempts++;
    if (step_ms > BACKOFF_MAX_MS)
        step_ms = BACKOFF_MAX_MS;
    return step_ms / 2 + (unsigned)(random_next(&backoff->seed) % (step_ms / 2 + 1));
}

void backoff_reset(struct backoff *backoff)
{
    backoff->attempts = 0;
}
