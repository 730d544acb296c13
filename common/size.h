/* Sizes as people write them: "10GiB", "512MiB", "4096". Binary units only: KiB, MiB, GiB, TiB; a bare number
 * is bytes. */
#pragma once

#include <stdint.h>

#include "common/error.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

/* E_INVALID_ARGUMENT, naming the text and the units, for anything else, negative numbers and overflow
 * included. */
int size_parse(const char *text, uint64_t *ret_bytes, struct error *err);

/* "10.0 GiB"; at most 15 characters and a NUL. */
void size_format(uint64_t bytes, char ret_text[16]);

/* Overflow-safe: true when offset + length <= size. */
static inline int size_range_fits(uint64_t offset, uint64_t length, uint64_t size)
{
    return length <= size && offset <= size - length;
}

#define ROUND_UP(value, to) (((value) + (to)-1) / (to) * (to))
#define ROUND_DOWN(value, to) ((value) / (to) * (to))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
