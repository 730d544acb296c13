/*
 * The extents of data files (FS_IOC_FIEMAP; Linux, Documentation/filesystems/fiemap.rst): what is written,
 * what is shared, and where two files differ. No state; blocks; any thread.
 *
 * Two snapshots of one volume keep each block that they have: it is freed or written again only when nothing
 * shares it. So where both have the same block at the same offset, they have the same bytes there.
 */
#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/store/pool/pool_internal.h"

#define BATCH 512u
#define SCRUB_BATCH 16u /* one written one is wanted */
/* Flags of an extent whose place on the disk says nothing about its bytes. */
#define NO_PLACE                                                                                             \
    (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_NOT_ALIGNED |    \
     FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL)

/* ---- walking the written extents of a file ---- */

struct walk {
    int fd;
    uint64_t next, limit; /* not asked for yet */
    unsigned index;
    bool unwritten; /* those, too */
    struct fiemap *map;
};

struct piece { /* [start, end); end 0: there is none any more */
    uint64_t start, end;
    uint64_t place; /* of start, on the disk */
    uint32_t flags;
};

static int walk_init(struct walk *walk, int fd, uint64_t from, uint64_t limit, unsigned batch)
{
    *walk = (struct walk){.fd = fd, .next = from, .limit = limit};
    walk->map = calloc(1, sizeof(struct fiemap) + batch * sizeof(struct fiemap_extent));
    if (!walk->map)
        return -ENOMEM;
    walk->map->fm_extent_count = batch;
    return 0;
}

static void walk_done(struct walk *walk)
{
    free(walk->map);
}

/* Ask for the next ones; none is left when fm_mapped_extents is 0. */
static int walk_fill(struct walk *walk)
{
    struct fiemap *map = walk->map;
    const struct fiemap_extent *last;

    walk->index = 0;
    map->fm_mapped_extents = 0;
    if (walk->next >= walk->limit)
        return 0;
    map->fm_start = walk->next;
    map->fm_length = walk->limit - walk->next;
    map->fm_flags = FIEMAP_FLAG_SYNC; /* what is in the page cache only looks unwritten */
    if (ioctl(walk->fd, FS_IOC_FIEMAP, map) < 0)
        return -errno;
    if (map->fm_mapped_extents < map->fm_extent_count) {
        walk->next = walk->limit;
        return 0;
    }
    last = &map->fm_extents[map->fm_mapped_extents - 1];
    walk->next = last->fe_logical + last->fe_length;
    return 0;
}

/* Space that was allocated but never written reads as zeroes, and is passed over unless it is asked for. */
static int walk_next(struct walk *walk, struct piece *ret)
{
    for (;;) {
        const struct fiemap_extent *extent;

        if (walk->index == walk->map->fm_mapped_extents) {
            int r = walk_fill(walk);

            if (r < 0)
                return r;
            if (walk->map->fm_mapped_extents == 0) {
                *ret = (struct piece){0};
                return 0;
            }
        }
        extent = &walk->map->fm_extents[walk->index++];
        if ((extent->fe_flags & FIEMAP_EXTENT_UNWRITTEN && !walk->unwritten) ||
            extent->fe_logical >= walk->limit)
            continue;
        *ret = (struct piece){.start = extent->fe_logical,
                              .end = MIN(extent->fe_logical + extent->fe_length, walk->limit),
                              .place = extent->fe_physical,
                              .flags = extent->fe_flags};
        return 0;
    }
}

int pool_extents_end(int fd, uint64_t offset, uint64_t limit, unsigned count, uint64_t *ret_end,
                     unsigned *ret_found)
{
    struct piece piece = {0};
    unsigned found = 0;
    struct walk walk;
    int r = walk_init(&walk, fd, offset, limit, MIN(count, BATCH));

    if (r < 0)
        return r;
    while (found < count && (r = walk_next(&walk, &piece)) == 0 && piece.end != 0) {
        found++;
        *ret_end = piece.end;
    }
    walk_done(&walk);
    *ret_found = found;
    return r;
}

int pool_scrub_next(struct backend_image *image, uint64_t offset, uint64_t *ret_start, uint64_t *ret_end,
                    uint64_t *ret_place)
{
    struct piece piece = {0};
    struct walk walk;
    int r = walk_init(&walk, image->fd, offset, INT64_MAX, SCRUB_BATCH);

    if (r == 0)
        r = walk_next(&walk, &piece);
    walk_done(&walk);
    if (r < 0)
        return r;
    *ret_start = MAX(piece.start, offset);
    *ret_end = piece.end;
    *ret_place = piece.flags & FIEMAP_EXTENT_SHARED && !(piece.flags & NO_PLACE)
                     ? piece.place + (*ret_start - piece.start)
                     : 0;
    return 0;
}

/* All but what is shared: blocks that hold the list of its extents are in no extent. */
int pool_image_exclusive(struct backend_image *image, uint64_t *ret_bytes, struct error *err)
{
    struct piece piece = {0};
    uint64_t shared = 0, used;
    struct walk walk;
    int r = walk_init(&walk, image->fd, 0, INT64_MAX, BATCH);

    walk.unwritten = true;
    while (r == 0 && (r = walk_next(&walk, &piece)) == 0 && piece.end != 0)
        shared += piece.flags & FIEMAP_EXTENT_SHARED ? piece.end - piece.start : 0;
    walk_done(&walk);
    if (r < 0)
        return error_errno(err, -r, "cannot look at the extents of %s", image->id);
    r = pool_image_used(image, &used, err);
    if (r == E_OK)
        *ret_bytes = used > shared ? used - shared : 0;
    return r;
}

/* ---- where two files differ ---- */

struct comparison {
    struct walk walk, base_walk;
    struct piece piece, base; /* at or after `at` */
    uint64_t at, limit;
    uint64_t start, end; /* differs, and is not handed on yet; none when start == end */
    extent_visit visit;
    void *context;
};

static int hand_on(struct comparison *comparison)
{
    int r = 0;

    if (comparison->start < comparison->end)
        r = comparison->visit(comparison->start, comparison->end - comparison->start, comparison->context);
    comparison->start = comparison->end = 0;
    return r;
}

/* Neighbours become one. */
static int add(struct comparison *comparison, uint64_t start, uint64_t end)
{
    int r;

    if (comparison->start < comparison->end && comparison->end == start) {
        comparison->end = end;
        return 0;
    }
    r = hand_on(comparison);
    comparison->start = start;
    comparison->end = end;
    return r;
}

static bool covers(const struct piece *piece, uint64_t at)
{
    return piece->start <= at && at < piece->end;
}

static bool same_at(const struct piece *piece, const struct piece *base, uint64_t at)
{
    if (!covers(piece, at) || !covers(base, at))
        return !covers(piece, at) && !covers(base, at);
    return !(piece->flags & NO_PLACE) && !(base->flags & NO_PLACE) &&
           piece->place + (at - piece->start) == base->place + (at - base->start);
}

/* Where the piece, as seen from at, begins or ends next; limit when it does neither. */
static uint64_t next_edge(const struct piece *piece, uint64_t at, uint64_t limit)
{
    if (piece->end == 0)
        return limit;
    return MIN(limit, piece->start > at ? piece->start : piece->end);
}

/* The first piece that ends after `at`. */
static int advance(struct walk *walk, struct piece *piece, uint64_t at)
{
    int r = 0;

    while (r == 0 && piece->end != 0 && piece->end <= at)
        r = walk_next(walk, piece);
    return r;
}

static int compare(struct comparison *comparison, bool with_base)
{
    int r = walk_next(&comparison->walk, &comparison->piece);

    if (r == 0 && with_base)
        r = walk_next(&comparison->base_walk, &comparison->base);
    while (r == 0 && comparison->at < comparison->limit) {
        uint64_t at = comparison->at, to;

        r = advance(&comparison->walk, &comparison->piece, at);
        if (r == 0 && with_base)
            r = advance(&comparison->base_walk, &comparison->base, at);
        if (r != 0)
            break;
        to = MIN(next_edge(&comparison->piece, at, comparison->limit),
                 next_edge(&comparison->base, at, comparison->limit));
        if (!same_at(&comparison->piece, &comparison->base, at))
            r = add(comparison, at, to);
        comparison->at = to;
    }
    return r == 0 ? hand_on(comparison) : r;
}

int pool_image_extents(struct backend_image *image, struct backend_image *base, uint64_t from, uint64_t limit,
                       extent_visit visit, void *context, struct error *err)
{
    struct comparison comparison = {.at = from, .limit = limit, .visit = visit, .context = context};
    int r = walk_init(&comparison.walk, image->fd, from, limit, BATCH);

    if (r == 0 && base)
        r = walk_init(&comparison.base_walk, base->fd, from, limit, BATCH);
    if (r == 0)
        r = compare(&comparison, base != NULL);
    walk_done(&comparison.walk);
    walk_done(&comparison.base_walk);
    /* A non-zero return of visit() is handed on as it is: only what has no words yet is given some. */
    return r < 0 && err && !err->code ? error_errno(err, -r, "cannot look at the extents of %s", image->id)
                                      : r;
}
