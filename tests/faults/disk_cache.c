/* An open-addressing table of dirty sectors. Single-threaded; called by faulty_disk. */
#include "tests/faults/disk_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CACHE_SLOTS_MIN 1024u

struct disk_sector {
    uint64_t number; /* + 1; 0: the slot is free */
    uint8_t data[DISK_SECTOR];
};

struct disk_cache {
    int backing_fd;
    struct disk_sector *slots;
    size_t slots_count; /* a power of two */
    size_t used;
};

static struct disk_sector *cache_slot(struct disk_sector *slots, size_t slots_count, uint64_t number)
{
    size_t at = (size_t)(number * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (slots_count - 1);

    while (slots[at].number && slots[at].number != number + 1)
        at = (at + 1) & (slots_count - 1);
    return &slots[at];
}

static int cache_grow(struct disk_cache *cache)
{
    size_t count = cache->slots_count * 2;
    struct disk_sector *slots = calloc(count, sizeof(*slots));

    if (!slots)
        return -ENOMEM;
    for (size_t i = 0; i < cache->slots_count; i++) {
        if (cache->slots[i].number)
            *cache_slot(slots, count, cache->slots[i].number - 1) = cache->slots[i];
    }
    free(cache->slots);
    cache->slots = slots;
    cache->slots_count = count;
    return 0;
}

struct disk_cache *disk_cache_new(int backing_fd)
{
    struct disk_cache *cache = calloc(1, sizeof(*cache));

    if (!cache)
        return NULL;
    cache->backing_fd = backing_fd;
    cache->slots_count = CACHE_SLOTS_MIN;
    cache->slots = calloc(cache->slots_count, sizeof(*cache->slots));
    if (!cache->slots) {
        free(cache);
        return NULL;
    }
    return cache;
}

void disk_cache_free(struct disk_cache *cache)
{
    free(cache->slots);
    free(cache);
}

static int cache_put(struct disk_cache *cache, uint64_t number, const uint8_t *data)
{
    if (cache->used * 2 >= cache->slots_count) {
        int r = cache_grow(cache);
        if (r)
            return r;
    }
    struct disk_sector *sector = cache_slot(cache->slots, cache->slots_count, number);
    if (!sector->number) {
        sector->number = number + 1;
        cache->used++;
    }
    memcpy(sector->data, data, DISK_SECTOR);
    return 0;
}

int disk_cache_write(struct disk_cache *cache, const void *data, uint64_t offset, size_t length)
{
    for (size_t at = 0; at < length; at += DISK_SECTOR) {
        int r = cache_put(cache, (offset + at) / DISK_SECTOR, (const uint8_t *)data + at);
        if (r)
            return r;
    }
    return 0;
}

/*
 * Stable at once, which a disk may do: the range is punched out of the backing file, and what is cached of it
 * becomes zeroes, so that no later flush brings old data back.
 */
int disk_cache_discard(struct disk_cache *cache, uint64_t offset, uint64_t length)
{
    uint64_t first = offset / DISK_SECTOR, end = (offset + length) / DISK_SECTOR;

    for (size_t i = 0; i < cache->slots_count; i++) {
        struct disk_sector *sector = &cache->slots[i];
        if (sector->number > first && sector->number <= end)
            memset(sector->data, 0, DISK_SECTOR);
    }
    if (fallocate(cache->backing_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)length) < 0)
        return -errno;
    return 0;
}

int disk_cache_read(struct disk_cache *cache, void *data, uint64_t offset, size_t length)
{
    ssize_t n = pread(cache->backing_fd, data, length, (off_t)offset);

    if (n < 0)
        return -errno;
    memset((uint8_t *)data + n, 0, length - (size_t)n);
    for (size_t at = 0; cache->used && at < length; at += DISK_SECTOR) {
        const struct disk_sector *sector =
            cache_slot(cache->slots, cache->slots_count, (offset + at) / DISK_SECTOR);
        if (sector->number)
            memcpy((uint8_t *)data + at, sector->data, DISK_SECTOR);
    }
    return 0;
}

static int cache_write_back(const struct disk_cache *cache, const struct disk_sector *sector)
{
    off_t offset = (off_t)((sector->number - 1) * DISK_SECTOR);

    return pwrite(cache->backing_fd, sector->data, DISK_SECTOR, offset) == DISK_SECTOR ? 0 : -EIO;
}

static void cache_empty(struct disk_cache *cache)
{
    memset(cache->slots, 0, cache->slots_count * sizeof(*cache->slots));
    cache->used = 0;
}

int disk_cache_flush(struct disk_cache *cache)
{
    if (!cache->used)
        return 0;
    for (size_t i = 0; i < cache->slots_count; i++) {
        int r = cache->slots[i].number ? cache_write_back(cache, &cache->slots[i]) : 0;
        if (r)
            return r;
    }
    cache_empty(cache);
    return 0;
}

/* The same for all sectors of one block, whatever order the table has them in. */
static bool cache_survives(uint64_t seed, uint64_t sector, unsigned keep_percent)
{
    uint64_t mixed = (sector / DISK_BLOCK_SECTORS + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (seed * 2 + 1);

    for (unsigned i = 0; i < 4; i++) {
        mixed ^= mixed >> 29;
        mixed *= UINT64_C(0xbf58476d1ce4e5b9);
    }
    return (mixed >> 33) % 100 < keep_percent;
}

int disk_cache_cut(struct disk_cache *cache, uint64_t seed, unsigned keep_percent, size_t *ret_lost)
{
    size_t lost = 0;

    for (size_t i = 0; i < cache->slots_count; i++) {
        const struct disk_sector *sector = &cache->slots[i];
        if (!sector->number)
            continue;
        if (!cache_survives(seed, sector->number - 1, keep_percent)) {
            lost++;
            continue;
        }
        int r = cache_write_back(cache, sector);
        if (r)
            return r;
    }
    cache_empty(cache);
    *ret_lost = lost;
    return 0;
}

size_t disk_cache_sectors(const struct disk_cache *cache)
{
    return cache->used;
}
