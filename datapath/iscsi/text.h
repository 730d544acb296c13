/*
 * key=value text of login and text PDUs (RFC 7143, sections 6.1 and 6.2): pairs separated by NUL. No I/O, no
 * allocation; buffers are the caller's. Errors: E_INVALID_ARGUMENT for malformed text, E_EXHAUSTED at a
 * limit.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define ISCSI_TEXT_KEY_MAX 63
#define ISCSI_TEXT_VALUE_MAX 255 /* "unless specified otherwise": every key but the binary ones of CHAP */
#define ISCSI_TEXT_BINARY_MAX                                                                                \
    1024 /* bytes behind a binary value; hex needs 2 + 2 times as many characters                            \
          */
#define ISCSI_TEXT_LONG_VALUE_MAX (2 + 2 * ISCSI_TEXT_BINARY_MAX)
#define ISCSI_TEXT_PAIRS_MAX 64      /* per request, over all its PDUs */
#define ISCSI_TEXT_REQUEST_MAX 16384 /* bytes per request, over all its PDUs */

/* A walk over text of length bytes. text stays as it is and must outlive the pairs' use. */
struct iscsi_text_parser {
    const char *text;
    size_t length;
    size_t at;
    unsigned pairs;
};

/* key and value are NUL-terminated: value in place, key copied, since '=' ends it in the text. */
struct iscsi_text_pair {
    char key[ISCSI_TEXT_KEY_MAX + 1];
    const char *value;
    size_t value_length;
};

void iscsi_text_parser_init(struct iscsi_text_parser *parser, const void *text, size_t length);

/*
 * The next pair. 0, E_NOT_FOUND at the end, E_INVALID_ARGUMENT for a pair without '=', a key that is not one,
 * a control character or a missing last NUL, E_EXHAUSTED above ISCSI_TEXT_PAIRS_MAX or a length limit. NULs
 * alone at the end are skipped: some initiators count padding as data.
 */
int iscsi_text_parser_next(struct iscsi_text_parser *parser, struct iscsi_text_pair *ret_pair);

/* Pairs into a buffer. Once one does not fit, full is set, nothing of it is written and no later one is. */
struct iscsi_text_writer {
    char *buffer;
    size_t size;
    size_t length;
    bool full;
};

void iscsi_text_writer_init(struct iscsi_text_writer *writer, void *buffer, size_t size);
void iscsi_text_put(struct iscsi_text_writer *writer, const char *key, const char *value);
void iscsi_text_put_number(struct iscsi_text_writer *writer, const char *key, uint32_t value);
void iscsi_text_put_binary(struct iscsi_text_writer *writer, const char *key, const void *bytes, size_t size);

/* Text that goes on over several PDUs (C bit), in a bounded buffer of the caller. */
struct iscsi_text_gather {
    char *buffer;
    size_t size;
    size_t length;
};

void iscsi_text_gather_init(struct iscsi_text_gather *gather, void *buffer, size_t size);

/* E_EXHAUSTED when it does not fit; then nothing is added. */
int iscsi_text_gather_add(struct iscsi_text_gather *gather, const void *text, size_t length);

/* A numerical value: decimal or 0x hex, no sign, within 32 bits. */
bool iscsi_text_number(const char *value, uint32_t *ret);

/* A binary value, "0x…" or "0b…" (base64): E_INVALID_ARGUMENT when it is neither, E_EXHAUSTED above size
 * bytes. */
int iscsi_text_binary(const char *value, void *ret_bytes, size_t size, size_t *ret_length);

/* True once for each item of a comma-separated list: begin with *list at the value, NULL at the end. */
bool iscsi_text_list_next(const char **list, const char **ret_item, size_t *ret_length);

/* The list has exactly this item. */
bool iscsi_text_list_has(const char *list, const char *item);
