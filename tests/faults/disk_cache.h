/*
 * The volatile cache of a simulated disk: sectors that were written and not yet flushed. A flush moves them
 * to the backing file; a power cut keeps a random part of them and loses the rest, in no order. A block of 4
 * KiB survives whole or not at all, as on disks with physical sectors of that size: XFS, which may check a
 * metadata block before it recovers it, survives reordering and loss, but not a block that is torn.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DISK_SECTOR 512u
#define DISK_BLOCK_SECTORS 8u

struct disk_cache;

struct disk_cache *disk_cache_new(int backing_fd); /* NULL when memory ran out; backing_fd is borrowed */
void disk_cache_free(struct disk_cache *cache);

/* offset and length are multiples of DISK_SECTOR. 0 or -errno. */
int disk_cache_write(struct disk_cache *cache, const void *data, uint64_t offset, size_t length);
int disk_cache_read(struct disk_cache *cache, void *data, uint64_t offset, size_t length);
int disk_cache_discard(struct disk_cache *cache, uint64_t offset,
                       uint64_t length); /* reads as zeroes from now on */
int disk_cache_flush(struct disk_cache *cache);

/* Each block with cached sectors survives with keep_percent's chance. *ret_lost counts the sectors that did
 * not. */
int disk_cache_cut(struct disk_cache *cache, uint64_t seed, unsigned keep_percent, size_t *ret_lost);

size_t disk_cache_sectors(const struct disk_cache *cache); /* dirty now */
