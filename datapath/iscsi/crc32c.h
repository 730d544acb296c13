/*
 * CRC32C (Castagnoli) as iSCSI uses it for digests: RFC 7143, section 13.1, examples in RFC 3720, B.4. SSE4.2
 * where the processor has it (found out once, at run time), a table otherwise. Any thread; no state.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "datapath/iscsi/bhs.h"

#define ISCSI_CRC32C_START UINT32_C(0xffffffff)

/* Continue crc (ISCSI_CRC32C_START at first) over the bytes; iscsi_crc32c_finish() makes the value of it. */
uint32_t iscsi_crc32c_add(uint32_t crc, const void *bytes, size_t length);

/* The same by the table, whatever the processor has: for tests that compare the two. */
uint32_t iscsi_crc32c_add_table(uint32_t crc, const void *bytes, size_t length);

static inline uint32_t iscsi_crc32c_finish(uint32_t crc)
{
    return ~crc;
}

static inline uint32_t iscsi_crc32c(const void *bytes, size_t length)
{
    return iscsi_crc32c_finish(iscsi_crc32c_add(ISCSI_CRC32C_START, bytes, length));
}

/* On the wire a digest goes least significant byte first. */
static inline void iscsi_crc32c_store(uint32_t value, uint8_t ret_digest[ISCSI_DIGEST_SIZE])
{
    for (unsigned i = 0; i < ISCSI_DIGEST_SIZE; i++)
        ret_digest[i] = (uint8_t)(value >> (8 * i));
}

static inline uint32_t iscsi_crc32c_load(const uint8_t digest[ISCSI_DIGEST_SIZE])
{
    return (uint32_t)digest[0] | (uint32_t)digest[1] << 8 | (uint32_t)digest[2] << 16 |
           (uint32_t)digest[3] << 24;
}
