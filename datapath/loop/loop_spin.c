/*
 * Spinning before sleeping: a wake-up from sleep costs tens of microseconds, so where the next event comes
 * sooner than that, looking for it is cheaper for everybody. Bounded by spin_us a batch, and learnt: credit
 * grows with each gap that a spin would have covered and shrinks twice as fast with each that it would not
 * have, so that a loop whose events are rare sleeps at once and an idle one uses no CPU.
 *
 * Runs on the loop's thread; called by loop_run().
 */
#include "datapath/loop/loop_internal.h"

#include "common/time.h"

#define CREDIT_MAX 16
#define CREDIT_NEEDED 4
#define CHECKS_PER_CLOCK 32

static inline void spin_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* With DEFER_TASKRUN, completions reach the ring only by a system call; the kernel sets a flag when one is
 * due. */
static bool spin_ready(struct loop *loop)
{
    unsigned flags = __atomic_load_n(loop->ring.sq.kflags, __ATOMIC_ACQUIRE);

    return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) || io_uring_cq_ready(&loop->ring) ||
           !loop_quiet(loop);
}

bool loop_spin_pays(const struct loop *loop)
{
    return loop->spin.credit >= CREDIT_NEEDED;
}

bool loop_spin(struct loop *loop)
{
    uint64_t end = time_now_ns() + loop->spin.budget_ns;

    do {
        for (unsigned i = 0; i < CHECKS_PER_CLOCK; i++) {
            if (spin_ready(loop))
                return true;
            spin_relax();
        }
    } while (time_now_ns() < end);
    return false;
}

void loop_spin_learn(struct loop *loop, uint64_t gap_ns, bool spun, bool found)
{
    struct loop_spinning *spin = &loop->spin;

    /* A gap that was slept through includes the wake-up itself: allow for it. */
    if (spun ? found : gap_ns <= 2 * spin->budget_ns)
        spin->credit = spin->credit < CREDIT_MAX ? spin->credit + 1 : CREDIT_MAX;
    else
        spin->credit = spin->credit > 2 ? spin->credit - 2 : 0;
}
