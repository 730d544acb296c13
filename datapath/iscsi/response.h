/*
 * Building the PDUs that a target sends (RFC 7143, section 11) into a header of 48 bytes, with its digest
 * behind it. The caller sends: seal()'s bytes, the data, padding zeros, and the data digest, in one gather
 * list. No I/O, no allocation; the whole header is written, nothing of what it held before stays.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "datapath/iscsi/bhs.h"
#include "datapath/iscsi/crc32c.h"

/* A BHS and its digest, contiguous, so that one entry of a gather list sends both. */
struct iscsi_pdu_header {
    union iscsi_bhs bhs;
    uint8_t digest[ISCSI_DIGEST_SIZE];
};

/* The session's numbers as they are when the PDU is sent. The caller advances stat_sn after a PDU that
 * consumes it (RFC 7143, section 4.2.2.2): each below says whether it does. */
struct iscsi_numbers {
    uint32_t stat_sn;
    uint32_t exp_cmd_sn;
    uint32_t max_cmd_sn;
};

/* Which way the transfer missed the expected length, and by how much: ISCSI_RESIDUAL_OVERFLOW, _UNDERFLOW or
 * 0. */
struct iscsi_residual {
    uint8_t flag;
    uint32_t count;
};

static inline struct iscsi_residual iscsi_residual(uint64_t expected, uint64_t available)
{
    if (available > expected)
        return (struct iscsi_residual){ISCSI_RESIDUAL_OVERFLOW, available - expected > UINT32_MAX
                                                                    ? UINT32_MAX
                                                                    : (uint32_t)(available - expected)};
    if (available < expected)
        return (struct iscsi_residual){ISCSI_RESIDUAL_UNDERFLOW, (uint32_t)(expected - available)};
    return (struct iscsi_residual){0, 0};
}

/* SCSI Response, consumes StatSN. data_length: 2 + sense bytes, or 0. exp_data_sn: Data-In and R2T PDUs sent.
 */
void iscsi_response_scsi(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, uint32_t task_tag,
                         enum iscsi_scsi_response_code response, uint8_t status, uint32_t exp_data_sn,
                         struct iscsi_residual residual, uint32_t data_length);

/* Data-In without status: consumes no StatSN. final: the last PDU of its sequence. */
void iscsi_response_data_in(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, uint32_t task_tag,
                            bool final, uint32_t data_sn, uint32_t buffer_offset, uint32_t data_length);

/* The last Data-In, with status (GOOD or another without sense): consumes StatSN and takes the SCSI
 * Response's place. */
void iscsi_response_data_in_status(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers,
                                   uint32_t task_tag, uint8_t status, uint32_t data_sn,
                                   uint32_t buffer_offset, uint32_t data_length,
                                   struct iscsi_residual residual);

/* R2T: carries the next StatSN, consumes none. */
void iscsi_response_r2t(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, const uint8_t lun[8],
                        uint32_t task_tag, uint32_t transfer_tag, uint32_t r2t_sn, uint32_t buffer_offset,
                        uint32_t desired_length);

/* Task management response, consumes StatSN. */
void iscsi_response_tmf(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, uint32_t task_tag,
                        enum iscsi_tmf_response_code response);

/* NOP-In that answers a NOP-Out with a task tag: consumes StatSN. */
void iscsi_response_nop_in(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, const uint8_t lun[8],
                           uint32_t task_tag, uint32_t data_length);

/* NOP-In as a question of ours (transfer_tag not ISCSI_TAG_NONE), or to tell the numbers: consumes none. */
void iscsi_response_ping(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, const uint8_t lun[8],
                         uint32_t transfer_tag);

/* Text response, consumes StatSN. flags: ISCSI_FINAL or ISCSI_TEXT_CONTINUE or 0. With FINAL, transfer_tag is
 * ISCSI_TAG_NONE. */
void iscsi_response_text(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, const uint8_t lun[8],
                         uint32_t task_tag, uint32_t transfer_tag, uint8_t flags, uint32_t data_length);

/* Logout response, consumes StatSN. Times in seconds. */
void iscsi_response_logout(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, uint32_t task_tag,
                           enum iscsi_logout_response_code response, uint16_t time2wait,
                           uint16_t time2retain);

/* Reject, consumes StatSN. Its data are the header of the PDU that is refused: ISCSI_BHS_SIZE bytes. */
void iscsi_response_reject(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers,
                           enum iscsi_reject_reason reason);

/* Login response. flags: stages and ISCSI_LOGIN_TRANSIT; status: enum iscsi_login_status (iscsi/login.h). */
void iscsi_response_login(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers,
                          const union iscsi_bhs *login_request, uint16_t tsih, uint8_t flags, uint16_t status,
                          uint32_t data_length);

/* Put the header digest if there is one. How many bytes to send: 48 or 52. */
size_t iscsi_response_seal(struct iscsi_pdu_header *header, bool header_digest);

/* The data digest over the gather list and the padding zeros that follow it. */
void iscsi_response_data_digest(const struct iovec *data, size_t count,
                                uint8_t ret_digest[ISCSI_DIGEST_SIZE]);
