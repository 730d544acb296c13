/*
 * Fuzzes the PDU reader: the first two bytes choose digests, the size of the pieces and of the buffers; the
 * rest is the stream. The same stream in one piece must give the same events and data.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "datapath/iscsi/crc32c.h"
#include "datapath/iscsi/pdu.h"

#define MAX_DATA 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a run saw, boiled down. */
struct outcome {
    uint32_t events;
    uint32_t data;
    enum iscsi_pdu_event last;
};

static void note(struct outcome *outcome, enum iscsi_pdu_event event, const struct iscsi_pdu_reader *reader)
{
    uint8_t letter = (uint8_t)event;
    outcome->events = iscsi_crc32c_add(outcome->events, &letter, 1);
    if (event == ISCSI_PDU_HEADER) {
        outcome->events = iscsi_crc32c_add(outcome->events, reader->ahs, reader->ahs_size);
        outcome->events = iscsi_crc32c_add(outcome->events, reader->bhs.bytes, ISCSI_BHS_SIZE);
        assert(reader->data_size <= MAX_DATA);
    }
}

/* One stream, in pieces of piece bytes, its data into buffers of room bytes from the heap. */
static struct outcome run(const uint8_t *stream, size_t size, unsigned digests, size_t piece, size_t room)
{
    struct iscsi_pdu_reader reader;
    struct outcome outcome = {0};
    uint8_t *buffer = NULL;
    size_t given = 0, at = 0;
    iscsi_pdu_reader_init(&reader, MAX_DATA);
    iscsi_pdu_reader_configure(&reader, MAX_DATA, digests & 1, digests & 2);
    for (;;) {
        size_t used = 0, length = size - at < piece ? size - at : piece;
        outcome.last = iscsi_pdu_reader_feed(&reader, stream + at, length, &used);
        assert(used <= length);
        at += used;
        if (outcome.last == ISCSI_PDU_NEED_BYTES) {
            assert(used == length);
            if (at == size)
                break;
            continue;
        }
        bool buffer_full = outcome.last == ISCSI_PDU_NEED_BUFFER;
        bool whole = outcome.last == ISCSI_PDU_COMPLETE || outcome.last == ISCSI_PDU_DATA_DIGEST_ERROR;
        if ((buffer_full || whole) && buffer != NULL) {
            size_t filled = buffer_full ? given : (reader.data_size - 1) % given + 1;
            outcome.data = iscsi_crc32c_add(outcome.data, buffer, filled);
            free(buffer);
            buffer = NULL;
        }
        if (!buffer_full)
            note(&outcome, outcome.last, &reader);
        if (buffer_full || (outcome.last == ISCSI_PDU_HEADER && reader.data_size > 0)) {
            given = room < MAX_DATA ? room : MAX_DATA;
            buffer = malloc(given);
            assert(buffer != NULL);
            iscsi_pdu_reader_set_buffer(&reader, buffer, given);
        } else if (outcome.last >= ISCSI_PDU_HEADER_DIGEST_ERROR) {
            break;
        }
    }
    free(buffer);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    unsigned digests = data[0] & 3;
    size_t piece = 1 + (data[0] >> 2), room = 1 + data[1];
    struct outcome in_pieces = run(data + 2, size - 2, digests, piece, room);
    struct outcome whole = run(data + 2, size - 2, digests, SIZE_MAX, MAX_DATA);
    assert(in_pieces.events == whole.events && in_pieces.last == whole.last);
    /* Data of a last PDU that is cut short were seen in part only. */
    if (in_pieces.last >= ISCSI_PDU_HEADER_DIGEST_ERROR)
        assert(in_pieces.data == whole.data);
    return 0;
}
