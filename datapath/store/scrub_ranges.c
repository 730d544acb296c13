/*
 * Ranges in order: of a file, that cannot be read; of the disk, that were read in this round. Bounded: what
 * there is no room for makes the first larger than they need be, and the second smaller. No state; the
 * caller's lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/size.h"
#include "datapath/store/scrub_internal.h"

/* ---- unreadable ranges ---- */

void scrub_ranges_done(struct scrub_ranges *ranges)
{
    free(ranges->items);
    *ranges = (struct scrub_ranges){0};
}

static void ranges_remove(struct scrub_ranges *ranges, size_t position, size_t count)
{
    memmove(&ranges->items[position], &ranges->items[position + count],
            (ranges->count - position - count) * sizeof(*ranges->items));
    ranges->count -= count;
}

static int ranges_insert(struct scrub_ranges *ranges, size_t position, const struct scrub_range *range)
{
    if (ranges->count == ranges->room) {
        size_t room = ranges->room > 0 ? ranges->room * 2 : 4;
        struct scrub_range *items = realloc(ranges->items, room * sizeof(*items));

        if (!items)
            return -ENOMEM;
        ranges->items = items;
        ranges->room = room;
    }
    memmove(&ranges->items[position + 1], &ranges->items[position],
            (ranges->count - position) * sizeof(*ranges->items));
    ranges->items[position] = *range;
    ranges->count++;
    return 0;
}

/* Have a range begin at `at` where one goes over it. False when there is no room. */
static bool ranges_split(struct scrub_ranges *ranges, uint64_t at)
{
    for (size_t i = 0; i < ranges->count; i++) {
        struct scrub_range rest = ranges->items[i];

        if (at <= rest.offset || at >= rest.end)
            continue;
        rest.offset = at;
        if (ranges->count >= SCRUB_RANGES_MAX || ranges_insert(ranges, i + 1, &rest) < 0)
            return false;
        ranges->items[i].end = at;
        return true;
    }
    return true;
}

void scrub_ranges_clear(struct scrub_ranges *ranges, uint64_t from, uint64_t to)
{
    if (from >= to)
        return;
    for (size_t i = 0; i < ranges->count;) {
        struct scrub_range *range = &ranges->items[i];

        if (range->end <= from || range->offset >= to) {
            i++;
        } else if (range->offset < from && range->end > to) {
            if (ranges_split(ranges, to))
                ranges->items[i].end = from;
            return;
        } else if (range->offset < from) {
            range->end = from;
        } else if (range->end > to) {
            range->offset = to;
        } else {
            ranges_remove(ranges, i, 1);
        }
    }
}

/* One range of both, and of what lies between. */
static void range_join(struct scrub_range *to, const struct scrub_range *with)
{
    to->offset = MIN(to->offset, with->offset);
    to->end = MAX(to->end, with->end);
    to->since_unix_s = MIN(to->since_unix_s, with->since_unix_s);
}

/* Which two neighbours lie closest: the first of them. */
static size_t ranges_closest(const struct scrub_ranges *ranges)
{
    uint64_t least = UINT64_MAX;
    size_t closest = 0;

    for (size_t i = 0; i + 1 < ranges->count; i++) {
        uint64_t gap = ranges->items[i + 1].offset - ranges->items[i].end;

        if (gap < least) {
            least = gap;
            closest = i;
        }
    }
    return closest;
}

static void ranges_join_at(struct scrub_ranges *ranges, size_t position)
{
    struct scrub_range *first = &ranges->items[position];

    range_join(first, first + 1);
    first->rewritten = false;
    ranges_remove(ranges, position + 1, 1);
}

int scrub_ranges_add(struct scrub_ranges *ranges, const struct scrub_range *range, size_t max)
{
    struct scrub_range added = *range, *before;
    size_t position = 0;
    int r;

    for (size_t i = 0; i < ranges->count; i++) {
        if (ranges->items[i].offset < range->end && ranges->items[i].end > range->offset)
            added.since_unix_s = MIN(added.since_unix_s, ranges->items[i].since_unix_s);
    }
    scrub_ranges_clear(ranges, range->offset, range->end);
    while (position < ranges->count && ranges->items[position].offset < range->offset)
        position++;
    before = position > 0 ? &ranges->items[position - 1] : NULL;
    if (before && before->end > range->offset)
        return 0; /* it could not be split: this is in it */
    if (before && before->end == range->offset && before->errnum == range->errnum && !before->rewritten) {
        range_join(before, &added);
        return 0;
    }
    r = ranges_insert(ranges, position, &added);
    while (ranges->count > max)
        ranges_join_at(ranges, ranges_closest(ranges));
    return r;
}

bool scrub_ranges_rewrite(struct scrub_ranges *ranges, uint64_t from, uint64_t to)
{
    bool found = false;

    if (!ranges_split(ranges, from) || !ranges_split(ranges, to))
        return false; /* the next round reads it */
    for (size_t i = 0; i < ranges->count; i++) {
        if (ranges->items[i].offset >= from && ranges->items[i].end <= to)
            found = ranges->items[i].rewritten = true;
    }
    return found;
}

uint64_t scrub_ranges_bytes(const struct scrub_ranges *ranges)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < ranges->count; i++)
        bytes += ranges->items[i].end - ranges->items[i].offset;
    return bytes;
}

/* ---- places on the disk ---- */

#define SEEN_MAX 65536u /* 1 MiB */

void scrub_seen_done(struct scrub_seen *seen)
{
    free(seen->items);
    *seen = (struct scrub_seen){0};
}

/* The first that ends after `at`. */
static size_t seen_position(const struct scrub_seen *seen, uint64_t at)
{
    size_t low = 0, high = seen->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (seen->items[middle].end > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static bool seen_make_room(struct scrub_seen *seen)
{
    size_t room = seen->room > 0 ? seen->room * 2 : 64;
    struct scrub_place *items;

    if (seen->count < seen->room)
        return true;
    items = room <= SEEN_MAX ? realloc(seen->items, room * sizeof(*items)) : NULL;
    if (!items)
        return false;
    seen->items = items;
    seen->room = room;
    return true;
}

void scrub_seen_add(struct scrub_seen *seen, uint64_t start, uint64_t end)
{
    size_t first = seen_position(seen, start), after;

    if (first > 0 && seen->items[first - 1].end == start)
        first--;
    for (after = first; after < seen->count && seen->items[after].start <= end; after++) {
        start = MIN(start, seen->items[after].start);
        end = MAX(end, seen->items[after].end);
    }
    if (after == first) {
        if (!seen_make_room(seen))
            return;
        memmove(&seen->items[first + 1], &seen->items[first], (seen->count - first) * sizeof(*seen->items));
        seen->count++;
    } else {
        memmove(&seen->items[first + 1], &seen->items[after], (seen->count - after) * sizeof(*seen->items));
        seen->count -= after - first - 1;
    }
    seen->items[first] = (struct scrub_place){start, end};
}

uint64_t scrub_seen_from(const struct scrub_seen *seen, uint64_t start, uint64_t end)
{
    size_t position = seen_position(seen, start);

    if (position == seen->count || seen->items[position].start > start)
        return 0;
    return MIN(seen->items[position].end, end) - start;
}
