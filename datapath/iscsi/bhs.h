/*
 * The basic header segments of RFC 7143, section 11: layouts, opcodes, flags and codes. Every field is bytes,
 * so that a layout has no alignment and no padding and may lie anywhere in a received buffer; numbers are
 * big-endian and read and written by the accessors below only.
 */
#pragma once

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/bytes.h"

#define ISCSI_BHS_SIZE 48
#define ISCSI_DIGEST_SIZE 4
#define ISCSI_TAG_NONE UINT32_C(0xffffffff) /* no task tag, no transfer tag */

struct iscsi_be16 {
    uint8_t bytes[2];
};
struct iscsi_be24 {
    uint8_t bytes[3];
};
struct iscsi_be32 {
    uint8_t bytes[4];
};

static inline uint16_t iscsi_be16_get(struct iscsi_be16 field)
{
    return get_be16(field.bytes);
}

static inline uint32_t iscsi_be24_get(struct iscsi_be24 field)
{
    return get_be24(field.bytes);
}

static inline uint32_t iscsi_be32_get(struct iscsi_be32 field)
{
    return get_be32(field.bytes);
}

static inline struct iscsi_be16 iscsi_be16(uint16_t value)
{
    struct iscsi_be16 field = {{0}};

    put_be16(field.bytes, value);
    return field;
}

static inline struct iscsi_be24 iscsi_be24(uint32_t value)
{
    struct iscsi_be24 field = {{0}};

    put_be24(field.bytes, value);
    return field;
}

static inline struct iscsi_be32 iscsi_be32(uint32_t value)
{
    struct iscsi_be32 field = {{0}};

    put_be32(field.bytes, value);
    return field;
}

/* Serial numbers (RFC 1982, 32 bits): a before b. */
static inline int iscsi_sn_before(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

/* Section 11.2.1.2; the low six bits of the first byte. */
enum iscsi_opcode {
    ISCSI_OP_NOP_OUT = 0x00,
    ISCSI_OP_SCSI_COMMAND = 0x01,
    ISCSI_OP_TMF_REQUEST = 0x02,
    ISCSI_OP_LOGIN_REQUEST = 0x03,
    ISCSI_OP_TEXT_REQUEST = 0x04,
    ISCSI_OP_DATA_OUT = 0x05,
    ISCSI_OP_LOGOUT_REQUEST = 0x06,
    ISCSI_OP_SNACK = 0x10,
    ISCSI_OP_NOP_IN = 0x20,
    ISCSI_OP_SCSI_RESPONSE = 0x21,
    ISCSI_OP_TMF_RESPONSE = 0x22,
    ISCSI_OP_LOGIN_RESPONSE = 0x23,
    ISCSI_OP_TEXT_RESPONSE = 0x24,
    ISCSI_OP_DATA_IN = 0x25,
    ISCSI_OP_LOGOUT_RESPONSE = 0x26,
    ISCSI_OP_R2T = 0x31,
    ISCSI_OP_ASYNC_MESSAGE = 0x32,
    ISCSI_OP_REJECT = 0x3f,
};

#define ISCSI_OPCODE_MASK 0x3f
#define ISCSI_IMMEDIATE 0x40 /* first byte of a request */
#define ISCSI_FINAL 0x80     /* F: second byte */

/* SCSI Command, second byte. */
#define ISCSI_COMMAND_READ 0x40
#define ISCSI_COMMAND_WRITE 0x20
#define ISCSI_COMMAND_ATTRIBUTE_MASK 0x07
enum iscsi_attribute {
    ISCSI_ATTRIBUTE_UNTAGGED = 0,
    ISCSI_ATTRIBUTE_SIMPLE = 1,
    ISCSI_ATTRIBUTE_ORDERED = 2,
    ISCSI_ATTRIBUTE_HEAD_OF_QUEUE = 3,
    ISCSI_ATTRIBUTE_ACA = 4,
};

/* SCSI Response and Data-In, second byte. */
#define ISCSI_RESIDUAL_OVERFLOW 0x04
#define ISCSI_RESIDUAL_UNDERFLOW 0x02
#define ISCSI_DATA_IN_ACKNOWLEDGE 0x40
#define ISCSI_DATA_IN_STATUS 0x01

/* Text and login, second byte. */
#define ISCSI_TEXT_CONTINUE 0x40
#define ISCSI_LOGIN_TRANSIT 0x80
#define ISCSI_LOGIN_CONTINUE 0x40

enum iscsi_stage {
    ISCSI_STAGE_SECURITY = 0,
    ISCSI_STAGE_OPERATIONAL = 1,
    ISCSI_STAGE_FULL_FEATURE = 3,
};

/* SCSI Response, "response" (section 11.4.3). */
enum iscsi_scsi_response_code {
    ISCSI_SCSI_COMPLETED = 0x00,
    ISCSI_SCSI_TARGET_FAILURE = 0x01,
};

/* Task management (sections 11.5.1 and 11.6.1). */
enum iscsi_tmf_function {
    ISCSI_TMF_ABORT_TASK = 1,
    ISCSI_TMF_ABORT_TASK_SET = 2,
    ISCSI_TMF_CLEAR_ACA = 3,
    ISCSI_TMF_CLEAR_TASK_SET = 4,
    ISCSI_TMF_LOGICAL_UNIT_RESET = 5,
    ISCSI_TMF_TARGET_WARM_RESET = 6,
    ISCSI_TMF_TARGET_COLD_RESET = 7,
    ISCSI_TMF_TASK_REASSIGN = 8,
};
#define ISCSI_TMF_FUNCTION_MASK 0x7f

enum iscsi_tmf_response_code {
    ISCSI_TMF_COMPLETE = 0,
    ISCSI_TMF_NO_TASK = 1,
    ISCSI_TMF_NO_LUN = 2,
    ISCSI_TMF_STILL_ALLEGIANT = 3,
    ISCSI_TMF_REASSIGN_UNSUPPORTED = 4,
    ISCSI_TMF_UNSUPPORTED = 5,
    ISCSI_TMF_UNAUTHORIZED = 6,
    ISCSI_TMF_REJECTED = 255,
};

/* Logout (sections 11.14.1 and 11.15.1). */
enum iscsi_logout_reason {
    ISCSI_LOGOUT_SESSION = 0,
    ISCSI_LOGOUT_CONNECTION = 1,
    ISCSI_LOGOUT_RECOVERY = 2,
};
#define ISCSI_LOGOUT_REASON_MASK 0x7f

enum iscsi_logout_response_code {
    ISCSI_LOGOUT_CLOSED = 0,
    ISCSI_LOGOUT_NO_CID = 1,
    ISCSI_LOGOUT_RECOVERY_UNSUPPORTED = 2,
    ISCSI_LOGOUT_CLEANUP_FAILED = 3,
};

/* Asynchronous Message (section 11.9.1). */
enum iscsi_async_event {
    ISCSI_ASYNC_SCSI = 0,
    ISCSI_ASYNC_LOGOUT_REQUESTED = 1,
    ISCSI_ASYNC_CONNECTION_DROP = 2,
    ISCSI_ASYNC_SESSION_DROP = 3,
    ISCSI_ASYNC_NEGOTIATE = 4,
};

/* Reject (section 11.17.1). */
enum iscsi_reject_reason {
    ISCSI_REJECT_DATA_DIGEST = 0x02,
    ISCSI_REJECT_SNACK = 0x03,
    ISCSI_REJECT_PROTOCOL_ERROR = 0x04,
    ISCSI_REJECT_UNSUPPORTED = 0x05,
    ISCSI_REJECT_TOO_MANY_IMMEDIATE = 0x06,
    ISCSI_REJECT_TASK_IN_PROGRESS = 0x07,
    ISCSI_REJECT_INVALID_DATA_ACK = 0x08,
    ISCSI_REJECT_INVALID_FIELD = 0x09,
    ISCSI_REJECT_LONG_OPERATION = 0x0a,
    ISCSI_REJECT_WAITING_FOR_LOGOUT = 0x0c,
};

/* What all PDUs share. */
struct iscsi_bhs_any {
    uint8_t opcode;
    uint8_t flags;
    uint8_t specific[2];
    uint8_t ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag;
    uint8_t rest[28];
};

/* Requests, as a target receives them. */
struct iscsi_bhs_nop_out {
    uint8_t opcode, flags, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, transfer_tag, cmd_sn, exp_stat_sn;
    uint8_t reserved2[16];
};

struct iscsi_bhs_scsi_command {
    uint8_t opcode, flags, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, expected_length, cmd_sn, exp_stat_sn;
    uint8_t cdb[16];
};

struct iscsi_bhs_tmf_request {
    uint8_t opcode, function, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, referenced_tag, cmd_sn, exp_stat_sn, ref_cmd_sn, exp_data_sn;
    uint8_t reserved2[8];
};

struct iscsi_bhs_login_request {
    uint8_t opcode, flags, version_max, version_min, ahs_words;
    struct iscsi_be24 data_length;
    uint8_t isid[6];
    struct iscsi_be16 tsih;
    struct iscsi_be32 task_tag;
    struct iscsi_be16 cid;
    uint8_t reserved[2];
    struct iscsi_be32 cmd_sn, exp_stat_sn;
    uint8_t reserved2[16];
};

struct iscsi_bhs_text_request {
    uint8_t opcode, flags, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, transfer_tag, cmd_sn, exp_stat_sn;
    uint8_t reserved2[16];
};

struct iscsi_bhs_data_out {
    uint8_t opcode, flags, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, transfer_tag, reserved2, exp_stat_sn, reserved3, data_sn, buffer_offset,
        reserved4;
};

struct iscsi_bhs_logout_request {
    uint8_t opcode, reason, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t reserved2[8];
    struct iscsi_be32 task_tag;
    struct iscsi_be16 cid;
    uint8_t reserved3[2];
    struct iscsi_be32 cmd_sn, exp_stat_sn;
    uint8_t reserved4[16];
};

struct iscsi_bhs_snack {
    uint8_t opcode, type, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, transfer_tag, reserved2, exp_stat_sn;
    uint8_t reserved3[8];
    struct iscsi_be32 begin_run, run_length;
};

/* Responses, as a target sends them. */
struct iscsi_bhs_nop_in {
    uint8_t opcode, flags, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, transfer_tag, stat_sn, exp_cmd_sn, max_cmd_sn;
    uint8_t reserved2[12];
};

struct iscsi_bhs_scsi_response {
    uint8_t opcode, flags, response, status, ahs_words;
    struct iscsi_be24 data_length;
    uint8_t reserved[8];
    struct iscsi_be32 task_tag, snack_tag, stat_sn, exp_cmd_sn, max_cmd_sn, exp_data_sn, bidi_residual,
        residual;
};

struct iscsi_bhs_tmf_response {
    uint8_t opcode, flags, response, reserved, ahs_words;
    struct iscsi_be24 data_length;
    uint8_t reserved2[8];
    struct iscsi_be32 task_tag, reserved3, stat_sn, exp_cmd_sn, max_cmd_sn;
    uint8_t reserved4[12];
};

struct iscsi_bhs_login_response {
    uint8_t opcode, flags, version_max, version_active, ahs_words;
    struct iscsi_be24 data_length;
    uint8_t isid[6];
    struct iscsi_be16 tsih;
    struct iscsi_be32 task_tag, reserved, stat_sn, exp_cmd_sn, max_cmd_sn;
    uint8_t status_class, status_detail, reserved2[10];
};

struct iscsi_bhs_text_response {
    uint8_t opcode, flags, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, transfer_tag, stat_sn, exp_cmd_sn, max_cmd_sn;
    uint8_t reserved2[12];
};

struct iscsi_bhs_data_in {
    uint8_t opcode, flags, reserved, status, ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, transfer_tag, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn, buffer_offset,
        residual;
};

struct iscsi_bhs_logout_response {
    uint8_t opcode, flags, response, reserved, ahs_words;
    struct iscsi_be24 data_length;
    uint8_t reserved2[8];
    struct iscsi_be32 task_tag, reserved3, stat_sn, exp_cmd_sn, max_cmd_sn, reserved4;
    struct iscsi_be16 time2wait, time2retain;
    uint8_t reserved5[4];
};

struct iscsi_bhs_r2t {
    uint8_t opcode, flags, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, transfer_tag, stat_sn, exp_cmd_sn, max_cmd_sn, r2t_sn, buffer_offset,
        desired_length;
};

struct iscsi_bhs_async_message {
    uint8_t opcode, flags, reserved[2], ahs_words;
    struct iscsi_be24 data_length;
    uint8_t lun[8];
    struct iscsi_be32 task_tag, reserved2, stat_sn, exp_cmd_sn, max_cmd_sn;
    uint8_t event, vendor_code;
    struct iscsi_be16 parameter1, parameter2, parameter3;
    uint8_t reserved3[4];
};

struct iscsi_bhs_reject {
    uint8_t opcode, flags, reason, reserved, ahs_words;
    struct iscsi_be24 data_length;
    uint8_t reserved2[8];
    struct iscsi_be32 task_tag, reserved3, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn;
    uint8_t reserved4[8];
};

union iscsi_bhs {
    uint8_t bytes[ISCSI_BHS_SIZE];
    struct iscsi_bhs_any any;
    struct iscsi_bhs_nop_out nop_out;
    struct iscsi_bhs_scsi_command scsi_command;
    struct iscsi_bhs_tmf_request tmf_request;
    struct iscsi_bhs_login_request login_request;
    struct iscsi_bhs_text_request text_request;
    struct iscsi_bhs_data_out data_out;
    struct iscsi_bhs_logout_request logout_request;
    struct iscsi_bhs_snack snack;
    struct iscsi_bhs_nop_in nop_in;
    struct iscsi_bhs_scsi_response scsi_response;
    struct iscsi_bhs_tmf_response tmf_response;
    struct iscsi_bhs_login_response login_response;
    struct iscsi_bhs_text_response text_response;
    struct iscsi_bhs_data_in data_in;
    struct iscsi_bhs_logout_response logout_response;
    struct iscsi_bhs_r2t r2t;
    struct iscsi_bhs_async_message async_message;
    struct iscsi_bhs_reject reject;
};

static_assert(sizeof(union iscsi_bhs) == ISCSI_BHS_SIZE, "no layout is longer than a BHS");
static_assert(sizeof(struct iscsi_bhs_any) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_nop_out) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_scsi_command) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_tmf_request) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_login_request) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_text_request) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_data_out) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_logout_request) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_snack) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_nop_in) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_scsi_response) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_tmf_response) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_login_response) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_text_response) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_data_in) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_logout_response) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_r2t) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_async_message) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");
static_assert(sizeof(struct iscsi_bhs_reject) == ISCSI_BHS_SIZE, "a BHS is 48 bytes");

static inline enum iscsi_opcode iscsi_bhs_opcode(const union iscsi_bhs *bhs)
{
    return (enum iscsi_opcode)(bhs->any.opcode & ISCSI_OPCODE_MASK);
}

static inline int iscsi_bhs_immediate(const union iscsi_bhs *bhs)
{
    return (bhs->any.opcode & ISCSI_IMMEDIATE) != 0;
}

static inline uint32_t iscsi_bhs_data_length(const union iscsi_bhs *bhs)
{
    return iscsi_be24_get(bhs->any.data_length);
}

static inline uint32_t iscsi_bhs_task_tag(const union iscsi_bhs *bhs)
{
    return iscsi_be32_get(bhs->any.task_tag);
}
