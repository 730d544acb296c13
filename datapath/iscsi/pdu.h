/*
 * Reading PDUs from a stream of bytes (RFC 7143, section 11.2). No I/O, no allocation: the caller feeds what
 * it received, in pieces of any size, and each feed ends with an event. Both roles may use it. One thread at
 * a time.
 *
 *   NEED_BYTES         all bytes are used: receive more
 *   HEADER             bhs, AHS and the header digest are good. If data_size is not 0: give a buffer by
 *                      iscsi_pdu_reader_set_buffer(), or drop the data
 *   NEED_BUFFER        the buffer is full and data are left: give the next
 *   COMPLETE           the data are where they belong, their digest is good; next comes another PDU
 *   DATA_DIGEST_ERROR  as COMPLETE, but the data are not what was sent
 *   the others         the stream is lost: close the connection
 *
 * HEADER comes for each PDU, COMPLETE after it for each PDU, also for those without data. bhs and the AHS
 * stay valid from HEADER until the feed after COMPLETE.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datapath/iscsi/bhs.h"

/* An extended CDB of 260 bytes and a bidirectional read length: no command needs more. */
#define ISCSI_AHS_MAX 256
#define ISCSI_LOGIN_DATA_MAX 8192 /* MaxRecvDataSegmentLength until the full feature phase */

enum iscsi_pdu_event {
    ISCSI_PDU_NEED_BYTES,
    ISCSI_PDU_HEADER,
    ISCSI_PDU_NEED_BUFFER,
    ISCSI_PDU_COMPLETE,
    ISCSI_PDU_DATA_DIGEST_ERROR,
    ISCSI_PDU_HEADER_DIGEST_ERROR, /* fatal: where the next PDU begins is not known */
    ISCSI_PDU_FORMAT_ERROR,        /* fatal: AHS that do not add up */
    ISCSI_PDU_TOO_LARGE,           /* fatal: AHS above ISCSI_AHS_MAX or data above max_data_size */
};

enum iscsi_pdu_step {
    ISCSI_PDU_STEP_BHS,
    ISCSI_PDU_STEP_AHS,
    ISCSI_PDU_STEP_HEADER_DIGEST,
    ISCSI_PDU_STEP_HEADER_GIVEN,
    ISCSI_PDU_STEP_DATA,
    ISCSI_PDU_STEP_PAD,
    ISCSI_PDU_STEP_DATA_DIGEST,
    ISCSI_PDU_STEP_FAILED,
};

/* Embedded in its owner. The first members are for the caller to read, the rest is the reader's. */
struct iscsi_pdu_reader {
    union iscsi_bhs bhs;
    uint8_t ahs[ISCSI_AHS_MAX];
    uint32_t ahs_size;  /* bytes */
    uint32_t data_size; /* bytes of the data segment, without padding */

    uint32_t max_data_size;
    bool header_digest;
    bool data_digest;
    enum iscsi_pdu_step step;
    enum iscsi_pdu_event failure; /* in ISCSI_PDU_STEP_FAILED: what every further feed returns */
    uint32_t filled;              /* bytes of this step's part that are here */
    uint32_t crc;                 /* of the part that a digest follows */
    uint8_t *buffer;              /* where data go; NULL with buffer_size: dropped */
    uint32_t buffer_size;         /* what is left of it */
    uint8_t digest[ISCSI_DIGEST_SIZE];
};

/* Digests off, as a connection begins. max_data_size: our MaxRecvDataSegmentLength (ISCSI_LOGIN_DATA_MAX at
 * first). */
void iscsi_pdu_reader_init(struct iscsi_pdu_reader *reader, uint32_t max_data_size);

/* After login, before the first byte of the next PDU was fed. */
void iscsi_pdu_reader_configure(struct iscsi_pdu_reader *reader, uint32_t max_data_size, bool header_digest,
                                bool data_digest);

/*
 * Take bytes up to the next event. *ret_used is how many were taken, in every case. Call it again at once
 * after any event but NEED_BYTES and the fatal ones, also with length 0: an event may be due without a
 * further byte.
 */
enum iscsi_pdu_event iscsi_pdu_reader_feed(struct iscsi_pdu_reader *reader, const void *bytes, size_t length,
                                           size_t *ret_used);

/*
 * Where the data segment (or what is left of it) goes: after HEADER with data_size > 0, and after
 * NEED_BUFFER. The buffer is the caller's and must live until COMPLETE or the next NEED_BUFFER; size may be
 * less or more than is left. With buffer NULL, size bytes are dropped (their digest is checked all the same).
 */
void iscsi_pdu_reader_set_buffer(struct iscsi_pdu_reader *reader, void *buffer, size_t size);

/* Drop what is left of the data segment. */
void iscsi_pdu_reader_drop_data(struct iscsi_pdu_reader *reader);

/* Between PDUs: nothing of a next one was fed. */
bool iscsi_pdu_reader_idle(const struct iscsi_pdu_reader *reader);

static inline uint32_t iscsi_pdu_pad(uint32_t size)
{
    return -size & 3;
}
