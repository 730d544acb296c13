/*
 * What of an image is not stable yet, and which writes are made stable by themselves.
 *
 * Who commits writes a log and flushes it, one after the other: two trips to the disk, the second by a worker
 * thread of the kernel, since io_uring has no other way for a sync. Where the last flushes each followed one
 * write alone, the next write that is alone is therefore stable when it is answered (RWF_DSYNC: FUA, where
 * the disk has it), and the flush after it finds nothing to do.
 *
 * Runs on the loops, any number at once. `loose` counts the changes that ended and were not stable of
 * themselves: before they are answered, so that a flush that is submitted after the answer sees them.
 * `synced` is what `loose` was when the last good sync began. What happened before this process is not known,
 * so that the first flush is one.
 */
#include "datapath/store/image_internal.h"

#define LONE_MIN 2u    /* flushes in a row after one write each: the third write is taken for another */
#define LOOSE_FIRST 1u /* of a process before this one */

void image_stable_init(struct image *image)
{
    atomic_init(&image->stable.loose, LOOSE_FIRST);
}

/* Before it can be seen that there is nothing in flight or loose any more. */
static void settle(struct image *image)
{
    uint64_t now = store_flush_now(image->volume->store), before = atomic_load(&image->stable.settled);

    while (before < now && !atomic_compare_exchange_weak(&image->stable.settled, &before, now))
        ;
}

/* A failing sync tells its error once. One that a write of ours brings with it must not take an error that is
 * due to somebody else's flush: hence nothing else may be under way, or wait for a sync. */
static bool is_alone(const struct image_stable *stable, uint64_t ticket)
{
    return atomic_load(&stable->ended) == ticket &&
           atomic_load(&stable->loose) == atomic_load(&stable->synced);
}

void image_stable_begin(struct image_io *io)
{
    struct image_stable *stable = &io->image->stable;
    uint64_t before = atomic_fetch_add(&stable->begun, 1);
    bool is_first;

    io->ticket = before + 1;
    io->stable = io->fua;
    if (!io->fua) {
        is_first = atomic_fetch_add(&stable->plain, 1) == atomic_load(&stable->plain_at_flush);
        io->stable = io->verb == IMAGE_WRITE && is_first && atomic_load(&stable->lone) >= LONE_MIN &&
                     is_alone(stable, before);
    }
    if (io->stable)
        io->flush_begun = store_flush_begin(io->image->volume->store);
}

void image_stable_end(struct image_io *io, bool is_stable)
{
    struct image_stable *stable = &io->image->stable;

    if (is_stable)
        settle(io->image);
    else
        atomic_fetch_add(&stable->loose, 1);
    atomic_fetch_add(&stable->ended, 1);
}

bool image_stable_disturbed(const struct image_io *io)
{
    return atomic_load(&io->image->stable.begun) != io->ticket;
}

void image_stable_flush_locked(struct image *image)
{
    struct image_stable *stable = &image->stable;
    uint64_t plain = atomic_load(&stable->plain);
    uint64_t count = plain - atomic_exchange(&stable->plain_at_flush, plain);

    if (count == 1)
        atomic_fetch_add(&stable->lone, 1);
    else if (count > 1)
        atomic_store(&stable->lone, 0);
}

bool image_stable_is_all(const struct image *image)
{
    return atomic_load(&image->stable.loose) == atomic_load(&image->stable.synced);
}

void image_stable_sync_begin(struct image *image)
{
    image->stable.syncing = atomic_load(&image->stable.loose);
    image->stable.sync_begun = store_flush_begin(image->volume->store);
}

void image_stable_sync_end(struct image *image)
{
    struct image_stable *stable = &image->stable;

    if (stable->syncing > LOOSE_FIRST && stable->syncing != atomic_load(&stable->synced))
        settle(image);
    atomic_store(&stable->synced, stable->syncing);
}

bool image_stable_may_lose(const struct image *image, uint64_t begun)
{
    const struct image_stable *stable = &image->stable;
    uint64_t ended = atomic_load(&stable->ended), loose;

    if (ended != atomic_load(&stable->begun))
        return true;
    loose = atomic_load(&stable->loose);
    if (loose > LOOSE_FIRST && loose != atomic_load(&stable->synced))
        return true;
    return atomic_load(&stable->settled) >= begun;
}
