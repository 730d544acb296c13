/*
 * CRC32C for digests: the processor's instruction where there is one, else eight tables (one per byte of a
 * 64-bit word). Pure; any thread. Tables and choice are made once, before main. Called by pdu and response.
 */
#include "datapath/iscsi/crc32c.h"

#include <string.h>

#define POLYNOMIAL_REFLECTED UINT32_C(0x82f63b78)

static uint32_t tables[8][256];
static uint32_t (*add_best)(uint32_t crc, const void *bytes, size_t length) = iscsi_crc32c_add_table;

uint32_t iscsi_crc32c_add_table(uint32_t crc, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    for (; length >= 8; at += 8, length -= 8) {
        uint32_t low = crc ^ iscsi_crc32c_load(at);
        uint32_t high = iscsi_crc32c_load(at + 4);
        crc = tables[7][low & 0xff] ^ tables[6][low >> 8 & 0xff] ^ tables[5][low >> 16 & 0xff] ^
              tables[4][low >> 24] ^ tables[3][high & 0xff] ^ tables[2][high >> 8 & 0xff] ^
              tables[1][high >> 16 & 0xff] ^ tables[0][high >> 24];
    }
    for (; length > 0; at++, length--)
        crc = crc >> 8 ^ tables[0][(crc ^ *at) & 0xff];
    return crc;
}

#ifdef __x86_64__
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t add_sse42(uint32_t crc, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    uint64_t wide = crc;
    for (; length >= 8; at += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, at, sizeof(word));
        wide = _mm_crc32_u64(wide, word);
    }
    crc = (uint32_t)wide;
    for (; length > 0; at++, length--)
        crc = _mm_crc32_u8(crc, *at);
    return crc;
}

static void choose_best(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2"))
        add_best = add_sse42;
}
#else
static void choose_best(void)
{
}
#endif

__attribute__((constructor)) static void make_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL_REFLECTED : 0);
        tables[0][i] = crc;
    }
    for (unsigned table = 1; table < 8; table++)
        for (unsigned i = 0; i < 256; i++)
            tables[table][i] = tables[table - 1][i] >> 8 ^ tables[0][tables[table - 1][i] & 0xff];
    choose_best();
}

uint32_t iscsi_crc32c_add(uint32_t crc, const void *bytes, size_t length)
{
    return add_best(crc, bytes, length);
}
