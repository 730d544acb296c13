/*
 * A logical unit on an image in memory, one command at a time. The image and the loop are the bench's own,
 * put in at link time.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "datapath/scsi/scsi.h"
#include "datapath/scsi/sense.h"

#define BLOCK 4096u
#define BLOCKS 512u

extern uint8_t image_bytes[BLOCK * BLOCKS];
extern struct image_io image_last; /* the last command, as it was submitted */
extern int image_result;           /* what each command of the image ends with */
extern unsigned image_commands;

extern struct scsi_unit unit;
extern struct scsi_nexus nexus;
extern uint8_t buffer[SCSI_TRANSFER_MAX];

int setup(void **state);

/* One that was parsed, to its end. */
void execute(struct scsi_task *task);

/* Parse and, unless refused, execute with `size` bytes of buffer. */
struct scsi_task command(const void *cdb, size_t cdb_length, size_t size);

#define COMMAND(size, ...)                                                                                   \
    command((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), (size))

void assert_sense(const struct scsi_task *task, enum sense_key key, uint16_t code);
