/* String helpers that libc lacks. Without state: any thread, any caller. */
#include "common/strings.h"

#include <stdarg.h>
#include <stdio.h>

bool str_copy(char *dst, size_t size, const char *src)
{
    size_t length = strlen(src);

    if (length >= size) {
        if (size > 0)
            dst[0] = '\0';
        return false;
    }
    memcpy(dst, src, length + 1);
    return true;
}

uint32_t str_hash(const char *text)
{
    uint32_t hash = 2166136261u;

    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 16777619u;
    return hash;
}

char *str_format(const char *format, ...)
{
    va_list arguments;
    char *text = NULL;
    int length;

    va_start(arguments, format);
    length = vasprintf(&text, format, arguments);
    va_end(arguments);
    return length < 0 ? NULL : text;
}

static bool is_octal_escape(const char *text)
{
    return text[0] == '\\' && strspn(text + 1, "01234567") >= 3;
}

void str_unescape_octal(char *text)
{
    char *to = text;

    for (const char *from = text; *from; to++) {
        if (is_octal_escape(from)) {
            *to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

bool str_secret_equal(const void *a, const void *b, size_t length)
{
    const unsigned char *left = a, *right = b;
    volatile unsigned char difference = 0;

    for (size_t i = 0; i < length; i++)
        difference = difference | (left[i] ^ right[i]);
    return difference == 0;
}

bool str_parse_uint64(const char *text, uint64_t *ret, const char **ret_rest)
{
    const char *next = text;
    uint64_t value = 0;

    for (; *next >= '0' && *next <= '9'; next++) {
        uint64_t digit = (uint64_t)(*next - '0');

        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, digit, &value))
            return false;
    }
    if (next == text)
        return false;
    *ret = value;
    *ret_rest = next;
    return true;
}
