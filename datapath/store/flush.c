/*
 * A flush of the pool's disk that failed. The disk has one cache for all volumes, and the kernel tells of its
 * loss once, to one caller: the next flush, of whichever volume, finds nothing to write and answers 0. So
 * what one caller is told concerns every volume that has something in flight, or answered and not stable yet:
 * it is write-failed from then on, as the one whose flush it was. A volume that is all stable is left alone.
 *
 * Some are told a moment later than others. Between the failure in the disk and the loop's look at its
 * completion, a flush that the disk carried out afterwards may have been answered, and a write that was
 * stable of itself. Hence the clock: it ticks when something begins that flushes the disk, and each image
 * keeps its time when something of it became stable last. What became stable since the failed flush began
 * counts as lost, too. It was answered by then; but nobody goes on with it for longer than that moment.
 *
 * Metadata needs none of this. XFS gives itself up when a write of its log fails, with the flush that
 * precedes it, and after that every sync says so.
 *
 * Called on the loops, and by threads that block. No lock of its own.
 */
#include <stdlib.h>

#include "datapath/store/store_internal.h"

uint64_t store_flush_begin(struct store *store)
{
    return atomic_fetch_add(&store->flush_clock, 1) + 1;
}

uint64_t store_flush_now(const struct store *store)
{
    return atomic_load(&store->flush_clock);
}

void store_flush_failed(struct store *store, uint64_t begun, const char *whose, const struct image *own)
{
    pthread_rwlock_rdlock(&store->index_lock);
    for (size_t i = 0; i < store->volumes.count; i++) {
        const struct volume *volume = store->volumes.items[i];
        struct image *image = atomic_load(&volume->image);

        if (image && image != own)
            image_lose(image, begun, whose);
    }
    pthread_rwlock_unlock(&store->index_lock);
}

void store_flush_record(struct store *store, struct loop *loop)
{
    struct volume **found;
    size_t count = 0;

    pthread_rwlock_rdlock(&store->index_lock);
    found = calloc(store->volumes.count + 1, sizeof(struct volume *));
    for (size_t i = 0; found && i < store->volumes.count; i++) {
        struct volume *volume = store->volumes.items[i];
        struct image *image = atomic_load(&volume->image);

        if (image && image_is_unrecorded(image))
            found[count++] = volume_ref(volume);
    }
    pthread_rwlock_unlock(&store->index_lock);
    for (size_t i = 0; i < count; i++) {
        image_record_lost(atomic_load(&found[i]->image), loop);
        volume_unref(found[i]);
    }
    free(found);
}

/* ---- for the backend ---- */

static uint64_t watch_begin(void *context)
{
    return store_flush_begin(context);
}

static void watch_failed(void *context, uint64_t begun, const char *whose)
{
    store_flush_failed(context, begun, whose, NULL);
}

void store_flush_watch(struct store *store)
{
    store->flush_watch = (struct backend_watch){watch_begin, watch_failed, store};
    store->ops->watch(store->backend, &store->flush_watch);
}
