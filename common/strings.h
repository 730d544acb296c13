/* Small string helpers that libc lacks. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline bool str_equal(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static inline bool str_starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Copy with truncation refused: false (and dst empty) when src does not fit in size bytes with its NUL. */
bool str_copy(char *dst, size_t size, const char *src);

/* A formatted string on the heap; NULL when memory ran out. */
char *str_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* To spread names over locks or loops (FNV-1a). Nothing may rest on names not meeting. */
uint32_t str_hash(const char *text);

/* In place: "\040" becomes a blank, as the kernel writes blanks and the like in its tables of mounts. */
void str_unescape_octal(char *text);

/* Equal in constant time: for secrets and digests. */
bool str_secret_equal(const void *a, const void *b, size_t length);

/* The decimal number that text begins with, without sign or space; *ret_rest is what follows it. False when
 * there is no digit, or the number is above 2^64 - 1. */
bool str_parse_uint64(const char *text, uint64_t *ret, const char **ret_rest);
