/*
 * Builds the PDUs of a target, field by field as RFC 7143, section 11, draws them. Pure; runs on the
 * connection's loop. Called by target's connections and by login.
 */
#include "datapath/iscsi/response.h"

#include <string.h>

#include "datapath/iscsi/pdu.h"

/* The numbers lie at the same place in every PDU of a target. */
static void start(union iscsi_bhs *bhs, enum iscsi_opcode opcode, uint8_t flags, uint32_t task_tag,
                  const struct iscsi_numbers *numbers)
{
    memset(bhs, 0, sizeof(*bhs));
    bhs->any.opcode = (uint8_t)opcode;
    bhs->any.flags = flags;
    bhs->any.task_tag = iscsi_be32(task_tag);
    bhs->nop_in.stat_sn = iscsi_be32(numbers->stat_sn);
    bhs->nop_in.exp_cmd_sn = iscsi_be32(numbers->exp_cmd_sn);
    bhs->nop_in.max_cmd_sn = iscsi_be32(numbers->max_cmd_sn);
}

void iscsi_response_scsi(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, uint32_t task_tag,
                         enum iscsi_scsi_response_code response, uint8_t status, uint32_t exp_data_sn,
                         struct iscsi_residual residual, uint32_t data_length)
{
    start(bhs, ISCSI_OP_SCSI_RESPONSE, ISCSI_FINAL | residual.flag, task_tag, numbers);
    bhs->scsi_response.response = (uint8_t)response;
    bhs->scsi_response.status = status;
    bhs->scsi_response.exp_data_sn = iscsi_be32(exp_data_sn);
    bhs->scsi_response.residual = iscsi_be32(residual.count);
    bhs->scsi_response.data_length = iscsi_be24(data_length);
}

void iscsi_response_data_in(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, uint32_t task_tag,
                            bool final, uint32_t data_sn, uint32_t buffer_offset, uint32_t data_length)
{
    start(bhs, ISCSI_OP_DATA_IN, final ? ISCSI_FINAL : 0, task_tag, numbers);
    bhs->data_in.transfer_tag = iscsi_be32(ISCSI_TAG_NONE);
    bhs->data_in.stat_sn = iscsi_be32(0); /* reserved without status */
    bhs->data_in.data_sn = iscsi_be32(data_sn);
    bhs->data_in.buffer_offset = iscsi_be32(buffer_offset);
    bhs->data_in.data_length = iscsi_be24(data_length);
}

void iscsi_response_data_in_status(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers,
                                   uint32_t task_tag, uint8_t status, uint32_t data_sn,
                                   uint32_t buffer_offset, uint32_t data_length,
                                   struct iscsi_residual residual)
{
    iscsi_response_data_in(bhs, numbers, task_tag, true, data_sn, buffer_offset, data_length);
    bhs->data_in.flags |= ISCSI_DATA_IN_STATUS | residual.flag;
    bhs->data_in.stat_sn = iscsi_be32(numbers->stat_sn);
    bhs->data_in.status = status;
    bhs->data_in.residual = iscsi_be32(residual.count);
}

void iscsi_response_r2t(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, const uint8_t lun[8],
                        uint32_t task_tag, uint32_t transfer_tag, uint32_t r2t_sn, uint32_t buffer_offset,
                        uint32_t desired_length)
{
    start(bhs, ISCSI_OP_R2T, ISCSI_FINAL, task_tag, numbers);
    memcpy(bhs->r2t.lun, lun, sizeof(bhs->r2t.lun));
    bhs->r2t.transfer_tag = iscsi_be32(transfer_tag);
    bhs->r2t.r2t_sn = iscsi_be32(r2t_sn);
    bhs->r2t.buffer_offset = iscsi_be32(buffer_offset);
    bhs->r2t.desired_length = iscsi_be32(desired_length);
}

void iscsi_response_tmf(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, uint32_t task_tag,
                        enum iscsi_tmf_response_code response)
{
    start(bhs, ISCSI_OP_TMF_RESPONSE, ISCSI_FINAL, task_tag, numbers);
    bhs->tmf_response.response = (uint8_t)response;
}

void iscsi_response_nop_in(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, const uint8_t lun[8],
                           uint32_t task_tag, uint32_t data_length)
{
    start(bhs, ISCSI_OP_NOP_IN, ISCSI_FINAL, task_tag, numbers);
    memcpy(bhs->nop_in.lun, lun, sizeof(bhs->nop_in.lun));
    bhs->nop_in.transfer_tag = iscsi_be32(ISCSI_TAG_NONE);
    bhs->nop_in.data_length = iscsi_be24(data_length);
}

void iscsi_response_ping(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, const uint8_t lun[8],
                         uint32_t transfer_tag)
{
    iscsi_response_nop_in(bhs, numbers, lun, ISCSI_TAG_NONE, 0);
    bhs->nop_in.transfer_tag = iscsi_be32(transfer_tag);
}

void iscsi_response_text(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, const uint8_t lun[8],
                         uint32_t task_tag, uint32_t transfer_tag, uint8_t flags, uint32_t data_length)
{
    start(bhs, ISCSI_OP_TEXT_RESPONSE, flags, task_tag, numbers);
    memcpy(bhs->text_response.lun, lun, sizeof(bhs->text_response.lun));
    bhs->text_response.transfer_tag = iscsi_be32(transfer_tag);
    bhs->text_response.data_length = iscsi_be24(data_length);
}

void iscsi_response_logout(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers, uint32_t task_tag,
                           enum iscsi_logout_response_code response, uint16_t time2wait, uint16_t time2retain)
{
    start(bhs, ISCSI_OP_LOGOUT_RESPONSE, ISCSI_FINAL, task_tag, numbers);
    bhs->logout_response.response = (uint8_t)response;
    bhs->logout_response.time2wait = iscsi_be16(time2wait);
    bhs->logout_response.time2retain = iscsi_be16(time2retain);
}

void iscsi_response_reject(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers,
                           enum iscsi_reject_reason reason)
{
    start(bhs, ISCSI_OP_REJECT, ISCSI_FINAL, ISCSI_TAG_NONE, numbers);
    bhs->reject.reason = (uint8_t)reason;
    bhs->reject.data_length = iscsi_be24(ISCSI_BHS_SIZE);
}

void iscsi_response_login(union iscsi_bhs *bhs, const struct iscsi_numbers *numbers,
                          const union iscsi_bhs *login_request, uint16_t tsih, uint8_t flags, uint16_t status,
                          uint32_t data_length)
{
    start(bhs, ISCSI_OP_LOGIN_RESPONSE, flags, iscsi_bhs_task_tag(login_request), numbers);
    memcpy(bhs->login_response.isid, login_request->login_request.isid, sizeof(bhs->login_response.isid));
    bhs->login_response.tsih = iscsi_be16(tsih);
    bhs->login_response.status_class = (uint8_t)(status >> 8);
    bhs->login_response.status_detail = (uint8_t)status;
    bhs->login_response.data_length = iscsi_be24(data_length);
}

size_t iscsi_response_seal(struct iscsi_pdu_header *header, bool header_digest)
{
    if (!header_digest)
        return ISCSI_BHS_SIZE;
    iscsi_crc32c_store(iscsi_crc32c(header->bhs.bytes, ISCSI_BHS_SIZE), header->digest);
    return ISCSI_BHS_SIZE + ISCSI_DIGEST_SIZE;
}

void iscsi_response_data_digest(const struct iovec *data, size_t count, uint8_t ret_digest[ISCSI_DIGEST_SIZE])
{
    static const uint8_t zeros[3];
    uint32_t crc = ISCSI_CRC32C_START;
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        crc = iscsi_crc32c_add(crc, data[i].iov_base, data[i].iov_len);
        size += data[i].iov_len;
    }
    crc = iscsi_crc32c_add(crc, zeros, -size & 3);
    iscsi_crc32c_store(iscsi_crc32c_finish(crc), ret_digest);
}
