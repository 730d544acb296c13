/* Tests of the PDU reader: golden streams at every split point, digests bit by bit, limits, buffers in
 * pieces. */
#include "tests/unit/iscsi_test.h"

#include "common/cleanup.h"
#include "datapath/iscsi/crc32c.h"
#include "datapath/iscsi/pdu.h"

#define MAX_DATA 64
#define STREAM_MAX 512

/* The READ(10) of RFC 3720, appendix B.4, whose digest is given there. */
static const char read_command[] =
    "01 c0 00 00 00 00 00 00  00 00 00 00 00 00 00 00  14 00 00 00 00 00 04 00"
    "00 00 00 14 00 00 00 18  28 00 00 00 00 00 00 00  02 00 00 00 00 00 00 00";
static const char read_command_digest[] = "56 3a 96 d9";

/* A write with a CDB of 20 bytes (AHS: length 5, type 1, reserved, four bytes) and 13 bytes of immediate
 * data. */
static const char write_command[] =
    "41 a1 00 00 02 00 00 0d  00 00 00 00 00 00 00 00  00 00 00 07 00 00 00 0d"
    "00 00 00 15 00 00 00 19  7f 00 01 02 03 04 05 06  07 08 09 0a 0b 0c 0d 0e"
    "00 05 01 00 a1 a2 a3 a4";
static const char write_data[] = "thirteen byte";

static const char nop_out[] = "40 80 00 00 00 00 00 00  00 00 00 00 00 00 00 00  ff ff ff ff 00 00 00 2a"
                              "00 00 00 16 00 00 00 1a  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00";

struct stream {
    uint8_t bytes[STREAM_MAX];
    size_t length;
    size_t data_at; /* where the write's data begin */
};

static void add(struct stream *stream, const void *bytes, size_t length)
{
    memcpy(stream->bytes + stream->length, bytes, length);
    stream->length += length;
}

static void add_digest(struct stream *stream, size_t from)
{
    uint8_t digest[ISCSI_DIGEST_SIZE];
    iscsi_crc32c_store(iscsi_crc32c(stream->bytes + from, stream->length - from), digest);
    add(stream, digest, sizeof(digest));
}

/* Read, write, NOP-Out. */
static void make_stream(struct stream *stream, bool header_digest, bool data_digest)
{
    memset(stream, 0, sizeof(*stream));
    stream->length = iscsi_test_hex(read_command, stream->bytes);
    if (header_digest)
        stream->length += iscsi_test_hex(read_command_digest, stream->bytes + stream->length);
    size_t write_at = stream->length;
    stream->length += iscsi_test_hex(write_command, stream->bytes + stream->length);
    if (header_digest)
        add_digest(stream, write_at);
    stream->data_at = stream->length;
    add(stream, write_data, 13);
    add(stream, "\0\0\0", 3);
    if (data_digest)
        add_digest(stream, stream->data_at);
    size_t nop_at = stream->length;
    stream->length += iscsi_test_hex(nop_out, stream->bytes + stream->length);
    if (header_digest)
        add_digest(stream, nop_at);
}

/* What a run of a stream gave: a letter per event, and the data. */
struct record {
    char events[64];
    size_t count;
    uint8_t data[MAX_DATA];
    uint8_t ahs[32];
    size_t ahs_size;
};

static char letter(enum iscsi_pdu_event event)
{
    switch (event) {
    case ISCSI_PDU_NEED_BYTES:
        return 'n';
    case ISCSI_PDU_HEADER:
        return 'H';
    case ISCSI_PDU_NEED_BUFFER:
        return 'B';
    case ISCSI_PDU_COMPLETE:
        return 'C';
    case ISCSI_PDU_DATA_DIGEST_ERROR:
        return 'd';
    case ISCSI_PDU_HEADER_DIGEST_ERROR:
        return 'h';
    case ISCSI_PDU_FORMAT_ERROR:
        return 'f';
    case ISCSI_PDU_TOO_LARGE:
        return 'l';
    }
    return '?';
}

static bool fatal(enum iscsi_pdu_event event)
{
    return event >= ISCSI_PDU_HEADER_DIGEST_ERROR;
}

/* Feed one piece, from a copy of exactly its size, so that ASan sees a read beyond. False once the stream is
 * lost. */
static bool feed(struct iscsi_pdu_reader *reader, struct record *record, const uint8_t *bytes, size_t length)
{
    uint8_t *copy = malloc(length + (length == 0));
    if (length > 0)
        memcpy(copy, bytes, length);
    size_t at = 0;
    enum iscsi_pdu_event event;
    do {
        size_t used = SIZE_MAX;
        event = iscsi_pdu_reader_feed(reader, copy + at, length - at, &used);
        assert_true(used <= length - at);
        at += used;
        if (event == ISCSI_PDU_NEED_BYTES)
            break;
        assert_true(record->count < sizeof(record->events) - 1);
        record->events[record->count++] = letter(event);
        if (event == ISCSI_PDU_HEADER && reader->data_size > 0) {
            assert_true(reader->ahs_size <= sizeof(record->ahs));
            record->ahs_size = reader->ahs_size;
            memcpy(record->ahs, reader->ahs, reader->ahs_size);
            iscsi_pdu_reader_set_buffer(reader, record->data, sizeof(record->data));
        }
    } while (!fatal(event));
    if (event == ISCSI_PDU_NEED_BYTES)
        assert_int_equal(at, length);
    free(copy);
    return !fatal(event);
}

static void check_whole(const struct record *record, const struct iscsi_pdu_reader *reader)
{
    static const uint8_t ahs[] = {0, 5, 1, 0, 0xa1, 0xa2, 0xa3, 0xa4};
    assert_string_equal(record->events, "HCHCHC");
    assert_memory_equal(record->data, write_data, 13);
    assert_int_equal(record->ahs_size, sizeof(ahs));
    assert_memory_equal(record->ahs, ahs, sizeof(ahs));
    assert_true(iscsi_pdu_reader_idle(reader));
    assert_int_equal(iscsi_bhs_opcode(&reader->bhs), ISCSI_OP_NOP_OUT);
    assert_int_equal(iscsi_be32_get(reader->bhs.nop_out.cmd_sn), 0x16);
}

static void start(struct iscsi_pdu_reader *reader, struct record *record, bool header_digest,
                  bool data_digest)
{
    memset(record, 0, sizeof(*record));
    iscsi_pdu_reader_init(reader, MAX_DATA);
    iscsi_pdu_reader_configure(reader, MAX_DATA, header_digest, data_digest);
}

static void test_every_split(void **state)
{
    (void)state;
    for (unsigned digests = 0; digests < 4; digests++) {
        struct stream stream;
        struct iscsi_pdu_reader reader;
        struct record record;
        make_stream(&stream, digests & 1, digests & 2);
        for (size_t split = 0; split <= stream.length; split++) {
            start(&reader, &record, digests & 1, digests & 2);
            assert_true(feed(&reader, &record, stream.bytes, split));
            assert_true(feed(&reader, &record, stream.bytes + split, stream.length - split));
            check_whole(&record, &reader);
        }
        for (size_t size = 1; size < stream.length; size++) {
            start(&reader, &record, digests & 1, digests & 2);
            for (size_t at = 0; at < stream.length; at += size)
                assert_true(feed(&reader, &record, stream.bytes + at,
                                 size < stream.length - at ? size : stream.length - at));
            check_whole(&record, &reader);
        }
    }
}

static void test_random_splits(void **state)
{
    (void)state;
    uint64_t seed = iscsi_test_seed();
    struct stream stream;
    make_stream(&stream, true, true);
    for (unsigned run = 0; run < 2000; run++) {
        struct iscsi_pdu_reader reader;
        struct record record;
        start(&reader, &record, true, true);
        for (size_t at = 0; at < stream.length;) {
            size_t size = iscsi_test_random(&seed) % 40;
            if (size > stream.length - at)
                size = stream.length - at;
            assert_true(feed(&reader, &record, stream.bytes + at, size));
            at += size;
        }
        check_whole(&record, &reader);
    }
}

/* need() is never more than what makes the next event: fed exactly that, the stream passes without a byte too
 * many. */
static void test_header_digest_covers_every_bit(void **state)
{
    (void)state;
    struct stream stream;
    make_stream(&stream, true, true);
    for (size_t bit = 0; bit < (ISCSI_BHS_SIZE + ISCSI_DIGEST_SIZE) * 8; bit++) {
        struct iscsi_pdu_reader reader;
        struct record record;
        start(&reader, &record, true, true);
        stream.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        /* All of the buffer: a wrong AHS length asks for more than the stream has. */
        bool lives = feed(&reader, &record, stream.bytes, STREAM_MAX);
        stream.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(lives);
        /* A wrong AHS length may be refused for its size before the digest is reached. */
        assert_true(record.events[0] == 'h' || (bit / 8 == 4 && record.events[0] == 'l'));
        size_t used;
        assert_int_equal(iscsi_pdu_reader_feed(&reader, stream.bytes, stream.length, &used), reader.failure);
        assert_int_equal(used, 0);
    }
}

static void test_data_digest_covers_every_bit(void **state)
{
    (void)state;
    struct stream stream;
    make_stream(&stream, true, true);
    for (size_t bit = 0; bit < (16 + ISCSI_DIGEST_SIZE) * 8; bit++) {
        struct iscsi_pdu_reader reader;
        struct record record;
        uint8_t *byte = &stream.bytes[stream.data_at + bit / 8];
        start(&reader, &record, true, true);
        *byte ^= (uint8_t)(1 << bit % 8);
        assert_true(feed(&reader, &record, stream.bytes, stream.length));
        *byte ^= (uint8_t)(1 << bit % 8);
        assert_string_equal(record.events, "HCHdHC");
    }
}

static void test_data_at_the_limit(void **state)
{
    (void)state;
    struct iscsi_pdu_reader reader;
    uint8_t bytes[ISCSI_BHS_SIZE] = {ISCSI_OP_DATA_OUT};
    size_t used;
    bytes[7] = MAX_DATA;
    iscsi_pdu_reader_init(&reader, MAX_DATA);
    assert_int_equal(iscsi_pdu_reader_feed(&reader, bytes, sizeof(bytes), &used), ISCSI_PDU_HEADER);
    bytes[7] = MAX_DATA + 1;
    iscsi_pdu_reader_init(&reader, MAX_DATA);
    assert_int_equal(iscsi_pdu_reader_feed(&reader, bytes, sizeof(bytes), &used), ISCSI_PDU_TOO_LARGE);
    bytes[5] = bytes[6] = bytes[7] = 0xff;
    iscsi_pdu_reader_init(&reader, MAX_DATA);
    assert_int_equal(iscsi_pdu_reader_feed(&reader, bytes, sizeof(bytes), &used), ISCSI_PDU_TOO_LARGE);
}

static enum iscsi_pdu_event feed_ahs(struct iscsi_pdu_reader *reader, unsigned words, const char *hex)
{
    uint8_t bytes[ISCSI_BHS_SIZE + 1024] = {ISCSI_OP_SCSI_COMMAND};
    bytes[4] = (uint8_t)words;
    iscsi_test_hex(hex, bytes + ISCSI_BHS_SIZE);
    size_t used;
    iscsi_pdu_reader_init(reader, MAX_DATA);
    return iscsi_pdu_reader_feed(reader, bytes, ISCSI_BHS_SIZE + words * 4, &used);
}

static void test_ahs_that_do_not_add_up(void **state)
{
    (void)state;
    struct iscsi_pdu_reader reader;
    assert_int_equal(feed_ahs(&reader, 1, "00 01 02 00"), ISCSI_PDU_HEADER);
    assert_int_equal(feed_ahs(&reader, 1, "00 02 01 00"), ISCSI_PDU_FORMAT_ERROR);
    assert_int_equal(feed_ahs(&reader, 1, "ff ff 01 00"), ISCSI_PDU_FORMAT_ERROR);
    assert_int_equal(feed_ahs(&reader, 2, "00 01 01 00 ff ff 01 00"), ISCSI_PDU_FORMAT_ERROR);
    assert_int_equal(feed_ahs(&reader, ISCSI_AHS_MAX / 4, "00 fd 01 00"), ISCSI_PDU_HEADER);
    assert_int_equal(feed_ahs(&reader, ISCSI_AHS_MAX / 4 + 1, "00 fd 01 00"), ISCSI_PDU_TOO_LARGE);
    assert_int_equal(feed_ahs(&reader, 255, ""), ISCSI_PDU_TOO_LARGE);
}

/* The write, its data handed on in buffers of 5 bytes, or the first buffer dropped. */
static void test_buffers_in_pieces(void **state)
{
    (void)state;
    for (unsigned size = 1; size <= 13; size++) {
        struct stream stream;
        struct iscsi_pdu_reader reader;
        uint8_t data[16] = {0};
        size_t used, at, given = 0;
        make_stream(&stream, true, true);
        iscsi_pdu_reader_init(&reader, MAX_DATA);
        iscsi_pdu_reader_configure(&reader, MAX_DATA, true, true);
        at = stream.data_at - (ISCSI_BHS_SIZE + 8 + ISCSI_DIGEST_SIZE);
        assert_int_equal(iscsi_pdu_reader_feed(&reader, stream.bytes + at, stream.length - at, &used),
                         ISCSI_PDU_HEADER);
        at += used;
        assert_int_equal(at, stream.data_at);
        enum iscsi_pdu_event event;
        while ((event = iscsi_pdu_reader_feed(&reader, stream.bytes + at, stream.length - at, &used)) ==
               ISCSI_PDU_NEED_BUFFER) {
            at += used;
            iscsi_pdu_reader_set_buffer(&reader, data + given, size);
            given += size;
        }
        assert_int_equal(event, ISCSI_PDU_COMPLETE);
        assert_memory_equal(data, write_data, 13);
        /* What lies behind the data segment never reaches the buffer. */
        assert_memory_equal(data + 13, "\0\0\0", 3);
    }
}

static void test_dropped_data(void **state)
{
    (void)state;
    struct stream stream;
    struct iscsi_pdu_reader reader;
    uint8_t data[13] = {0};
    size_t used, at = ISCSI_BHS_SIZE + ISCSI_DIGEST_SIZE;
    make_stream(&stream, true, true);
    iscsi_pdu_reader_init(&reader, MAX_DATA);
    iscsi_pdu_reader_configure(&reader, MAX_DATA, true, true);
    assert_int_equal(iscsi_pdu_reader_feed(&reader, stream.bytes + at, stream.length - at, &used),
                     ISCSI_PDU_HEADER);
    at += used;
    iscsi_pdu_reader_set_buffer(&reader, data, 3);
    assert_int_equal(iscsi_pdu_reader_feed(&reader, stream.bytes + at, stream.length - at, &used),
                     ISCSI_PDU_NEED_BUFFER);
    at += used;
    iscsi_pdu_reader_drop_data(&reader);
    assert_int_equal(iscsi_pdu_reader_feed(&reader, stream.bytes + at, stream.length - at, &used),
                     ISCSI_PDU_COMPLETE);
    at += used;
    assert_memory_equal(data, "thi\0\0\0\0\0\0\0\0\0\0", 13);
    assert_int_equal(iscsi_pdu_reader_feed(&reader, stream.bytes + at, stream.length - at, &used),
                     ISCSI_PDU_HEADER);
}

static void test_crc32c_vectors(void **state)
{
    (void)state;
    uint8_t bytes[48];
    uint8_t digest[ISCSI_DIGEST_SIZE], expected[ISCSI_DIGEST_SIZE];
    memset(bytes, 0, 32);
    assert_int_equal(iscsi_crc32c(bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(iscsi_crc32c(bytes, 32), 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = i;
    assert_int_equal(iscsi_crc32c(bytes, 32), 0x46dd794e);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = 31 - i;
    assert_int_equal(iscsi_crc32c(bytes, 32), 0x113fdb5c);
    assert_int_equal(iscsi_crc32c("123456789", 9), 0xe3069283);
    assert_int_equal(iscsi_crc32c_finish(iscsi_crc32c_add_table(ISCSI_CRC32C_START, "123456789", 9)),
                     0xe3069283);
    iscsi_test_hex(read_command, bytes);
    iscsi_test_hex(read_command_digest, expected);
    iscsi_crc32c_store(iscsi_crc32c(bytes, 48), digest);
    assert_memory_equal(digest, expected, sizeof(digest));
}

static void test_crc32c_table_equals_instruction(void **state)
{
    (void)state;
    uint64_t seed = iscsi_test_seed();
    uint8_t bytes[300];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)iscsi_test_random(&seed);
    for (size_t from = 0; from < 9; from++)
        for (size_t length = 0; from + length <= sizeof(bytes); length++) {
            uint32_t start_value = (uint32_t)iscsi_test_random(&seed);
            uint32_t whole = iscsi_crc32c_add(start_value, bytes + from, length);
            assert_int_equal(whole, iscsi_crc32c_add_table(start_value, bytes + from, length));
            size_t split = length == 0 ? 0 : iscsi_test_random(&seed) % length;
            uint32_t parts = iscsi_crc32c_add(start_value, bytes + from, split);
            assert_int_equal(whole, iscsi_crc32c_add(parts, bytes + from + split, length - split));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_split),
        cmocka_unit_test(test_random_splits),
        cmocka_unit_test(test_header_digest_covers_every_bit),
        cmocka_unit_test(test_data_digest_covers_every_bit),
        cmocka_unit_test(test_data_at_the_limit),
        cmocka_unit_test(test_ahs_that_do_not_add_up),
        cmocka_unit_test(test_buffers_in_pieces),
        cmocka_unit_test(test_dropped_data),
        cmocka_unit_test(test_crc32c_vectors),
        cmocka_unit_test(test_crc32c_table_equals_instruction),
    };
    return cmocka_run_group_tests_name("iscsi_pdu", tests, NULL, NULL);
}
