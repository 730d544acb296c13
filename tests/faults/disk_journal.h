/*
 * What a simulated disk was told, in order: each write, discard and flush as it was carried out, and marks
 * that a test puts between them. From it, the disk can be made anew as a power loss at any moment may have
 * left it (tests/faults/power_loss.py). A record: one byte of kind, then offset and length as 64-bit
 * little-endian words, then a write's data; of a mark, `offset` is its number.
 */
#pragma once

#include <stdint.h>

#define JOURNAL_WRITE 'w'
#define JOURNAL_DISCARD 'd'
#define JOURNAL_FLUSH 'f'
#define JOURNAL_MARK 'm'

/* Begin a new one at path. 0 or -errno. */
int disk_journal_open(const char *path);

/* Nothing while none is open. 0 or -errno: a journal that misses a record is worth nothing. */
int disk_journal_add(char kind, uint64_t offset, uint64_t length, const void *data);

/* All that was added is in the file. 0 or -errno. */
int disk_journal_flush(void);
