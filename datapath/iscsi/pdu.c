/*
 * Reads PDUs from a stream: BHS, AHS, header digest, data, padding, data digest, in the order of the wire.
 * Owns nothing but the reader that its caller embeds; runs on that caller's thread. Called by target's
 * connections.
 */
#include "datapath/iscsi/pdu.h"

#include <assert.h>
#include <string.h>

#include "common/size.h"
#include "datapath/iscsi/crc32c.h"

#define AHS_HEAD_SIZE 3 /* length and type; what AHSLength does not count */

/* What a feed was given and has used of it. */
struct input {
    const uint8_t *bytes;
    size_t length;
    size_t used;
};

void iscsi_pdu_reader_init(struct iscsi_pdu_reader *reader, uint32_t max_data_size)
{
    memset(reader, 0, sizeof(*reader));
    reader->max_data_size = max_data_size;
}

void iscsi_pdu_reader_configure(struct iscsi_pdu_reader *reader, uint32_t max_data_size, bool header_digest,
                                bool data_digest)
{
    assert(iscsi_pdu_reader_idle(reader));
    reader->max_data_size = max_data_size;
    reader->header_digest = header_digest;
    reader->data_digest = data_digest;
}

static void begin(struct iscsi_pdu_reader *reader, enum iscsi_pdu_step step)
{
    reader->step = step;
    reader->filled = 0;
}

static enum iscsi_pdu_event fail(struct iscsi_pdu_reader *reader, enum iscsi_pdu_event event)
{
    reader->step = ISCSI_PDU_STEP_FAILED;
    reader->failure = event;
    return event;
}

/* Fill a part of size bytes; true once it is whole. */
static bool take(struct iscsi_pdu_reader *reader, struct input *input, uint8_t *part, uint32_t size)
{
    size_t count = MIN((size_t)(size - reader->filled), input->length - input->used);
    if (count > 0)
        memcpy(part + reader->filled, input->bytes + input->used, count);
    input->used += count;
    reader->filled += (uint32_t)count;
    return reader->filled == size;
}

/* Size of the AHS that begins at offset, padding included; 0 when it does not lie within the whole. */
static uint32_t ahs_size_at(const struct iscsi_pdu_reader *reader, uint32_t offset)
{
    uint32_t left = reader->ahs_size - offset;
    if (left < AHS_HEAD_SIZE)
        return 0;
    uint32_t size = AHS_HEAD_SIZE + ((uint32_t)reader->ahs[offset] << 8 | reader->ahs[offset + 1]);
    size += iscsi_pdu_pad(size);
    return size <= left ? size : 0;
}

static bool ahs_add_up(const struct iscsi_pdu_reader *reader)
{
    uint32_t offset = 0;
    while (offset < reader->ahs_size) {
        uint32_t size = ahs_size_at(reader, offset);
        if (size == 0)
            return false;
        offset += size;
    }
    return true;
}

static bool header_digest_matches(const struct iscsi_pdu_reader *reader)
{
    uint32_t crc = iscsi_crc32c_add(ISCSI_CRC32C_START, reader->bhs.bytes, ISCSI_BHS_SIZE);
    crc = iscsi_crc32c_add(crc, reader->ahs, reader->ahs_size);
    return iscsi_crc32c_finish(crc) == iscsi_crc32c_load(reader->digest);
}

static enum iscsi_pdu_event read_bhs(struct iscsi_pdu_reader *reader, struct input *input)
{
    if (!take(reader, input, reader->bhs.bytes, ISCSI_BHS_SIZE))
        return ISCSI_PDU_NEED_BYTES;
    reader->ahs_size = reader->bhs.any.ahs_words * 4u;
    reader->data_size = iscsi_bhs_data_length(&reader->bhs);
    if (reader->ahs_size > ISCSI_AHS_MAX)
        return fail(reader, ISCSI_PDU_TOO_LARGE);
    begin(reader, ISCSI_PDU_STEP_AHS);
    return ISCSI_PDU_HEADER;
}

/* What the header says is believed only after its digest. */
static enum iscsi_pdu_event read_header_rest(struct iscsi_pdu_reader *reader, struct input *input)
{
    if (reader->step == ISCSI_PDU_STEP_AHS) {
        if (!take(reader, input, reader->ahs, reader->ahs_size))
            return ISCSI_PDU_NEED_BYTES;
        begin(reader, ISCSI_PDU_STEP_HEADER_DIGEST);
    }
    if (reader->header_digest) {
        if (!take(reader, input, reader->digest, ISCSI_DIGEST_SIZE))
            return ISCSI_PDU_NEED_BYTES;
        if (!header_digest_matches(reader))
            return fail(reader, ISCSI_PDU_HEADER_DIGEST_ERROR);
    }
    if (!ahs_add_up(reader))
        return fail(reader, ISCSI_PDU_FORMAT_ERROR);
    if (reader->data_size > reader->max_data_size)
        return fail(reader, ISCSI_PDU_TOO_LARGE);
    begin(reader, ISCSI_PDU_STEP_HEADER_GIVEN);
    reader->buffer = NULL;
    reader->buffer_size = 0;
    reader->crc = ISCSI_CRC32C_START;
    return ISCSI_PDU_HEADER;
}

/* The data in bytes went to the buffer (or nowhere). */
static void advance_data(struct iscsi_pdu_reader *reader, const uint8_t *bytes, uint32_t count)
{
    if (reader->data_digest)
        reader->crc = iscsi_crc32c_add(reader->crc, bytes, count);
    if (reader->buffer != NULL)
        reader->buffer += count;
    reader->buffer_size -= count;
    reader->filled += count;
}

/* COMPLETE stands for "go on" here: the data segment is whole. */
static enum iscsi_pdu_event read_data(struct iscsi_pdu_reader *reader, struct input *input)
{
    while (reader->filled < reader->data_size) {
        if (reader->buffer_size == 0)
            return ISCSI_PDU_NEED_BUFFER;
        if (input->used == input->length)
            return ISCSI_PDU_NEED_BYTES;
        uint32_t count = (uint32_t)MIN((size_t)reader->buffer_size, input->length - input->used);
        const uint8_t *bytes = input->bytes + input->used;
        if (reader->buffer != NULL)
            memcpy(reader->buffer, bytes, count);
        input->used += count;
        advance_data(reader, bytes, count);
    }
    begin(reader, ISCSI_PDU_STEP_PAD);
    return ISCSI_PDU_COMPLETE;
}

static enum iscsi_pdu_event read_data_rest(struct iscsi_pdu_reader *reader, struct input *input)
{
    uint32_t pad = iscsi_pdu_pad(reader->data_size);
    if (reader->step == ISCSI_PDU_STEP_PAD) {
        if (!take(reader, input, reader->digest, pad))
            return ISCSI_PDU_NEED_BYTES;
        if (reader->data_digest)
            reader->crc = iscsi_crc32c_add(reader->crc, reader->digest, pad);
        begin(reader, ISCSI_PDU_STEP_DATA_DIGEST);
    }
    if (reader->data_digest && !take(reader, input, reader->digest, ISCSI_DIGEST_SIZE))
        return ISCSI_PDU_NEED_BYTES;
    begin(reader, ISCSI_PDU_STEP_BHS);
    if (reader->data_digest && iscsi_crc32c_finish(reader->crc) != iscsi_crc32c_load(reader->digest))
        return ISCSI_PDU_DATA_DIGEST_ERROR;
    return ISCSI_PDU_COMPLETE;
}

static enum iscsi_pdu_event run(struct iscsi_pdu_reader *reader, struct input *input)
{
    enum iscsi_pdu_event event = ISCSI_PDU_COMPLETE;
    switch (reader->step) {
    case ISCSI_PDU_STEP_BHS:
        event = read_bhs(reader, input);
        if (event != ISCSI_PDU_HEADER)
            return event;
        return read_header_rest(reader, input);
    case ISCSI_PDU_STEP_AHS:
    case ISCSI_PDU_STEP_HEADER_DIGEST:
        return read_header_rest(reader, input);
    case ISCSI_PDU_STEP_HEADER_GIVEN:
        if (reader->data_size == 0) {
            begin(reader, ISCSI_PDU_STEP_BHS);
            return ISCSI_PDU_COMPLETE;
        }
        begin(reader, ISCSI_PDU_STEP_DATA);
        __attribute__((fallthrough));
    case ISCSI_PDU_STEP_DATA:
        event = read_data(reader, input);
        if (event != ISCSI_PDU_COMPLETE)
            return event;
        return read_data_rest(reader, input);
    case ISCSI_PDU_STEP_PAD:
    case ISCSI_PDU_STEP_DATA_DIGEST:
        return read_data_rest(reader, input);
    case ISCSI_PDU_STEP_FAILED:
        return reader->failure;
    }
    return event;
}

enum iscsi_pdu_event iscsi_pdu_reader_feed(struct iscsi_pdu_reader *reader, const void *bytes, size_t length,
                                           size_t *ret_used)
{
    struct input input = {.bytes = bytes, .length = length};
    enum iscsi_pdu_event event = run(reader, &input);
    *ret_used = input.used;
    return event;
}

static uint32_t data_left(const struct iscsi_pdu_reader *reader)
{
    if (reader->step != ISCSI_PDU_STEP_HEADER_GIVEN && reader->step != ISCSI_PDU_STEP_DATA)
        return 0;
    return reader->data_size - reader->filled;
}

void iscsi_pdu_reader_set_buffer(struct iscsi_pdu_reader *reader, void *buffer, size_t size)
{
    assert(data_left(reader) > 0);
    reader->buffer = buffer;
    reader->buffer_size = (uint32_t)MIN(size, (size_t)data_left(reader));
}

void iscsi_pdu_reader_drop_data(struct iscsi_pdu_reader *reader)
{
    if (data_left(reader) > 0)
        iscsi_pdu_reader_set_buffer(reader, NULL, data_left(reader));
}

bool iscsi_pdu_reader_idle(const struct iscsi_pdu_reader *reader)
{
    return reader->step == ISCSI_PDU_STEP_BHS && reader->filled == 0;
}
