/* The pools' counts and the shares' lines of waiting calls, under the pool's mutex. Called by
 * storage_client.c. */
#include "controller/share.h"

#include <assert.h>
#include <inttypes.h>
#include <stdbool.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/time.h"

#define STUCK_MS 1000       /* of the oldest: no burst, then */
#define LOG_PERIOD_MS 10000 /* of a share's refusals: one that is full may refuse many */

void share_pool_init(struct share_pool *pool, unsigned places)
{
    *pool = (struct share_pool){.places = places};
    pthread_mutex_init(&pool->lock, NULL);
}

void share_pool_done(struct share_pool *pool)
{
    assert(pool->taken == 0);
    pthread_mutex_destroy(&pool->lock);
}

void share_init(struct share *share, struct share_pool *pool, const char *who, const char *where)
{
    *share = (struct share){.pool = pool, .who = who, .where = where};
}

/* Less than what the others leave, always: no set of shares takes the whole pool. */
static unsigned share_limit_locked(const struct share *share, unsigned most, uint64_t now_ms)
{
    unsigned others = share->pool->taken - share->taken;
    unsigned left = others < share->pool->places ? share->pool->places - others : 0;
    bool stuck = share->oldest && share->oldest->since_ms + STUCK_MS <= now_ms;
    unsigned limit = stuck ? left / 2 : left * 7 / 8;

    return most != 0 && most < limit ? most : limit;
}

static void share_append_locked(struct share *share, struct share_place *place)
{
    place->previous = share->newest;
    if (share->newest)
        share->newest->next = place;
    else
        share->oldest = place;
    share->newest = place;
    share->taken++;
    share->pool->taken++;
}

static int share_refuse_locked(const struct share *share, struct error *err)
{
    const struct share_place *oldest = share->oldest;

    if (!oldest)
        return error_set(err, E_UNAVAILABLE,
                         "calls to other storage servers than %s at %s wait in all places; retry", share->who,
                         share->where);
    return error_set(err, E_UNAVAILABLE,
                     "storage server %s at %s has %u calls waiting for it already, the longest of them, %s, "
                     "for %" PRIu64 " s; retry",
                     share->who, share->where, share->taken, oldest->method,
                     (time_now_ms() - oldest->since_ms) / 1000);
}

int share_enter(struct share *share, unsigned most, const char *method, struct share_place *ret_place,
                struct error *err)
{
    _cleanup_error_ struct error why = {0};
    bool log = false;
    int r = E_OK;

    *ret_place = (struct share_place){.share = share, .method = method, .since_ms = time_now_ms()};
    pthread_mutex_lock(&share->pool->lock);
    if (share->taken < share_limit_locked(share, most, ret_place->since_ms))
        share_append_locked(share, ret_place);
    else
        r = share_refuse_locked(share, &why);
    if (r != E_OK && (share->logged_ms == 0 || time_now_ms() - share->logged_ms > LOG_PERIOD_MS)) {
        share->logged_ms = time_now_ms();
        log = true;
    }
    pthread_mutex_unlock(&share->pool->lock);
    if (log)
        log_warning("calls are refused: %s", error_text(&why));
    if (r != E_OK)
        error_move(err, &why);
    return r;
}

void share_leave(struct share_place *place)
{
    struct share *share = place->share;

    pthread_mutex_lock(&share->pool->lock);
    if (place->previous)
        place->previous->next = place->next;
    else
        share->oldest = place->next;
    if (place->next)
        place->next->previous = place->previous;
    else
        share->newest = place->previous;
    share->taken--;
    share->pool->taken--;
    pthread_mutex_unlock(&share->pool->lock);
}
