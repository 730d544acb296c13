/* Sense data, and the one place where result codes (common/error.h) become SCSI sense. */
#pragma once

#include <stdint.h>

#include "datapath/scsi/scsi.h"

enum sense_key { /* SPC-5, table 49 */
                 SENSE_NO_SENSE = 0x0,
                 SENSE_NOT_READY = 0x2,
                 SENSE_MEDIUM_ERROR = 0x3,
                 SENSE_HARDWARE_ERROR = 0x4,
                 SENSE_ILLEGAL_REQUEST = 0x5,
                 SENSE_UNIT_ATTENTION = 0x6,
                 SENSE_DATA_PROTECT = 0x7,
                 SENSE_ABORTED_COMMAND = 0xb,
                 SENSE_MISCOMPARE = 0xe,
};

/* Additional sense code and qualifier, SPC-5 annex F: ASC in the high byte. */
enum sense_code {
    SENSE_NO_ADDITIONAL = 0x0000,
    SENSE_WRITE_ERROR = 0x0c00,
    SENSE_READ_ERROR = 0x1100,
    SENSE_PARAMETER_LIST_LENGTH = 0x1a00,
    SENSE_INVALID_OPCODE = 0x2000,
    SENSE_LBA_OUT_OF_RANGE = 0x2100,
    SENSE_INVALID_FIELD_IN_CDB = 0x2400,
    SENSE_LUN_NOT_SUPPORTED = 0x2500,
    SENSE_INVALID_FIELD_IN_PARAMETERS = 0x2600,
    SENSE_WRITE_PROTECTED = 0x2700,
    SENSE_SPACE_ALLOCATION_FAILED = 0x2707,
    SENSE_POWER_ON_OCCURRED = 0x2900,
    SENSE_NEXUS_LOSS_OCCURRED = 0x2907,
    SENSE_CAPACITY_CHANGED = 0x2a09,
    SENSE_TARGET_FAILURE = 0x4400,
    SENSE_UNDETERMINED_FAILURE = 0x0e00, /* the target cannot buffer it now */
    SENSE_PROTOCOL_CRC_ERROR = 0x4705,
    SENSE_DATA_OUT_LENGTH = 0x4b00,
};

/* CHECK CONDITION with this sense. */
void sense_set(struct scsi_task *task, enum sense_key key, uint16_t asc_ascq);

/* The status and sense for the result of an image I/O (0, E_…, or a negative errno); write: it was a change.
 */
void sense_from_result(struct scsi_task *task, int result, bool write);
