/*
 * SCSI commands on a volume: SBC-4 and SPC-5 as one table, one function a step. Knows nothing of iSCSI: it
 * gets a CDB and buffers, and gives status, sense and data.
 *
 * The caller (target/connection) goes: scsi_task_parse() → knows direction and length → collects the
 * data-out, or provides a data-in buffer → scsi_task_execute() → done(), later, on the same loop, never from
 * within execute().
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/id.h"
#include "datapath/loop/loop.h"
#include "datapath/store/image.h"

enum scsi_status { /* SAM-5, section 5.3.1 */
                   SCSI_GOOD = 0x00,
                   SCSI_CHECK_CONDITION = 0x02,
                   SCSI_BUSY = 0x08,
                   SCSI_RESERVATION_CONFLICT = 0x18,
                   SCSI_TASK_SET_FULL = 0x28,
                   SCSI_TASK_ABORTED = 0x40,
};

#define SCSI_SENSE_LENGTH 18 /* fixed format, SPC-5 section 4.4.3 */
#define SCSI_CDB_LENGTH 16
#define SCSI_CONTROL_DATA_MAX 4096 /* data-in of what is no READ, and parameter lists of what is no WRITE */

/* What every session of one volume shares. Filled by the target; constant while a session uses it, but for
 * the size, which grows. */
struct scsi_unit {
    struct volume *volume;
    struct image *image;
    uint32_t block_size_bytes;
    bool thick;              /* resource provisioned (SBC-4 section 4.7.3.2): what is unmapped is anchored */
    _Atomic uint64_t blocks; /* read by every session's loop */
    const char *volume_id;
    const char *boot_id;           /* of this mooring-target: vendor page 0xC0 */
    atomic_uint_fast64_t *refused; /* counts what was refused for want of space; or NULL */
};

/* One initiator's session with the unit (the I_T nexus). */
struct scsi_nexus {
    const struct scsi_unit *unit; /* NULL: no logical unit (discovery) */
    uint64_t epoch, generation;   /* the writer, for invariant 5 */
    bool read_only;
    bool write_through;      /* every change is stable before it answers (invariant 1) */
    uint16_t unit_attention; /* ASC and ASCQ to report with the next command; 0: none */
    uint64_t blocks;         /* the size that it was told of; another one is a unit attention, too */
};

enum scsi_direction { SCSI_NO_DATA, SCSI_DATA_IN, SCSI_DATA_OUT };

struct scsi_task {
    /* the caller's */
    struct scsi_nexus *nexus;
    struct loop *loop;
    uint64_t lun; /* as in the PDU, 8 bytes big-endian read as a number; 0 is the volume */
    uint8_t cdb[SCSI_CDB_LENGTH];
    void *data;       /* data-out as received, or room for data-in; aligned to IMAGE_ALIGN */
    size_t data_size; /* of it: for data-out what arrived, at most `transfer_length` */
    void (*done)(struct scsi_task *task);

    /* from scsi_task_parse() */
    enum scsi_direction direction;
    size_t transfer_length; /* bytes that the CDB asks for; data-in may be shorter in the end */

    /* the result */
    enum scsi_status status;
    uint8_t sense[SCSI_SENSE_LENGTH];
    size_t sense_length;   /* 0 unless CHECK CONDITION */
    size_t data_in_length; /* valid bytes of data */

    /* scsi's own */
    const struct scsi_command *command;
    uint64_t lba;
    uint64_t blocks;
    struct image_io io;
    struct loop_message answer; /* for what completes without I/O */
    struct loop_work work;
    unsigned step;    /* descriptors of an UNMAP that are done */
    void *pattern;    /* a WRITE SAME's repeated block, on the heap */
    uint64_t written; /* bytes of a WRITE SAME that are done */
};

/*
 * Decode task->cdb: sets direction and transfer_length. False when the command can be answered at once
 * (unknown, malformed, out of range, read-only): status and sense are then set, nothing is to be transferred,
 * and the caller answers without execute(). Transfers above SCSI_TRANSFER_MAX are refused here (VPD B0 tells
 * initiators).
 */
#define SCSI_TRANSFER_MAX (1024u * 1024)
bool scsi_task_parse(struct scsi_task *task);

/* Carry it out. done() follows on task->loop. */
void scsi_task_execute(struct scsi_task *task);

/*
 * Whether the volume's limits are for this command, once it is parsed: it counts as one operation where it
 * reads or changes the medium, and its bytes are those that it transfers for that; of a WRITE SAME those that
 * it writes over and over, which its data tell: they have to be here. Flushes are free.
 */
bool scsi_task_limited(const struct scsi_task *task);
bool scsi_task_limited_by_data(const struct scsi_task *task);
uint64_t scsi_task_limited_bytes(const struct scsi_task *task);

/* Status and sense for a task that the target ends by itself. */
void scsi_task_fail(struct scsi_task *task, uint8_t key, uint16_t asc_ascq);
