/* What the tests of datapath/iscsi share: a seeded generator whose seed is printed, and golden bytes as hex
 * text. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/time.h"

/* The seed: MOORING_TEST_SEED, else the clock; printed, so that a failure can be run again. */
static inline uint64_t iscsi_test_seed(void)
{
    const char *given = getenv("MOORING_TEST_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : time_now_ns();
    print_message("MOORING_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed | 1;
}

static inline uint64_t iscsi_test_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* "01 c0 …" (blanks are skipped) into bytes; their count. */
static inline size_t iscsi_test_hex(const char *text, uint8_t *ret_bytes)
{
    size_t count = 0;
    for (; *text != '\0'; text++) {
        if (*text == ' ')
            continue;
        unsigned byte;
        assert_int_equal(sscanf(text, "%2x", &byte), 1);
        ret_bytes[count++] = (uint8_t)byte;
        text++;
    }
    return count;
}
