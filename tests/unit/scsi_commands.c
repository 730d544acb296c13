/*
 * SCSI commands on an image in memory: what each CDB transfers, answers and refuses, byte by byte where a
 * standard fixes the bytes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "tests/unit/scsi_bench.h"

static void read_and_write_of_every_length(void **state)
{
    static const uint8_t opcodes[][2] = {{0x0a, 0x08}, {0x2a, 0x28}, {0xaa, 0xa8}, {0x8a, 0x88}};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(opcodes); i++) {
        uint8_t cdb[16] = {opcodes[i][0]};
        unsigned group = cdb[0] >> 5;

        if (group == 0) {
            cdb[3] = 7;
            cdb[4] = 2;
        } else if (group == 4) {
            put_be64(&cdb[2], 7);
            put_be32(&cdb[10], 2);
        } else {
            put_be32(&cdb[2], 7);
            cdb[group == 5 ? 9 : 8] = 2;
        }
        memset(buffer, 0x40 + (int)i, 2 * BLOCK);
        struct scsi_task task = command(cdb, sizeof(cdb), 2 * BLOCK);
        assert_int_equal(task.status, SCSI_GOOD);
        assert_int_equal(task.transfer_length, 2 * BLOCK);
        assert_int_equal(image_last.offset, 7 * BLOCK);
        assert_int_equal(image_last.epoch, 3);
        assert_int_equal(image_last.generation, 2);
        assert_int_equal(image_bytes[9 * BLOCK - 1], 0x40 + i);
        assert_int_equal(image_bytes[9 * BLOCK], 0xee);

        memset(buffer, 0, 2 * BLOCK);
        cdb[0] = opcodes[i][1];
        task = command(cdb, sizeof(cdb), 2 * BLOCK);
        assert_int_equal(task.data_in_length, 2 * BLOCK);
        assert_int_equal(buffer[2 * BLOCK - 1], 0x40 + i);
    }
}

static void read6_of_zero_is_256_blocks(void **state)
{
    struct scsi_task task = {.nexus = &nexus, .cdb = {0x08}};

    (void)state;
    assert_true(scsi_task_parse(&task));
    assert_int_equal(task.transfer_length, 256 * BLOCK);
}

static void ranges_are_checked_without_overflow(void **state)
{
    (void)state;
    struct scsi_task task = COMMAND(BLOCK, 0x28, 0, 0, 0, 2, 0, 0, 0, 1, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_LBA_OUT_OF_RANGE);
    task = COMMAND(BLOCK, 0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 2, 0, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_LBA_OUT_OF_RANGE);
    task = COMMAND(BLOCK, 0x28, 0, 0, 0, 0, 0, 0, 1, 1, 0); /* 257 blocks: above VPD B0's maximum */
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
    task = COMMAND(BLOCK, 0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0); /* RDPROTECT */
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
    assert_int_equal(image_commands, 0);
    task = COMMAND(0, 0x28, 0, 0, 0, 2, 0, 0, 0, 0, 0); /* nothing, just at the end */
    assert_int_equal(task.status, SCSI_GOOD);
}

static void fua_and_write_through_make_writes_stable(void **state)
{
    (void)state;
    COMMAND(BLOCK, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_false(image_last.fua);
    COMMAND(BLOCK, 0x2a, 0x08, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_true(image_last.fua);
    nexus.write_through = true;
    COMMAND(BLOCK, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_true(image_last.fua);
    COMMAND(BLOCK, 0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_true(image_last.fua);
    memset(buffer, 0x11, BLOCK);
    COMMAND(BLOCK, 0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_true(image_last.fua);
    memset(buffer, 0, BLOCK);
    buffer[3] = 16, buffer[19] = 1;
    COMMAND(24, 0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0);
    assert_int_equal(image_last.verb, IMAGE_UNMAP);
    assert_true(image_last.fua);
}

static void a_read_only_nexus_changes_nothing(void **state)
{
    static const uint8_t changes[] = {0x0a, 0x2a, 0xaa, 0x8a, 0x41, 0x93, 0x42};

    (void)state;
    nexus.read_only = true;
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        struct scsi_task task = command(&changes[i], 1, BLOCK);
        assert_sense(&task, SENSE_DATA_PROTECT, SENSE_WRITE_PROTECTED);
    }
    assert_int_equal(image_commands, 0);
    struct scsi_task task = COMMAND(BLOCK, 0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_int_equal(task.status, SCSI_GOOD);
    task = COMMAND(255, 0x1a, 0, 0x3f, 0, 255, 0);
    assert_int_equal(buffer[2] & 0x80, 0x80); /* WP */
}

static void results_become_sense(void **state)
{
    static const struct {
        int result;
        enum sense_key key;
        uint16_t code;
    } rows[] = {
        {E_NO_SPACE, SENSE_DATA_PROTECT, SENSE_SPACE_ALLOCATION_FAILED},
        {E_WRITE_FAILED, SENSE_MEDIUM_ERROR, SENSE_WRITE_ERROR},
        {-EIO, SENSE_MEDIUM_ERROR, SENSE_WRITE_ERROR},
        {E_OUT_OF_RANGE, SENSE_ILLEGAL_REQUEST, SENSE_LBA_OUT_OF_RANGE},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        image_result = rows[i].result;
        struct scsi_task task = COMMAND(BLOCK, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0);
        assert_sense(&task, rows[i].key, rows[i].code);
    }
    image_result = -EIO;
    struct scsi_task task = COMMAND(BLOCK, 0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_sense(&task, SENSE_MEDIUM_ERROR, SENSE_READ_ERROR);
    assert_int_equal(task.data_in_length, 0);
    task = COMMAND(0, 0x35);
    assert_sense(&task, SENSE_MEDIUM_ERROR, SENSE_WRITE_ERROR);
    image_result = -ENOMEM;
    task = COMMAND(BLOCK, 0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_int_equal(task.status, SCSI_TASK_SET_FULL);
}

static void short_data_moves_whole_blocks_only(void **state)
{
    (void)state;
    memset(buffer, 0x77, 2 * BLOCK);
    struct scsi_task task = COMMAND(BLOCK + 17, 0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0);
    assert_int_equal(task.status, SCSI_GOOD);
    assert_int_equal(image_bytes[BLOCK - 1], 0x77);
    assert_int_equal(image_bytes[BLOCK], 0xee);
}

static void synchronize_cache_flushes(void **state)
{
    (void)state;
    COMMAND(0, 0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(image_last.verb, IMAGE_FLUSH);
    COMMAND(0, 0x91, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0);
    assert_int_equal(image_commands, 2);
    struct scsi_task task = COMMAND(0, 0x35, 0, 0, 0, 2, 1, 0, 0, 0, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_LBA_OUT_OF_RANGE);
}

static void write_same_zeroes_unmaps_and_repeats(void **state)
{
    (void)state;
    COMMAND(BLOCK, 0x93, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0);
    assert_int_equal(image_last.verb, IMAGE_WRITE_ZEROES);
    assert_true(image_last.allocate);
    assert_int_equal(image_last.length, 4 * BLOCK);
    COMMAND(0, 0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0); /* UNMAP, NDOB */
    assert_int_equal(image_last.verb, IMAGE_UNMAP);

    memset(buffer, 0x5a, BLOCK);
    buffer[0] = 0;
    struct scsi_task task = COMMAND(BLOCK, 0x41, 0, 0, 0, 0, 2, 0, 0, 40, 0);
    assert_int_equal(task.status, SCSI_GOOD);
    for (unsigned block = 2; block < 42; block++)
        assert_memory_equal(image_bytes + block * BLOCK, buffer, BLOCK);
    assert_int_equal(image_bytes[42 * BLOCK], 0xee);

    task = COMMAND(BLOCK, 0x41, 0, 0, 0, 0, 0, 0, 0, 0, 0); /* zero blocks: WSNZ */
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
    image_result = -EIO;
    task = COMMAND(BLOCK, 0x41, 0, 0, 0, 0, 2, 0, 0, 40, 0);
    assert_sense(&task, SENSE_MEDIUM_ERROR, SENSE_WRITE_ERROR);
}

static void put_unmap(unsigned count, const uint64_t (*ranges)[2])
{
    memset(buffer, 0, 8 + 16 * count);
    put_be16(&buffer[0], (uint16_t)(6 + 16 * count));
    put_be16(&buffer[2], (uint16_t)(16 * count));
    for (unsigned i = 0; i < count; i++) {
        put_be64(&buffer[8 + 16 * i], ranges[i][0]);
        put_be32(&buffer[16 + 16 * i], (uint32_t)ranges[i][1]);
    }
}

static void unmap_is_checked_whole_before_it_begins(void **state)
{
    static const uint64_t good[][2] = {{1, 2}, {100, 1}, {5, 0}};
    static const uint64_t bad[][2] = {{1, 2}, {UINT64_MAX, 2}};

    (void)state;
    put_unmap(3, good);
    struct scsi_task task = COMMAND(56, 0x42, 0, 0, 0, 0, 0, 0, 0, 56, 0);
    assert_int_equal(task.status, SCSI_GOOD);
    assert_int_equal(image_commands, 3);
    assert_int_equal(image_bytes[BLOCK], 0);
    assert_int_equal(image_bytes[100 * BLOCK], 0);
    assert_int_equal(image_bytes[3 * BLOCK], 0xee);

    put_unmap(2, bad);
    image_commands = 0;
    task = COMMAND(40, 0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_LBA_OUT_OF_RANGE);
    assert_int_equal(image_commands, 0);
    task = COMMAND(4, 0x42, 0, 0, 0, 0, 0, 0, 0, 4, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_PARAMETER_LIST_LENGTH);
    put_unmap(2, good);
    task = COMMAND(23, 0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0); /* cut short: no whole descriptor came */
    assert_int_equal(task.status, SCSI_GOOD);
    assert_int_equal(image_commands, 0);
}

static void lba_status_tells_extents(void **state)
{
    (void)state;
    struct scsi_task task = COMMAND(256, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0);
    assert_int_equal(task.data_in_length, 8 + 32);
    assert_int_equal(get_be32(buffer), 36);
    assert_int_equal(get_be64(&buffer[8]), 6);
    assert_int_equal(get_be32(&buffer[16]), BLOCKS / 2 - 6);
    assert_int_equal(buffer[20], 0);
    assert_int_equal(get_be64(&buffer[24]), BLOCKS / 2);
    assert_int_equal(get_be32(&buffer[32]), BLOCKS / 2);
    assert_int_equal(buffer[36], 1);
    task = COMMAND(16, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 16, 0, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_LBA_OUT_OF_RANGE);
}

static void a_thick_unit_is_resource_provisioned(void **state)
{
    static const uint64_t range[][2] = {{1, 2}};

    (void)state;
    unit.thick = true;
    COMMAND(255, 0x12, 1, 0xb2, 0, 255, 0);
    assert_int_equal(buffer[5], 0xe6); /* as a thin one, and ANC_SUP */
    assert_int_equal(buffer[6], 0x01);
    COMMAND(32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0);
    assert_int_equal(buffer[14], 0xc0);
    COMMAND(256, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0);
    assert_int_equal(buffer[20], 0);
    assert_int_equal(buffer[36], 2); /* anchored */
    put_unmap(1, range);
    struct scsi_task task = COMMAND(24, 0x42, 1, 0, 0, 0, 0, 0, 0, 24, 0); /* ANCHOR */
    assert_int_equal(task.status, SCSI_GOOD);
    task = COMMAND(0, 0x93, 0x19, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0); /* ANCHOR, UNMAP, NDOB */
    assert_int_equal(task.status, SCSI_GOOD);
    task = COMMAND(0, 0x93, 0x11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0); /* ANCHOR without UNMAP */
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);

    unit.thick = false;
    task = COMMAND(24, 0x42, 1, 0, 0, 0, 0, 0, 0, 24, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
    task = COMMAND(0, 0x93, 0x19, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
}

static void capacity_is_told_in_both_sizes(void **state)
{
    (void)state;
    struct scsi_task task = COMMAND(8, 0x25);
    assert_int_equal(task.data_in_length, 8);
    assert_int_equal(get_be32(buffer), BLOCKS - 1);
    assert_int_equal(get_be32(&buffer[4]), BLOCK);
    task = COMMAND(32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0);
    assert_int_equal(get_be64(buffer), BLOCKS - 1);
    assert_int_equal(buffer[13], 0);
    assert_int_equal(buffer[14], 0xc0);
    unit.blocks = nexus.blocks = UINT64_C(1) << 40;
    COMMAND(8, 0x25);
    unit.blocks = BLOCKS;
    assert_int_equal(get_be32(buffer), UINT32_MAX);
}

static void inquiry_and_its_pages(void **state)
{
    (void)state;
    struct scsi_task task = COMMAND(255, 0x12, 0, 0, 0, 255, 0);
    assert_int_equal(task.data_in_length, 96);
    assert_int_equal(buffer[0], 0);
    assert_memory_equal(&buffer[8], "MOORING VOLUME          ", 24);
    task = COMMAND(255, 0x12, 0, 0, 0, 36, 0);
    assert_int_equal(task.data_in_length, 36);

    task = COMMAND(255, 0x12, 1, 0x00, 0, 255, 0);
    assert_memory_equal(buffer, ((uint8_t[]){0, 0, 0, 7, 0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2, 0xc0}), 11);
    COMMAND(255, 0x12, 1, 0x80, 0, 255, 0);
    assert_memory_equal(&buffer[4], "store-1.9f86d081884c7d65", 24);
    COMMAND(255, 0x12, 1, 0xc0, 0, 255, 0);
    assert_memory_equal(&buffer[4], "00112233445566778899aabbccddeeff", 32);
    COMMAND(255, 0x12, 1, 0x83, 0, 255, 0);
    assert_memory_equal(&buffer[4], ((uint8_t[]){0x01, 0x03, 0, 8, 0x3f, 0x86, 0xd0, 0x81}), 8);
    COMMAND(255, 0x12, 1, 0xb0, 0, 255, 0);
    assert_int_equal(get_be16(&buffer[2]), 0x3c);
    assert_int_equal(get_be32(&buffer[8]), SCSI_TRANSFER_MAX / BLOCK);
    COMMAND(255, 0x12, 1, 0xb2, 0, 255, 0);
    assert_int_equal(buffer[5], 0xe4);
    assert_int_equal(buffer[6], 0x02);
    task = COMMAND(255, 0x12, 1, 0xc1, 0, 255, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
    task = COMMAND(255, 0x12, 0, 0x80, 0, 255, 0); /* a page without EVPD */
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
}

static void mode_sense_tells_the_write_cache(void **state)
{
    (void)state;
    struct scsi_task task = COMMAND(255, 0x1a, 0x08, 0x08, 0, 255, 0);
    assert_int_equal(task.data_in_length, 24);
    assert_int_equal(buffer[0], 23);
    assert_int_equal(buffer[2], 0x10);
    assert_int_equal(buffer[6], 0x04); /* WCE */
    nexus.write_through = true;
    COMMAND(255, 0x1a, 0x08, 0x08, 0, 255, 0);
    assert_int_equal(buffer[6], 0);
    task = COMMAND(255, 0x5a, 0x10, 0x3f, 0, 0, 0, 0, 0, 255, 0);
    assert_int_equal(task.data_in_length, 8 + 16 + 20 + 12);
    assert_int_equal(get_be16(buffer), task.data_in_length - 2);
    assert_int_equal(get_be64(&buffer[8]), BLOCKS);
    task = COMMAND(255, 0x1a, 0, 0xc8, 0, 255, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, 0x3900);
    task = COMMAND(255, 0x1a, 0, 0x01, 0, 255, 0);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
}

static void a_unit_that_is_not_there(void **state)
{
    struct scsi_task task = {.nexus = &nexus, .data = buffer, .data_size = 255, .lun = UINT64_C(1) << 48};

    (void)state;
    assert_false(scsi_task_parse(&task)); /* TEST UNIT READY */
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_LUN_NOT_SUPPORTED);
    memcpy(task.cdb, (uint8_t[]){0x12, 0, 0, 0, 255}, 5);
    assert_true(scsi_task_parse(&task));
    execute(&task);
    assert_int_equal(buffer[0], 0x7f);
    memcpy(task.cdb, (uint8_t[]){0x03, 0, 0, 0, 252}, 5);
    assert_true(scsi_task_parse(&task));
    execute(&task);
    assert_int_equal(task.status, SCSI_GOOD);
    assert_int_equal(get_be16(&buffer[12]), SENSE_LUN_NOT_SUPPORTED);
}

static void unit_attention_is_told_once(void **state)
{
    (void)state;
    nexus.unit_attention = SENSE_POWER_ON_OCCURRED;
    struct scsi_task task = COMMAND(255, 0x12, 0, 0, 0, 255, 0);
    assert_int_equal(task.status, SCSI_GOOD);
    task = COMMAND(0, 0x00, 0, 0, 0, 0, 0);
    assert_sense(&task, SENSE_UNIT_ATTENTION, SENSE_POWER_ON_OCCURRED);
    task = COMMAND(0, 0x00, 0, 0, 0, 0, 0);
    assert_int_equal(task.status, SCSI_GOOD);
}

/* SBC-4, section 4.10: each session hears of it once, and READ CAPACITY has the new size by then. */
static void growth_is_told_once(void **state)
{
    struct scsi_nexus other = nexus;
    (void)state;
    nexus.unit_attention = SENSE_POWER_ON_OCCURRED;
    unit.blocks = BLOCKS + 8;
    struct scsi_task task = COMMAND(255, 0x12, 0, 0, 0, 255, 0);
    assert_int_equal(task.status, SCSI_GOOD);
    task = COMMAND(0, 0x00, 0, 0, 0, 0, 0);
    assert_sense(&task, SENSE_UNIT_ATTENTION, SENSE_POWER_ON_OCCURRED);
    task = COMMAND(0, 0x00, 0, 0, 0, 0, 0);
    assert_sense(&task, SENSE_UNIT_ATTENTION, SENSE_CAPACITY_CHANGED);
    task = COMMAND(8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(task.status, SCSI_GOOD);
    assert_int_equal(get_be32(buffer), BLOCKS + 7);
    nexus = other; /* another session, which asks by REQUEST SENSE */
    task = COMMAND(18, 0x03, 0, 0, 0, 18, 0);
    assert_int_equal(task.status, SCSI_GOOD);
    assert_int_equal(get_be16(&buffer[12]), SENSE_CAPACITY_CHANGED);
    task = COMMAND(0, 0x00, 0, 0, 0, 0, 0);
    assert_int_equal(task.status, SCSI_GOOD);
    unit.blocks = BLOCKS;
}

/* What counts against a volume's limits, and with how many bytes. */
static void limits_are_for_the_medium(void **state)
{
    (void)state;
    struct scsi_task task = COMMAND(2 * BLOCK, 0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0);
    assert_true(scsi_task_limited(&task));
    assert_int_equal(scsi_task_limited_bytes(&task), 2 * BLOCK);
    task = COMMAND(0, 0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0); /* SYNCHRONIZE CACHE */
    assert_false(scsi_task_limited(&task));
    task = COMMAND(8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_false(scsi_task_limited(&task));
    task = COMMAND(0, 0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0); /* UNMAP */
    assert_true(scsi_task_limited(&task));
    assert_false(scsi_task_limited_by_data(&task));
    assert_int_equal(scsi_task_limited_bytes(&task), 0);
    /* WRITE SAME: what it writes, which depends on its block. */
    memset(buffer, 0, BLOCK);
    task = COMMAND(BLOCK, 0x41, 0, 0, 0, 0, 0, 0, 0, 100, 0);
    assert_true(scsi_task_limited(&task));
    assert_true(scsi_task_limited_by_data(&task));
    assert_int_equal(scsi_task_limited_bytes(&task), 0);
    buffer[BLOCK - 1] = 1;
    assert_int_equal(scsi_task_limited_bytes(&task), 100 * BLOCK);
    task.data_size = 0; /* not here yet */
    assert_int_equal(scsi_task_limited_bytes(&task), 0);
    task = COMMAND(0, 0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0); /* UNMAP, NDOB */
    assert_true(scsi_task_limited(&task));
    assert_false(scsi_task_limited_by_data(&task));
    assert_int_equal(scsi_task_limited_bytes(&task), 0);
}

static void luns_and_unknown_commands(void **state)
{
    (void)state;
    struct scsi_task task = COMMAND(16, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0);
    assert_int_equal(task.data_in_length, 16);
    assert_int_equal(get_be32(buffer), 8);
    task = COMMAND(0, 0xff);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_OPCODE);
    task = COMMAND(0, 0x9e, 0x1f);
    assert_sense(&task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(read_and_write_of_every_length, setup),
        cmocka_unit_test_setup(read6_of_zero_is_256_blocks, setup),
        cmocka_unit_test_setup(ranges_are_checked_without_overflow, setup),
        cmocka_unit_test_setup(fua_and_write_through_make_writes_stable, setup),
        cmocka_unit_test_setup(a_read_only_nexus_changes_nothing, setup),
        cmocka_unit_test_setup(results_become_sense, setup),
        cmocka_unit_test_setup(short_data_moves_whole_blocks_only, setup),
        cmocka_unit_test_setup(synchronize_cache_flushes, setup),
        cmocka_unit_test_setup(write_same_zeroes_unmaps_and_repeats, setup),
        cmocka_unit_test_setup(unmap_is_checked_whole_before_it_begins, setup),
        cmocka_unit_test_setup(lba_status_tells_extents, setup),
        cmocka_unit_test_setup(a_thick_unit_is_resource_provisioned, setup),
        cmocka_unit_test_setup(capacity_is_told_in_both_sizes, setup),
        cmocka_unit_test_setup(inquiry_and_its_pages, setup),
        cmocka_unit_test_setup(mode_sense_tells_the_write_cache, setup),
        cmocka_unit_test_setup(a_unit_that_is_not_there, setup),
        cmocka_unit_test_setup(unit_attention_is_told_once, setup),
        cmocka_unit_test_setup(growth_is_told_once, setup),
        cmocka_unit_test_setup(limits_are_for_the_medium, setup),
        cmocka_unit_test_setup(luns_and_unknown_commands, setup),
    };
    return cmocka_run_group_tests_name("scsi_commands", tests, NULL, NULL);
}
