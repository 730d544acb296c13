/* See scsi_bench.h. "Later" is a queue that run() empties. */
#include "tests/unit/scsi_bench.h"

#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "datapath/scsi/sense.h"

uint8_t image_bytes[BLOCK * BLOCKS];
static struct image_io *image_pending;
struct image_io image_last;
int image_result;
unsigned image_commands;

static struct loop_message *loop_pending;
static struct loop_work *loop_work_pending;

void image_submit(struct image *image, struct loop *loop, struct image_io *io)
{
    (void)image;
    (void)loop;
    assert_null(image_pending);
    image_pending = io;
    image_last = *io;
    image_commands++;
}

int image_extent(struct image *image, uint64_t offset, uint64_t length, bool *ret_mapped,
                 uint64_t *ret_length)
{
    uint64_t half = BLOCK * BLOCKS / 2;

    (void)image;
    *ret_mapped = offset < half;
    *ret_length = offset < half && half - offset < length ? half - offset : length;
    return 0;
}

void loop_post(struct loop *loop, struct loop_message *message)
{
    (void)loop;
    assert_null(loop_pending);
    loop_pending = message;
}

void loop_offload(struct loop *loop, struct loop_work *work)
{
    (void)loop;
    assert_null(loop_work_pending);
    loop_work_pending = work;
}

static void image_carry_out(struct image_io *io)
{
    switch (io->verb) {
    case IMAGE_READ:
        memcpy(io->iov.iov_base, image_bytes + io->offset, io->length);
        return;
    case IMAGE_WRITE:
        memcpy(image_bytes + io->offset, io->iov.iov_base, io->length);
        return;
    case IMAGE_FLUSH:
        return;
    case IMAGE_UNMAP:
    case IMAGE_WRITE_ZEROES:
        memset(image_bytes + io->offset, 0, io->length);
    }
}

static void run(void)
{
    while (image_pending || loop_pending || loop_work_pending) {
        if (loop_pending) {
            struct loop_message *message = TAKE_PTR(loop_pending);
            message->run(message);
        }
        if (loop_work_pending) {
            struct loop_work *work = TAKE_PTR(loop_work_pending);
            work->op.done(&work->op, work->work(work), 0);
        }
        if (image_pending) {
            struct image_io *io = TAKE_PTR(image_pending);
            if (!image_result)
                image_carry_out(io);
            io->done(io, image_result);
        }
    }
}

/* ---- one command at a time ---- */

struct scsi_unit unit = {
    .block_size_bytes = BLOCK,
    .blocks = BLOCKS,
    .volume_id = "store-1.9f86d081884c7d65",
    .boot_id = "00112233445566778899aabbccddeeff",
};
struct scsi_nexus nexus;
_Alignas(4096) uint8_t buffer[SCSI_TRANSFER_MAX];
static unsigned done_count;

static void count_done(struct scsi_task *task)
{
    (void)task;
    done_count++;
}

int setup(void **state)
{
    (void)state;
    nexus = (struct scsi_nexus){.unit = &unit, .epoch = 3, .generation = 2, .blocks = BLOCKS};
    memset(image_bytes, 0xee, sizeof(image_bytes));
    memset(buffer, 0, sizeof(buffer));
    image_result = 0;
    image_commands = 0;
    done_count = 0;
    return 0;
}

void execute(struct scsi_task *task)
{
    task->done = count_done;
    done_count = 0;
    scsi_task_execute(task);
    assert_int_equal(done_count, 0); /* never from within scsi_task_execute() */
    run();
    assert_int_equal(done_count, 1);
}

struct scsi_task command(const void *cdb, size_t cdb_length, size_t size)
{
    struct scsi_task task = {.nexus = &nexus, .data = buffer, .data_size = size};

    memcpy(task.cdb, cdb, cdb_length);
    if (!scsi_task_parse(&task)) {
        assert_int_not_equal(task.status, SCSI_GOOD);
        assert_int_equal(task.direction, SCSI_NO_DATA);
        return task;
    }
    execute(&task);
    return task;
}

void assert_sense(const struct scsi_task *task, enum sense_key key, uint16_t code)
{
    assert_int_equal(task->status, SCSI_CHECK_CONDITION);
    assert_int_equal(task->sense_length, SCSI_SENSE_LENGTH);
    assert_int_equal(task->sense[0], 0x70);
    assert_int_equal(task->sense[2], key);
    assert_int_equal(get_be16(&task->sense[12]), code);
}
