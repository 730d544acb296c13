/* The reconnect back-off. Pure; called by initiator.c. */
#include "datapath/device/backoff.h"

static uint64_t random_next(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *seed >> 33;
}

unsigned backoff_next_ms(struct backoff *backoff, unsigned portals)
{
    unsigned step_ms = BACKOFF_MIN_MS;
    if (++backoff->tried >= portals) {
        backoff->tried = 0;
        step_ms = backoff->steps < 6 ? BACKOFF_MIN_MS << backoff->steps++ : BACKOFF_MAX_MS;
    }
    if (step_ms > BACKOFF_MAX_MS)
        step_ms = BACKOFF_MAX_MS;
    return step_ms / 2 + (unsigned)(random_next(&backoff->seed) % (step_ms / 2 + 1));
}

void backoff_reset(struct backoff *backoff)
{
    backoff->steps = backoff->tried = 0;
}
