/*
 * Spinning before sleeping: a wake-up from sleep may cost tens of microseconds, so where the next event comes
 * sooner than that, looking for it is cheaper. Bounded by spin_us a batch, and learnt, in two ways:
 *   - credit grows with each gap that a spin covers and shrinks twice as fast with each that it does not, so
 *     that a loop whose events are rare sleeps at once and an idle one uses no CPU;
 *   - of the gaps that were spun and those that were slept through, averages are kept and the shorter wins:
 *     where the peer needs this CPU, spinning makes it later. The other one is tried now and then.
 *
 * Runs on the loop's thread; called by loop_run().
 */
#include "datapath/loop/loop_internal.h"

#include "common/size.h"
#include "common/time.h"

#define CREDIT_MAX 16
#define CREDIT_NEEDED 4
#define CHECKS_PER_CLOCK 32
#define TRY_OTHER_EACH 64 /* gaps */
#define AVERAGE_OVER 8    /* gaps */
#define GAP_MAX 16u       /* budgets: a longer gap counts as this long */

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

bool loop_spin_pays(struct loop *loop)
{
    struct loop_spinning *spin = &loop->spin;
    bool pays = spin->spun_ns <= spin->slept_ns;

    if (spin->credit < CREDIT_NEEDED)
        return false;
    return ++spin->gaps % TRY_OTHER_EACH == 0 ? !pays : pays;
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

static void spin_average(uint64_t *average_ns, uint64_t gap_ns)
{
    *average_ns = *average_ns ? (*average_ns * (AVERAGE_OVER - 1) + gap_ns) / AVERAGE_OVER : gap_ns;
}

void loop_spin_learn(struct loop *loop, uint64_t gap_ns, bool spun, bool found)
{
    struct loop_spinning *spin = &loop->spin;

    spin_average(spun ? &spin->spun_ns : &spin->slept_ns, MIN(gap_ns, GAP_MAX * spin->budget_ns));
    /* A gap that was slept through includes the wake-up itself: allow for it. */
    if (spun ? found : gap_ns <= 2 * spin->budget_ns)
        spin->credit = MIN(spin->credit + 1, CREDIT_MAX);
    else
        spin->credit = MAX(spin->credit - 2, 0);
}
