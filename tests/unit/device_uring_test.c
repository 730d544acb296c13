/*
 * FUSE over io_uring: loop_command_wide() is the test's own and plays the kernel, which knows an entry's two
 * buffers from its registration; a fake session is the target.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/device/fuse_uring.h"
#include "tests/unit/device_fake_session.h"

#define BLOCK 4096u
#define SIZE (UINT64_C(1) << 30)
#define DEVICE 77
#define ENTRIES_MAX 4096u
#define UNIQUE(entry) (UINT64_C(1000) + 2 * (entry))
#define NOTHING 12345 /* no answer has come since */

struct kernel_entry {
    struct loop_op *op;
    struct fuse_proto_uring_header *header;
    uint8_t *payload;
    uint16_t queue;
    int answer; /* the error */
};

static struct {
    struct kernel_entry entries[ENTRIES_MAX];
    unsigned count;
} kernel;

void loop_command_wide(struct loop *loop, struct loop_op *op, int fd, const struct loop_wide_command *command)
{
    struct fuse_proto_uring_command data;
    struct fuse_out_header out;
    (void)loop;
    assert_int_equal(fd, DEVICE);
    assert_int_equal(command->length, sizeof data);
    memcpy(&data, command->data, sizeof data);
    if (command->code == FUSE_PROTO_URING_REGISTER) {
        assert_int_equal(command->iov_count, 2);
        assert_true(command->iov[0].iov_len >= 288);
        assert_int_equal(command->iov[1].iov_len, 256 * 1024);
        assert_true(kernel.count < ENTRIES_MAX);
        kernel.entries[kernel.count++] = (struct kernel_entry){op, command->iov[0].iov_base,
                                                               command->iov[1].iov_base, data.queue, NOTHING};
        return;
    }
    assert_int_equal(command->code, FUSE_PROTO_URING_COMMIT_AND_FETCH);
    unsigned index = (unsigned)(data.commit_id - UNIQUE(0)) / 2;
    struct kernel_entry *entry = &kernel.entries[index];
    assert_int_equal(data.queue, entry->queue);
    assert_null(entry->op);
    memcpy(&out, entry->header->in_out, sizeof out);
    assert_int_equal(out.unique, UNIQUE(index));
    assert_int_equal(out.len, sizeof out + entry->header->payload_bytes);
    entry->op = op;
    entry->answer = out.error;
}

struct fixture {
    struct loop *loop;
    struct device_state state;
    struct initiator initiator;
    struct replay_log log;
    int log_fd;
    struct requests requests;
    struct frontend_parts parts;
    struct fuse_uring uring;
    int gone;
    unsigned gone_count;
};

static void relieved(void *context, int result)
{
    struct fixture *fixture = context;
    fuse_uring_resume(&fixture->uring, result);
}

static void gone(void *context, int result)
{
    struct fixture *fixture = context;
    fixture->gone = result;
    fixture->gone_count++;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct loop_options options = {.entries = 32};
    struct volume_limits limits = {.size_bytes = SIZE,
                                   .block_size_bytes = BLOCK,
                                   .transfer_max_bytes = 1u << 20,
                                   .unmap_max_bytes = SIZE,
                                   .same_max_bytes = SIZE};
    fixture->state = (struct device_state){
        .size_bytes = SIZE, .block_size_bytes = BLOCK, .buffers_size_bytes = UINT64_C(32) << 20};
    fixture->initiator.state = &fixture->state;
    kernel.count = 0;
    fake_session_reset();
    assert_int_equal(loop_new(&fixture->loop, &options, NULL), 0);
    assert_int_equal(replay_log_create(&fixture->log, "v", 1, REPLAY_LOG_SIZE_MIN, &fixture->log_fd, NULL),
                     0);
    requests_init(&fixture->requests, fixture->loop, &fixture->initiator, &fixture->log, relieved, fixture);
    fixture->parts = (struct frontend_parts){.loop = fixture->loop,
                                             .state = &fixture->state,
                                             .requests = &fixture->requests,
                                             .log = &fixture->log};
    assert_int_equal(fuse_uring_init(&fixture->uring, &fixture->parts, NULL), 0);
    fixture->uring.gone = gone;
    fixture->uring.context = fixture;
    requests_session_identified(&fixture->requests, &limits);
    requests_session_open(&fixture->requests);
    fuse_uring_serve(&fixture->uring, DEVICE);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    requests_session_lost(&fixture->requests);
    loop_free(fixture->loop);
    fuse_uring_done(&fixture->uring);
    replay_log_done(&fixture->log);
    fd_close(fixture->log_fd);
    free(fixture);
    return 0;
}

static void run(struct fixture *fixture)
{
    fake_session_run(fixture->loop, 5);
}

static void complete(struct fixture *fixture, unsigned index, int res)
{
    struct kernel_entry *entry = &kernel.entries[index];
    struct loop_op *op = entry->op;
    assert_non_null(op);
    entry->op = NULL;
    entry->answer = NOTHING;
    op->done(op, res, 0);
    run(fixture);
}

/* A request, as the kernel lays it out: its first argument apart from the others. */
static void ask(struct fixture *fixture, unsigned index, uint32_t opcode, uint64_t nodeid,
                const void *argument, size_t argument_length, size_t payload_length)
{
    struct kernel_entry *entry = &kernel.entries[index];
    struct fuse_in_header header = {.opcode = opcode, .unique = UNIQUE(index), .nodeid = nodeid};
    header.len = (uint32_t)(sizeof header + argument_length + payload_length);
    memset(entry->header, 0, sizeof *entry->header);
    memcpy(entry->header->in_out, &header, sizeof header);
    memcpy(entry->header->operation, argument, argument_length);
    entry->header->commit_id = UNIQUE(index);
    entry->header->payload_bytes = (uint32_t)payload_length;
    complete(fixture, index, 0);
}

static void ask_write(struct fixture *fixture, unsigned index, uint64_t offset, uint8_t byte, uint32_t length)
{
    struct fuse_write_in in = {.offset = offset, .size = length};
    memset(kernel.entries[index].payload, byte, length);
    ask(fixture, index, FUSE_WRITE, FUSE_PROTO_VOLUME_INO, &in, sizeof in, length);
}

static void ask_read(struct fixture *fixture, unsigned index, uint64_t offset, uint32_t length)
{
    struct fuse_read_in in = {.offset = offset, .size = length};
    ask(fixture, index, FUSE_READ, FUSE_PROTO_VOLUME_INO, &in, sizeof in, 0);
}

static void ask_fallocate(struct fixture *fixture, unsigned index, uint32_t mode, uint64_t offset,
                          uint64_t length)
{
    struct fuse_fallocate_in in = {.mode = mode, .offset = offset, .length = length};
    ask(fixture, index, FUSE_FALLOCATE, FUSE_PROTO_VOLUME_INO, &in, sizeof in, 0);
}

static uint8_t sent_opcode(unsigned index)
{
    assert_true(index < fake_session.count);
    return fake_session.sent[index].task->cdb[0];
}

/* ---- tests ---- */

/* Or the kernel never switches: each queue has an entry, and the numbers have no gap. */
static void test_every_queue_is_registered(void **state)
{
    (void)state;
    bool seen[UINT16_MAX + 1] = {false};
    unsigned last = 0;
    assert_true(kernel.count >= 2);
    for (unsigned i = 0; i < kernel.count; i++) {
        seen[kernel.entries[i].queue] = true;
        last = kernel.entries[i].queue > last ? kernel.entries[i].queue : last;
    }
    for (unsigned queue = 0; queue <= last; queue++)
        assert_true(seen[queue]);
}

static void test_lists_of_cpus(void **state)
{
    (void)state;
    assert_int_equal(fuse_uring_count_cpus("0\n"), 1);
    assert_int_equal(fuse_uring_count_cpus("0-127\n"), 128);
    assert_int_equal(fuse_uring_count_cpus("0,2-3,8"), 4);
    assert_int_equal(fuse_uring_count_cpus(""), 0);
    assert_int_equal(fuse_uring_count_cpus("\n"), 0);
    assert_int_equal(fuse_uring_count_cpus("3-1"), 0);
    assert_int_equal(fuse_uring_count_cpus("0-1x"), 0);
    assert_int_equal(fuse_uring_count_cpus("0-99999999"), 0);
    assert_true(fuse_uring_has_cpu("0,2-3,8\n", 2));
    assert_true(fuse_uring_has_cpu("0,2-3,8\n", 8));
    assert_false(fuse_uring_has_cpu("0,2-3,8\n", 4));
}

/* A write is in the log before it is on the wire, in memory of the log's own: the entry serves the next. */
static void test_write(void **state)
{
    struct fixture *fixture = *state;
    struct fuse_write_out out;
    ask_write(fixture, 1, 2 * BLOCK, 'w', 3 * BLOCK);
    assert_int_equal(fake_session.count, 1);
    assert_int_equal(sent_opcode(0), 0x8a);
    struct replay_entry *entry = replay_log_first(&fixture->log);
    assert_non_null(entry);
    assert_int_equal(entry->offset, 2 * BLOCK);
    const uint8_t *payload = replay_entry_payload(entry);
    assert_ptr_equal(fake_session.sent[0].task->iovector_out.iov->iov_base, payload);
    assert_int_equal(payload[0], 'w');
    assert_int_equal(payload[3 * BLOCK - 1], 'w');
    assert_int_equal(kernel.entries[1].answer, NOTHING);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(kernel.entries[1].answer, 0);
    assert_int_equal(kernel.entries[1].header->payload_bytes, sizeof out);
    memcpy(&out, kernel.entries[1].payload, sizeof out);
    assert_int_equal(out.size, 3 * BLOCK);
    assert_non_null(replay_log_first(&fixture->log)); /* until a flush */
    assert_int_equal(payload[0], 'w');
}

static void test_read(void **state)
{
    struct fixture *fixture = *state;
    ask_read(fixture, 0, BLOCK, 2 * BLOCK);
    struct scsi_task *task = fake_session.sent[0].task;
    assert_int_equal(task->cdb[0], 0x88);
    assert_ptr_equal(task->iovector_in.iov->iov_base, kernel.entries[0].payload);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(kernel.entries[0].answer, 0);
    assert_int_equal(kernel.entries[0].header->payload_bytes, 2 * BLOCK);

    ask_read(fixture, 0, SIZE - BLOCK, 2 * BLOCK); /* what there is */
    fake_answer(1, SCSI_STATUS_GOOD);
    assert_int_equal(kernel.entries[0].header->payload_bytes, BLOCK);

    ask_read(fixture, 0, SIZE, BLOCK);
    assert_int_equal(kernel.entries[0].answer, 0);
    assert_int_equal(kernel.entries[0].header->payload_bytes, 0);

    ask_read(fixture, 0, 0, BLOCK); /* an error has no data */
    fake_answer_sense(2, SCSI_SENSE_MEDIUM_ERROR, 0x1100);
    assert_int_equal(kernel.entries[0].answer, -EIO);
    assert_int_equal(kernel.entries[0].header->payload_bytes, 0);
}

static void test_flush_discard_zeroes(void **state)
{
    struct fixture *fixture = *state;
    struct fuse_fsync_in in = {0};
    ask(fixture, 0, FUSE_FSYNC, FUSE_PROTO_VOLUME_INO, &in, sizeof in, 0);
    assert_int_equal(sent_opcode(0), 0x35);
    assert_int_equal(kernel.entries[0].answer, NOTHING);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(kernel.entries[0].answer, 0);
    ask_fallocate(fixture, 1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, BLOCK, 4 * BLOCK);
    assert_int_equal(sent_opcode(1), 0x42);
    assert_int_equal(replay_log_first(&fixture->log)->op, REPLAY_DISCARD);
    ask_fallocate(fixture, 0, FALLOC_FL_ZERO_RANGE, 0, BLOCK);
    assert_int_equal(sent_opcode(2), 0x93);
}

static void test_refused(void **state)
{
    struct fixture *fixture = *state;
    ask_write(fixture, 0, SIZE - BLOCK, 'w', 2 * BLOCK);
    assert_int_equal(kernel.entries[0].answer, -EFBIG);
    ask_write(fixture, 0, 512, 'w', BLOCK);
    assert_int_equal(kernel.entries[0].answer, -EINVAL);
    ask_read(fixture, 0, 0, FUSE_URING_PAYLOAD + BLOCK);
    assert_int_equal(kernel.entries[0].answer, -EINVAL);
    struct fuse_write_in longer = {.size = 2 * BLOCK}; /* than what came with it */
    ask(fixture, 0, FUSE_WRITE, FUSE_PROTO_VOLUME_INO, &longer, sizeof longer, BLOCK);
    assert_int_equal(kernel.entries[0].answer, -EINVAL);
    ask(fixture, 0, FUSE_WRITE, FUSE_ROOT_ID, &longer, sizeof longer, 2 * BLOCK);
    assert_int_equal(kernel.entries[0].answer, -EISDIR);
    ask_fallocate(fixture, 0, FALLOC_FL_COLLAPSE_RANGE, 0, BLOCK);
    assert_int_equal(kernel.entries[0].answer, -EOPNOTSUPP);
    fixture->state.read_only = true;
    ask_write(fixture, 0, 0, 'w', BLOCK);
    assert_int_equal(kernel.entries[0].answer, -EROFS);
    assert_int_equal(fake_session.count, 0);
    assert_true(replay_log_empty(&fixture->log));
}

static void test_metadata(void **state)
{
    struct fixture *fixture = *state;
    struct fuse_entry_out out;
    memcpy(kernel.entries[0].payload, "volume", 7); /* a name is no first argument */
    ask(fixture, 0, FUSE_LOOKUP, FUSE_ROOT_ID, "", 0, 7);
    assert_int_equal(kernel.entries[0].answer, 0);
    assert_int_equal(kernel.entries[0].header->payload_bytes, sizeof out);
    memcpy(&out, kernel.entries[0].payload, sizeof out);
    assert_int_equal(out.nodeid, FUSE_PROTO_VOLUME_INO);
    assert_int_equal(out.attr.size, SIZE);
    memcpy(kernel.entries[0].payload, "volumf", 7);
    ask(fixture, 0, FUSE_LOOKUP, FUSE_ROOT_ID, "", 0, 7);
    assert_int_equal(kernel.entries[0].answer, -ENOENT);
    ask(fixture, 0, FUSE_LOOKUP, FUSE_ROOT_ID, "", 0, 2000); /* longer than anything of ours */
    assert_int_equal(kernel.entries[0].answer, -ENOENT);
    ask(fixture, 0, FUSE_GETXATTR, FUSE_PROTO_VOLUME_INO, "12345678", 8, 20);
    assert_int_equal(kernel.entries[0].answer, -ENOSYS);
}

/* What finds no room waits in its entry, small ones behind large ones; a flush of the device's own makes
 * room. */
static void test_full_log_keeps_the_turn(void **state)
{
    struct fixture *fixture = *state;
    unsigned asked = 0, writes = 0, flush = 0;
    for (; asked < 30; asked++)
        ask_write(fixture, asked, (uint64_t)asked * FUSE_URING_PAYLOAD, 'a', FUSE_URING_PAYLOAD);
    ask_write(fixture, asked, 0, 's', BLOCK);
    for (unsigned i = 0; i < fake_session.count; i++) {
        writes += sent_opcode(i) == 0x8a;
        if (sent_opcode(i) == 0x8a) /* the small one, which would fit, waits for its turn */
            assert_int_equal(fake_session.sent[i].task->iovector_out.iov->iov_len, FUSE_URING_PAYLOAD);
        flush = sent_opcode(i) == 0x35 ? i : flush;
    }
    assert_true(writes > 2 && writes < asked);
    assert_true(flush > 0);
    assert_non_null(fixture->uring.parked);
    assert_int_equal(kernel.entries[asked].answer, NOTHING);
    unsigned sent = fake_session.count;
    for (unsigned i = 0; i < sent; i++)
        if (i != flush)
            fake_answer(i, SCSI_STATUS_GOOD);
    fake_answer(flush, SCSI_STATUS_GOOD);
    run(fixture);
    for (unsigned i = sent; i < fake_session.count;
         i++) /* and each flush that it takes until all are through */
        fake_answer(i, SCSI_STATUS_GOOD), run(fixture);
    assert_null(fixture->uring.parked);
    for (unsigned i = 0; i <= asked; i++)
        assert_int_equal(kernel.entries[i].answer, 0);
}

static void test_full_log_that_cannot_be_flushed(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < 30; i++)
        ask_write(fixture, i, (uint64_t)i * FUSE_URING_PAYLOAD, 'a', FUSE_URING_PAYLOAD);
    assert_non_null(fixture->uring.parked);
    fuse_uring_resume(&fixture->uring, -EIO);
    assert_null(fixture->uring.parked);
    assert_int_equal(kernel.entries[29].answer, -EIO);
}

static void test_gone(void **state)
{
    struct fixture *fixture = *state;
    complete(fixture, 0, -ENOTCONN);
    complete(fixture, 1, -ENOTCONN);
    assert_int_equal(fixture->gone_count, 1);
    assert_int_equal(fixture->gone, -ENODEV);
}

static void test_stopped(void **state)
{
    struct fixture *fixture = *state;
    fuse_uring_stop(&fixture->uring);
    complete(fixture, 0, -ENOTCONN);
    assert_int_equal(fixture->gone_count, 0);
}

static void test_refused_registration(void **state)
{
    struct fixture *fixture = *state;
    complete(fixture, 0, -EINVAL);
    assert_int_equal(fixture->gone, -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_queue_is_registered, setup, teardown),
        cmocka_unit_test(test_lists_of_cpus),
        cmocka_unit_test_setup_teardown(test_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_discard_zeroes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_log_keeps_the_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_log_that_cannot_be_flushed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stopped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_registration, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
