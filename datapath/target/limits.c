/* The arithmetic of a volume's limits; see limits.h. Set on the volume's owner loop, taken from on every
 * loop. */
#include "datapath/target/limits.h"

#include "common/size.h"

#define NS_PER_S UINT64_C(1000000000)

static void rate_set(struct rate *rate, uint64_t per_s, uint64_t burst_ns, uint64_t now_ns)
{
    atomic_store_explicit(&rate->burst_ns, burst_ns, memory_order_relaxed);
    atomic_store_explicit(&rate->per_s, per_s, memory_order_relaxed);
    atomic_store_explicit(&rate->arrival_ns, now_ns + burst_ns, memory_order_relaxed);
}

/* Rounded up: never above the limit. A command has far less than the 2^34 bytes that would overflow. */
static uint64_t rate_cost_ns(uint64_t per_s, uint64_t units)
{
    uint64_t ns = units * NS_PER_S;
    return ns / per_s + (ns % per_s != 0);
}

static uint64_t rate_take(struct rate *rate, uint64_t units, uint64_t now_ns)
{
    uint64_t per_s = atomic_load_explicit(&rate->per_s, memory_order_relaxed);
    if (!per_s || !units)
        return now_ns;
    uint64_t burst_ns = atomic_load_explicit(&rate->burst_ns, memory_order_relaxed);
    uint64_t cost_ns = rate_cost_ns(per_s, units);
    uint64_t arrival_ns = atomic_load_explicit(&rate->arrival_ns, memory_order_relaxed);
    uint64_t from_ns;
    do
        from_ns = MAX(arrival_ns, now_ns);
    while (!atomic_compare_exchange_weak_explicit(&rate->arrival_ns, &arrival_ns, from_ns + cost_ns,
                                                  memory_order_relaxed, memory_order_relaxed));
    return from_ns > now_ns + burst_ns ? from_ns - burst_ns : now_ns;
}

static void rate_give_back(struct rate *rate, uint64_t units)
{
    uint64_t per_s = atomic_load_explicit(&rate->per_s, memory_order_relaxed);
    if (!per_s)
        return;
    uint64_t cost_ns = rate_cost_ns(per_s, units);
    uint64_t arrival_ns = atomic_load_explicit(&rate->arrival_ns, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&rate->arrival_ns, &arrival_ns,
                                                  arrival_ns > cost_ns ? arrival_ns - cost_ns : 0,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

static bool limits_equal(const struct volume_limits *a, const struct volume_limits *b)
{
    return a->iops == b->iops && a->bytes_per_s == b->bytes_per_s && a->burst_s == b->burst_s;
}

bool limits_set(struct limits *limits, const struct volume_limits *to, uint64_t now_ns)
{
    if (limits_equal(&limits->set, to))
        return false;
    uint64_t burst_ns = to->burst_s ? to->burst_s * NS_PER_S : LIMITS_BURST_DEFAULT_NS;
    rate_set(&limits->operations, to->iops, burst_ns, now_ns);
    rate_set(&limits->bytes, to->bytes_per_s, burst_ns, now_ns);
    limits->set = *to;
    atomic_store_explicit(&limits->limited, to->iops || to->bytes_per_s, memory_order_relaxed);
    return true;
}

void limits_give_back(struct limits *limits, uint64_t bytes)
{
    rate_give_back(&limits->operations, 1);
    rate_give_back(&limits->bytes, bytes);
}

uint64_t limits_take(struct limits *limits, uint64_t bytes, uint64_t now_ns)
{
    uint64_t operation_ns = rate_take(&limits->operations, 1, now_ns);
    uint64_t bytes_ns = rate_take(&limits->bytes, bytes, now_ns);
    return MAX(operation_ns, bytes_ns);
}

static uint64_t rate_owes_until_ns(const struct rate *rate, uint64_t now_ns)
{
    uint64_t arrival_ns = atomic_load_explicit(&rate->arrival_ns, memory_order_relaxed);
    uint64_t burst_ns = atomic_load_explicit(&rate->burst_ns, memory_order_relaxed);
    return atomic_load_explicit(&rate->per_s, memory_order_relaxed) && arrival_ns > now_ns + burst_ns
               ? arrival_ns
               : 0;
}

bool limits_owe(const struct limits *limits, uint64_t now_ns, struct limits_debt *ret)
{
    *ret = (struct limits_debt){.set = limits->set,
                                .operations_ns = rate_owes_until_ns(&limits->operations, now_ns),
                                .bytes_ns = rate_owes_until_ns(&limits->bytes, now_ns)};
    return ret->operations_ns || ret->bytes_ns;
}

static void rate_resume(struct rate *rate, uint64_t owes_until_ns)
{
    uint64_t arrival_ns = atomic_load_explicit(&rate->arrival_ns, memory_order_relaxed);
    atomic_store_explicit(&rate->arrival_ns, MAX(arrival_ns, owes_until_ns), memory_order_relaxed);
}

void limits_resume(struct limits *limits, const struct limits_debt *debt)
{
    if (!limits_equal(&limits->set, &debt->set))
        return;
    rate_resume(&limits->operations, debt->operations_ns);
    rate_resume(&limits->bytes, debt->bytes_ns);
}
