/*
 * Parses and writes key=value text, numbers, lists and binary values. Pure; any thread. Called by login,
 * negotiate and by target for SendTargets.
 */
#include "datapath/iscsi/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void iscsi_text_parser_init(struct iscsi_text_parser *parser, const void *text, size_t length)
{
    *parser = (struct iscsi_text_parser){.text = text, .length = length};
}

static bool is_letter(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_key_char(char c)
{
    return is_letter(c) || is_digit(c) || (c != '\0' && strchr(".-+@_#", c) != NULL);
}

/* Text is UTF-8: any byte above the control characters but DEL. */
static bool is_value_char(char c)
{
    return (unsigned char)c >= ' ' && c != 0x7f;
}

static int read_key(const char *text, size_t length, struct iscsi_text_pair *pair)
{
    size_t size = 0;
    while (size < length && is_key_char(text[size]))
        size++;
    if (size == 0 || size == length || text[size] != '=' || !is_letter(text[0]))
        return E_INVALID_ARGUMENT;
    if (size > ISCSI_TEXT_KEY_MAX)
        return E_EXHAUSTED;
    memcpy(pair->key, text, size);
    pair->key[size] = '\0';
    pair->value = text + size + 1;
    pair->value_length = length - size - 1;
    return 0;
}

int iscsi_text_parser_next(struct iscsi_text_parser *parser, struct iscsi_text_pair *ret_pair)
{
    if (parser->at == parser->length)
        return E_NOT_FOUND;
    const char *text = parser->text + parser->at;
    size_t left = parser->length - parser->at;
    const char *end = memchr(text, '\0', left);
    if (end == NULL)
        return E_INVALID_ARGUMENT;
    if (end == text) {
        for (size_t i = 0; i < left; i++)
            if (text[i] != '\0')
                return E_INVALID_ARGUMENT;
        parser->at = parser->length;
        return E_NOT_FOUND;
    }
    if (parser->pairs == ISCSI_TEXT_PAIRS_MAX)
        return E_EXHAUSTED;

    struct iscsi_text_pair pair;
    int r = read_key(text, (size_t)(end - text), &pair);
    if (r != 0)
        return r;
    if (pair.value_length > ISCSI_TEXT_LONG_VALUE_MAX)
        return E_EXHAUSTED;
    for (size_t i = 0; i < pair.value_length; i++)
        if (!is_value_char(pair.value[i]))
            return E_INVALID_ARGUMENT;
    parser->at += (size_t)(end - text) + 1;
    parser->pairs++;
    *ret_pair = pair;
    return 0;
}

void iscsi_text_writer_init(struct iscsi_text_writer *writer, void *buffer, size_t size)
{
    *writer = (struct iscsi_text_writer){.buffer = buffer, .size = size};
}

/* "key=" and room for value_length characters and a NUL, which are then at the end of what is written. NULL
 * if full. */
static char *add_pair(struct iscsi_text_writer *writer, const char *key, size_t value_length)
{
    size_t key_length = strlen(key);
    size_t size = key_length + 1 + value_length + 1;
    if (writer->full || size > writer->size - writer->length) {
        writer->full = true;
        return NULL;
    }
    char *at = writer->buffer + writer->length;
    memcpy(at, key, key_length);
    at[key_length] = '=';
    at[size - 1] = '\0';
    writer->length += size;
    return at + key_length + 1;
}

void iscsi_text_put(struct iscsi_text_writer *writer, const char *key, const char *value)
{
    size_t length = strlen(value);
    char *at = add_pair(writer, key, length);
    if (at != NULL)
        memcpy(at, value, length);
}

void iscsi_text_put_number(struct iscsi_text_writer *writer, const char *key, uint32_t value)
{
    char digits[16];
    snprintf(digits, sizeof(digits), "%" PRIu32, value);
    iscsi_text_put(writer, key, digits);
}

void iscsi_text_put_binary(struct iscsi_text_writer *writer, const char *key, const void *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *from = bytes;
    char *at = add_pair(writer, key, 2 + 2 * size);
    if (at == NULL)
        return;
    *at++ = '0';
    *at++ = 'x';
    for (size_t i = 0; i < size; i++) {
        *at++ = digits[from[i] >> 4];
        *at++ = digits[from[i] & 0xf];
    }
}

void iscsi_text_gather_init(struct iscsi_text_gather *gather, void *buffer, size_t size)
{
    *gather = (struct iscsi_text_gather){.buffer = buffer, .size = size};
}

int iscsi_text_gather_add(struct iscsi_text_gather *gather, const void *text, size_t length)
{
    if (length > gather->size - gather->length)
        return E_EXHAUSTED;
    if (length > 0)
        memcpy(gather->buffer + gather->length, text, length);
    gather->length += length;
    return 0;
}

static int hex_digit(char c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool has_prefix(const char *value, char letter)
{
    return value[0] == '0' && (value[1] == letter || value[1] == letter - 'a' + 'A');
}

bool iscsi_text_number(const char *value, uint32_t *ret)
{
    bool hex = has_prefix(value, 'x');
    const char *at = hex ? value + 2 : value;
    uint64_t number = 0;
    if (*at == '\0')
        return false;
    for (; *at != '\0'; at++) {
        int digit = hex ? hex_digit(*at) : is_digit(*at) ? *at - '0' : -1;
        if (digit < 0)
            return false;
        number = number * (hex ? 16 : 10) + (unsigned)digit;
        if (number > UINT32_MAX)
            return false;
    }
    *ret = (uint32_t)number;
    return true;
}

static int decode_hex(const char *digits, uint8_t *ret_bytes, size_t size, size_t *ret_length)
{
    size_t count = strlen(digits);
    size_t length = (count + 1) / 2;
    if (count == 0)
        return E_INVALID_ARGUMENT;
    if (length > size)
        return E_EXHAUSTED;
    /* An odd count lacks the first digit, a zero. */
    size_t at = count % 2;
    for (size_t i = 0; i < count; i++) {
        int digit = hex_digit(digits[i]);
        if (digit < 0)
            return E_INVALID_ARGUMENT;
        size_t place = at + i;
        if (place % 2 == 0 || i == 0)
            ret_bytes[place / 2] = 0;
        ret_bytes[place / 2] = (uint8_t)(ret_bytes[place / 2] << 4 | digit);
    }
    *ret_length = length;
    return 0;
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (is_digit(c))
        return c - '0' + 52;
    if (c == '+')
        return 62;
    return c == '/' ? 63 : -1;
}

static int decode_base64(const char *digits, uint8_t *ret_bytes, size_t size, size_t *ret_length)
{
    size_t count = strlen(digits);
    if (count == 0 || count % 4 != 0)
        return E_INVALID_ARGUMENT;
    size_t pads = (size_t)(digits[count - 1] == '=') + (size_t)(digits[count - 2] == '=');
    if (pads == 2 && digits[count - 1] != '=')
        return E_INVALID_ARGUMENT;
    size_t length = count / 4 * 3 - pads;
    if (length > size)
        return E_EXHAUSTED;
    uint32_t bits = 0;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        int digit = i < count - pads ? base64_digit(digits[i]) : 0;
        if (digit < 0)
            return E_INVALID_ARGUMENT;
        bits = bits << 6 | (unsigned)digit;
        if (i % 4 != 3)
            continue;
        for (unsigned shift = 24; shift > 0 && at < length;) {
            shift -= 8;
            ret_bytes[at++] = (uint8_t)(bits >> shift);
        }
        bits = 0;
    }
    *ret_length = length;
    return 0;
}

int iscsi_text_binary(const char *value, void *ret_bytes, size_t size, size_t *ret_length)
{
    if (has_prefix(value, 'x'))
        return decode_hex(value + 2, ret_bytes, size, ret_length);
    if (has_prefix(value, 'b'))
        return decode_base64(value + 2, ret_bytes, size, ret_length);
    return E_INVALID_ARGUMENT;
}

bool iscsi_text_list_next(const char **list, const char **ret_item, size_t *ret_length)
{
    if (*list == NULL)
        return false;
    const char *end = strchrnul(*list, ',');
    *ret_item = *list;
    *ret_length = (size_t)(end - *list);
    *list = *end == ',' ? end + 1 : NULL;
    return true;
}

bool iscsi_text_list_has(const char *list, const char *item)
{
    const char *at;
    size_t length;
    while (iscsi_text_list_next(&list, &at, &length))
        if (length == strlen(item) && memcmp(at, item, length) == 0)
            return true;
    return false;
}
