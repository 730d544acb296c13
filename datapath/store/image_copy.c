/*
 * Which ranges of a volume a copy of it shares already, and the changes that wait for that; and the hold.
 * Used by the copy's thread (copy.c), by every loop that submits changes, and by whoever holds. All of it is
 * under the image's lock, which nobody keeps across I/O.
 *
 * The cut (image_copy_begin) is the moment at which `gates` is raised. Each change reads `gates` once, when
 * it is submitted, before anything else becomes of it; where that is not 0, what it goes by is the list of
 * copies, under the lock under which a copy enters it. Reads and cuts are sequentially consistent, so every
 * change is on one side:
 *   - it read `gates` from before the cut: it was in flight at the cut, or was answered. What was answered
 *     is in the file, hence in whatever range is shared later. What was in flight goes on and may land
 *     before or after its ranges are shared: it is in the copy or not, range by range, as after a crash.
 *   - it read the cut: each of its ranges waits until the copy shares that range, so nothing of it is in
 *     the copy. Whoever submits after image_copy_begin() returned, on whatever thread, reads the cut.
 * No change is in the copy without what it depends on: let W2 be submitted after W1's answer, and be in the
 * copy. Then W2 read `gates` from before the cut; W1 was answered before that, and is in the file before any
 * range is shared; nothing that read the cut has overwritten it there, since that waits.
 * That sharing one range is atomic against direct I/O is the kernel's: FICLONERANGE takes the source's
 * exclusive lock and waits for the direct I/O in flight.
 *
 * The size is the cut's, too: a volume that has grown since its copy was got ready is not cut. Otherwise what
 * was written beyond the copy's end would be missing, and what depends on that need not be. A change beyond
 * that end has read the larger size before it read `gates`; so where it did not read the cut, the cut finds
 * the larger size.
 *
 * The hold is the same gate, closed for every range: what reads it waits until the release.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/time.h"
#include "datapath/store/copy.h"
#include "datapath/store/image_internal.h"

#define RANGE_BYTES (64 * KIB) /* what a writer waits for: 16 extents at worst */
#define RANGES_MAX (UINT64_C(1) << 28)
#define RUN_MAX 16384u /* ranges handed out at once */
#define WORD_BITS 64u

struct image_copy {
    struct image *image; /* NULL: nobody changes the source */
    uint64_t size_bytes;
    uint64_t range_bytes;
    uint64_t ranges_count;
    uint64_t cursor;               /* all before it are shared */
    _Atomic uint64_t shared_count; /* of ranges */
    uint64_t shared[];             /* a bit each */
};

/* ---- ranges ---- */

int image_copy_new(uint64_t size_bytes, struct image_copy **ret)
{
    struct image_copy *copy;
    uint64_t range_bytes = RANGE_BYTES, count;

    while (size_bytes / range_bytes >= RANGES_MAX)
        range_bytes *= 2;
    count = (size_bytes + range_bytes - 1) / range_bytes;
    copy = calloc(1, sizeof(*copy) + (count / WORD_BITS + 1) * sizeof(uint64_t));
    if (!copy)
        return -ENOMEM;
    copy->size_bytes = size_bytes;
    copy->range_bytes = range_bytes;
    copy->ranges_count = count;
    *ret = copy;
    return 0;
}

struct image_copy *image_copy_free(struct image_copy *copy)
{
    free(copy);
    return NULL;
}

static bool is_shared(const struct image_copy *copy, uint64_t range)
{
    return copy->shared[range / WORD_BITS] >> range % WORD_BITS & 1;
}

static void set_shared(struct image_copy *copy, uint64_t range)
{
    if (is_shared(copy, range))
        return;
    copy->shared[range / WORD_BITS] |= UINT64_C(1) << range % WORD_BITS;
    atomic_fetch_add(&copy->shared_count, 1);
}

unsigned image_copy_percent(const struct image_copy *copy)
{
    return (unsigned)(atomic_load(&copy->shared_count) * 100 / copy->ranges_count);
}

uint64_t image_copy_round(const struct image_copy *copy, uint64_t offset, uint64_t end)
{
    if (end >= copy->size_bytes)
        return copy->size_bytes;
    end = ROUND_DOWN(end, copy->range_bytes);
    return MIN(copy->size_bytes, MAX(end, offset + copy->range_bytes));
}

/* ---- who may go on ---- */

/* The first byte at or after offset, below end, that is not shared; end when there is none. */
static uint64_t first_unshared(const struct image_copy *copy, uint64_t offset, uint64_t end)
{
    end = MIN(end, copy->size_bytes);
    while (offset < end && is_shared(copy, offset / copy->range_bytes))
        offset = (offset / copy->range_bytes + 1) * copy->range_bytes;
    return MIN(offset, end);
}

/* io->progress counts, while it waits, the bytes that every copy has shared. */
static bool may_go_locked(const struct image *image, struct image_io *io)
{
    uint64_t end = io->offset + io->length, reached = end;

    if (image->held)
        return false;
    for (size_t i = 0; i < image->copies_count; i++) {
        const struct image_copy *copy = image->copies[i];
        uint64_t to = MIN(end, copy->size_bytes);
        uint64_t found = first_unshared(copy, MIN(io->offset + io->progress, to), to);

        if (found < to)
            reached = MIN(reached, found);
    }
    io->progress = reached - MIN(reached, io->offset);
    return reached == end;
}

static void gate_run(struct loop_message *message)
{
    struct image_io *io = container_of(message, struct image_io, message);

    io->progress = 0;
    image_change(io);
}

/* Those that may go are sent to their loops, in the order in which they came. */
static void let_go_locked(struct image *image)
{
    struct image_io *io = image->gated.first, *next;

    io_list_init(&image->gated);
    for (; io; io = next) {
        next = io->next;
        if (may_go_locked(image, io)) {
            io->message.run = gate_run;
            loop_post(io->loop, &io->message);
        } else {
            io_list_add(&image->gated, io);
        }
    }
}

bool image_gate(struct image_io *io)
{
    struct image *image = io->image;
    bool waits;

    if (atomic_load(&image->gates) == 0)
        return false;
    pthread_mutex_lock(&image->lock);
    waits = !may_go_locked(image, io);
    if (waits) {
        io_list_add(&image->gated, io);
        pthread_cond_broadcast(&image->wanted);
    }
    pthread_mutex_unlock(&image->lock);
    if (!waits)
        io->progress = 0;
    return waits;
}

void image_gate_init(struct image *image)
{
    pthread_condattr_t attributes;

    io_list_init(&image->gated);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&image->wanted, &attributes);
    pthread_condattr_destroy(&attributes);
}

void image_gate_done(struct image *image)
{
    pthread_cond_destroy(&image->wanted);
}

/* ---- a copy, from its cut to its end ---- */

int image_copy_begin(struct image *image, struct image_copy *copy, struct error *err)
{
    int r = E_OK;

    pthread_mutex_lock(&image->lock);
    atomic_fetch_add(&image->gates, 1);
    if (image->copies_count == STORE_COPIES_MAX)
        r = error_set(err, E_BUSY, "volume %s: %d copies of it are under way: retry later", image->volume->id,
                      STORE_COPIES_MAX);
    else if (volume_size_bytes(image->volume) > copy->size_bytes)
        r = error_set(err, E_BUSY, "volume %s has just grown: retry", image->volume->id);
    if (r == E_OK) {
        copy->image = image;
        image->copies[image->copies_count++] = copy;
    } else {
        atomic_fetch_sub(&image->gates, 1);
    }
    pthread_mutex_unlock(&image->lock);
    return r;
}

void image_copy_end(struct image_copy *copy)
{
    struct image *image = copy->image;

    if (!image)
        return;
    pthread_mutex_lock(&image->lock);
    for (size_t i = 0; i < image->copies_count; i++) {
        if (image->copies[i] == copy) {
            image->copies[i] = image->copies[--image->copies_count];
            break;
        }
    }
    atomic_fetch_sub(&image->gates, 1);
    let_go_locked(image);
    pthread_mutex_unlock(&image->lock);
    copy->image = NULL;
}

/* The end of the ranges from `range` on, below limit, that are not shared: none is ever shared twice, since
 * the source may have changed after the first time. */
static uint64_t run_end(const struct image_copy *copy, uint64_t range, uint64_t limit)
{
    limit = MIN(limit, MIN(copy->ranges_count, range + RUN_MAX));
    while (range < limit && !is_shared(copy, range))
        range++;
    return range;
}

/* What a change waits for: of the one that waits for the least, so that none waits for an UNMAP of all. */
static bool next_wanted_locked(const struct image_copy *copy, uint64_t *ret_range, uint64_t *ret_end)
{
    uint64_t least = UINT64_MAX;

    for (const struct image_io *io = copy->image->gated.first; io; io = io->next) {
        uint64_t end = MIN(io->offset + io->length, copy->size_bytes);
        uint64_t found = first_unshared(copy, MIN(io->offset + io->progress, end), end);

        if (found < end && end - found < least) {
            least = end - found;
            *ret_range = found / copy->range_bytes;
            *ret_end = (end + copy->range_bytes - 1) / copy->range_bytes;
        }
    }
    return least != UINT64_MAX;
}

static bool next_locked(struct image_copy *copy, uint64_t *ret_offset, uint64_t *ret_end, bool *ret_wanted)
{
    uint64_t range, limit;

    *ret_wanted = copy->image && next_wanted_locked(copy, &range, &limit);
    if (!*ret_wanted) {
        while (copy->cursor < copy->ranges_count && is_shared(copy, copy->cursor))
            copy->cursor++;
        range = copy->cursor;
        limit = copy->ranges_count;
    }
    *ret_offset = range * copy->range_bytes;
    *ret_end = MIN(run_end(copy, range, limit) * copy->range_bytes, copy->size_bytes);
    return range < copy->ranges_count;
}

bool image_copy_next(struct image_copy *copy, uint64_t *ret_offset, uint64_t *ret_end, bool *ret_wanted)
{
    struct image *image = copy->image;
    bool found;

    if (image)
        pthread_mutex_lock(&image->lock);
    found = next_locked(copy, ret_offset, ret_end, ret_wanted);
    if (image)
        pthread_mutex_unlock(&image->lock);
    return found;
}

void image_copy_shared(struct image_copy *copy, uint64_t offset, uint64_t end)
{
    struct image *image = copy->image;

    if (image)
        pthread_mutex_lock(&image->lock);
    for (uint64_t range = offset / copy->range_bytes; range * copy->range_bytes < end; range++)
        set_shared(copy, range);
    if (image) {
        let_go_locked(image);
        pthread_mutex_unlock(&image->lock);
    }
}

void image_copy_pause(struct image_copy *copy, uint64_t pause_ns)
{
    uint64_t until_ns = time_now_ns() + pause_ns, range, end;
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    struct image *image = copy->image;

    if (!image)
        return;
    pthread_mutex_lock(&image->lock);
    while (!next_wanted_locked(copy, &range, &end) &&
           pthread_cond_timedwait(&image->wanted, &image->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&image->lock);
}

/* ---- the hold ---- */

int image_hold(struct image *image, struct error *err)
{
    int r = E_OK;

    pthread_mutex_lock(&image->lock);
    if (image->held) {
        r = error_set(err, E_BUSY, "volume %s is held already: retry later", image->volume->id);
    } else {
        image->held = true;
        atomic_fetch_add(&image->gates, 1);
    }
    pthread_mutex_unlock(&image->lock);
    return r;
}

void image_release(struct image *image)
{
    pthread_mutex_lock(&image->lock);
    if (image->held) {
        image->held = false;
        atomic_fetch_sub(&image->gates, 1);
        let_go_locked(image);
    }
    pthread_mutex_unlock(&image->lock);
}
