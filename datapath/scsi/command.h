/* Between the files of scsi/: a command is a row of a table, with one function for each of its two steps. */
#pragma once

#include "datapath/scsi/scsi.h"
#include "datapath/scsi/sense.h"

enum command_flags {
    COMMAND_ANY_LUN = 1, /* answers for logical units that are not there too (SPC-5, section 5.7) */
    COMMAND_KEEPS_ATTENTION =
        2,                  /* runs while a unit attention is pending, and leaves it (SAM-5, section 5.14) */
    COMMAND_WRITES = 4,     /* refused where the nexus is read-only */
    COMMAND_OPERATION = 8,  /* counts against the volume's IOPS … */
    COMMAND_TRANSFERS = 16, /* … and its data against the bandwidth … */
    COMMAND_REPEATS = 32,   /* … or, of WRITE SAME, what it makes of them */
    COMMAND_IS_READ = COMMAND_OPERATION | COMMAND_TRANSFERS,
    COMMAND_IS_WRITE = COMMAND_WRITES | COMMAND_IS_READ,
    COMMAND_IS_CHANGE = COMMAND_WRITES | COMMAND_OPERATION,
};

#define COMMAND_NO_ACTION 0xff /* the opcode has no service actions */

struct scsi_command {
    uint8_t opcode;
    uint8_t action; /* service action in byte 1, or COMMAND_NO_ACTION */
    unsigned flags;
    bool (*parse)(struct scsi_task *task);   /* false: refused, sense is set */
    void (*execute)(struct scsi_task *task); /* ends in command_answer(), now or after I/O */
};

/* Call done() from the loop, after execute() has returned. */
void command_answer(struct scsi_task *task);

/* Data-in of length bytes, cut to the allocation length, then command_answer(). */
void command_answer_data(struct scsi_task *task, const void *data, size_t length);

/* Refuse: CHECK CONDITION, ILLEGAL REQUEST. Always false, so that parse functions `return command_refuse(…)`.
 */
bool command_refuse(struct scsi_task *task, enum sense_code code);

/* Set the sense of the unit attention that is pending, and take it away; false when none is. */
bool command_take_attention(struct scsi_task *task);

/* Data-in of at most allocation_length bytes that fits a control buffer. */
bool command_expect_data_in(struct scsi_task *task, size_t allocation_length);

/* Set lba and blocks, within the unit. */
bool command_set_range(struct scsi_task *task, uint64_t lba, uint64_t blocks);

/* Start an image I/O with task->io's verb, offset, length and buffer filled; done gets the result. */
void command_submit(struct scsi_task *task, void (*done)(struct image_io *io, int result));

/* A change must be stable before it is answered: the CDB's FUA bit, or a write-through nexus. */
static inline bool command_fua(const struct scsi_task *task, bool fua_bit)
{
    return fua_bit || task->nexus->write_through;
}

/* inquiry.c */
bool inquiry_parse(struct scsi_task *task);
void inquiry_execute(struct scsi_task *task);

/* unit.c: what the unit is and how it feels */
bool unit_ready_parse(struct scsi_task *task);
void unit_ready_execute(struct scsi_task *task);
bool unit_luns_parse(struct scsi_task *task);
void unit_luns_execute(struct scsi_task *task);
bool unit_sense_parse(struct scsi_task *task);
void unit_sense_execute(struct scsi_task *task);
bool unit_capacity10_parse(struct scsi_task *task);
void unit_capacity10_execute(struct scsi_task *task);
bool unit_capacity16_parse(struct scsi_task *task);
void unit_capacity16_execute(struct scsi_task *task);

/* mode.c */
bool mode_sense6_parse(struct scsi_task *task);
bool mode_sense10_parse(struct scsi_task *task);
void mode_sense_execute(struct scsi_task *task);

/* read_write.c */
bool read_write_read_parse(struct scsi_task *task);
void read_write_read_execute(struct scsi_task *task);
bool read_write_write_parse(struct scsi_task *task);
void read_write_write_execute(struct scsi_task *task);
bool read_write_sync_parse(struct scsi_task *task);
void read_write_sync_execute(struct scsi_task *task);

/* provisioning.c: UNMAP and GET LBA STATUS; write_same.c */
bool provisioning_unmap_parse(struct scsi_task *task);
void provisioning_unmap_execute(struct scsi_task *task);
bool provisioning_status_parse(struct scsi_task *task);
void provisioning_status_execute(struct scsi_task *task);
bool write_same_parse(struct scsi_task *task);
void write_same_execute(struct scsi_task *task);
uint64_t write_same_repeated_bytes(const struct scsi_task *task); /* 0 while its data are not here */

/* What VPD page B0 promises and the commands hold to. */
#define COMMAND_UNMAP_BYTES_MAX (1024u * 1024 * 1024) /* of one descriptor */
#define COMMAND_UNMAP_DESCRIPTORS_MAX 255u
#define COMMAND_WRITE_SAME_BYTES_MAX (128u * 1024 * 1024)
#define COMMAND_OPTIMAL_BYTES (256u * 1024)
#define COMMAND_UNMAP_GRANULARITY_BYTES 4096u
