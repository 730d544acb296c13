/*
 * The FUSE frontend, byte by byte: a seqpacket pair stands in for /dev/fuse (a request is one packet, so is
 * an answer), a fake session for the target.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/device/fuse_frontend.h"
#include "tests/unit/device_fake_session.h"

#define BLOCK 4096u
#define SIZE (UINT64_C(1) << 30)

struct fixture {
    struct loop *loop;
    struct device_state state;
    struct initiator initiator;
    struct replay_log log;
    struct fuse_ledger ledger;
    int log_fd, ledger_fd, kernel; /* the kernel's end */
    int device;
    struct requests requests;
    struct buffers buffers;
    struct fuse_frontend frontend;
    struct {
        struct fuse_out_header header;
        uint8_t payload[2u << 20];
    } answer;
};

static void relieved(void *context, int result)
{
    struct fixture *fixture = context;
    fuse_frontend_resume(&fixture->frontend, result);
}

static void gone(void *context, int result)
{
    (void)context;
    fail_msg("gone: %d", result);
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
    int pair[2], room = 8 << 20;
    fixture->state = (struct device_state){.size_bytes = SIZE, .block_size_bytes = BLOCK};
    fixture->initiator.state = &fixture->state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room), 0);
    fixture->kernel = pair[0];
    fixture->device = pair[1];
    fake_session_reset();
    assert_int_equal(loop_new(&fixture->loop, &options, NULL), 0);
    assert_int_equal(replay_log_create(&fixture->log, "v", 1, REPLAY_LOG_SIZE_MIN, &fixture->log_fd, NULL),
                     0);
    assert_int_equal(buffers_init(&fixture->buffers, 4u << 20, NULL), 0);
    requests_init(&fixture->requests, fixture->loop, &fixture->initiator, &fixture->log, relieved, fixture);
    assert_int_equal(fuse_frontend_init(&fixture->frontend, fixture->loop, &fixture->state,
                                        &fixture->requests, &fixture->log, &fixture->buffers, NULL),
                     0);
    assert_int_equal(fuse_ledger_create(&fixture->ledger, &fixture->ledger_fd, NULL), 0);
    fuse_frontend_set_ledger(&fixture->frontend, &fixture->ledger);
    fixture->frontend.gone = gone;
    fuse_frontend_add(&fixture->frontend, fixture->device);
    requests_session_identified(&fixture->requests, &limits);
    requests_session_open(&fixture->requests);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    requests_session_lost(&fixture->requests);
    loop_free(fixture->loop);
    fuse_frontend_done(&fixture->frontend);
    buffers_done(&fixture->buffers);
    replay_log_done(&fixture->log);
    fuse_ledger_done(&fixture->ledger);
    fd_close(fixture->ledger_fd);
    fd_close(fixture->log_fd);
    fd_close(fixture->kernel);
    fd_close(fixture->device);
    free(fixture);
    return 0;
}

static void run(struct fixture *fixture)
{
    fake_session_run(fixture->loop, 5);
}

static void ask(struct fixture *fixture, uint32_t opcode, uint64_t unique, uint64_t nodeid,
                const void *argument, size_t argument_length, const void *data, size_t data_length)
{
    struct fuse_in_header header = {.opcode = opcode, .unique = unique, .nodeid = nodeid};
    header.len = (uint32_t)(sizeof header + argument_length + data_length);
    struct iovec iov[3] = {
        {&header, sizeof header}, {(void *)argument, argument_length}, {(void *)data, data_length}};
    assert_int_equal(writev(fixture->kernel, iov, 3), header.len);
    run(fixture);
}

/* The next answer: its payload's length, or -1 when there is none. */
static ssize_t answer(struct fixture *fixture)
{
    ssize_t length = recv(fixture->kernel, &fixture->answer, sizeof fixture->answer, MSG_DONTWAIT);
    if (length < 0)
        return -1;
    assert_int_equal(fixture->answer.header.len, length);
    return length - (ssize_t)sizeof fixture->answer.header;
}

static void expect_error(struct fixture *fixture, uint64_t unique, int error)
{
    assert_int_equal(answer(fixture), 0);
    assert_int_equal(fixture->answer.header.unique, unique);
    assert_int_equal(fixture->answer.header.error, -error);
}

static void ask_write(struct fixture *fixture, uint64_t unique, uint64_t offset, uint8_t byte, uint32_t size)
{
    uint8_t *data = malloc(size);
    memset(data, byte, size);
    struct fuse_write_in in = {.offset = offset, .size = size};
    ask(fixture, FUSE_WRITE, unique, FUSE_PROTO_VOLUME_INO, &in, sizeof in, data, size);
    free(data);
}

static void ask_read(struct fixture *fixture, uint64_t unique, uint64_t offset, uint32_t size)
{
    struct fuse_read_in in = {.offset = offset, .size = size};
    ask(fixture, FUSE_READ, unique, FUSE_PROTO_VOLUME_INO, &in, sizeof in, NULL, 0);
}

static void test_init(void **state)
{
    struct fixture *fixture = *state;
    struct fuse_init_in in = {.major = 7,
                              .minor = 45,
                              .max_readahead = 131072,
                              .flags = 0xffffffff,
                              .flags2 = (uint32_t)(FUSE_HAS_RESEND >> 32)};
    ask(fixture, FUSE_INIT, 2, 0, &in, sizeof in, NULL, 0);
    assert_int_equal(answer(fixture), sizeof(struct fuse_init_out));
    struct fuse_init_out out;
    memcpy(&out, fixture->answer.payload, sizeof out);
    assert_int_equal(out.major, 7);
    assert_int_equal(out.minor, 38);
    assert_int_equal(out.max_write, 1 << 20);
    assert_int_equal(out.max_pages, 256);
    assert_true(out.max_background >= 64);
    assert_int_equal(out.flags, FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES |
                                    FUSE_PARALLEL_DIROPS | FUSE_INIT_EXT);
    assert_int_equal(out.flags2, FUSE_HAS_RESEND >> 32);
    assert_true(fixture->frontend.agreement.resends);

    in.flags2 = 0; /* a kernel before 6.9 */
    ask(fixture, FUSE_INIT, 4, 0, &in, sizeof in, NULL, 0);
    answer(fixture);
    assert_false(fixture->frontend.agreement.resends);
    in.minor = 8;
    ask(fixture, FUSE_INIT, 6, 0, &in, sizeof in, NULL, 0);
    expect_error(fixture, 6, EPROTO);
}

static unsigned switched_count;

static void switched(void *context)
{
    (void)context;
    switched_count++;
}

/* By io_uring only where it is wanted and offered; then requests are no larger than an entry's payload. */
static void test_init_with_io_uring(void **state)
{
    struct fixture *fixture = *state;
    struct fuse_init_out out;
    struct fuse_init_in in = {.major = 7, .minor = 45, .flags = 0xffffffff};
    switched_count = 0;
    fixture->frontend.switched = switched;
    for (unsigned i = 0; i < 3; i++) {
        fixture->frontend.agreement.uring_wanted = i > 0;
        in.flags2 = i == 1 ? 0 : (uint32_t)(FUSE_OVER_IO_URING >> 32);
        ask(fixture, FUSE_INIT, 2 + 2 * i, 0, &in, sizeof in, NULL, 0);
        assert_int_equal(answer(fixture), sizeof out);
        memcpy(&out, fixture->answer.payload, sizeof out);
        assert_int_equal(out.flags2 != 0, i == 2);
        assert_int_equal(out.max_write, i == 2 ? 256 << 10 : 1 << 20);
        assert_int_equal(out.max_pages, i == 2 ? 64 : 256);
        assert_int_equal(switched_count, i == 2);
    }
}

static void test_metadata(void **state)
{
    struct fixture *fixture = *state;
    ask(fixture, FUSE_LOOKUP, 10, FUSE_ROOT_ID, "volume", 7, NULL, 0);
    assert_int_equal(answer(fixture), sizeof(struct fuse_entry_out));
    struct fuse_entry_out entry;
    memcpy(&entry, fixture->answer.payload, sizeof entry);
    assert_int_equal(entry.nodeid, FUSE_PROTO_VOLUME_INO);
    assert_int_equal(entry.attr.size, SIZE);
    assert_int_equal(entry.attr.mode, S_IFREG | 0600);
    ask(fixture, FUSE_LOOKUP, 12, FUSE_ROOT_ID, "volumes", 8, NULL, 0);
    expect_error(fixture, 12, ENOENT);
    ask(fixture, FUSE_LOOKUP, 14, FUSE_ROOT_ID, "volum", 6, NULL, 0);
    expect_error(fixture, 14, ENOENT);
    uint8_t name[256] = "volume";
    ask(fixture, FUSE_LOOKUP, 16, FUSE_ROOT_ID, name, sizeof name, NULL, 0);
    expect_error(fixture, 16, ENOENT);

    struct fuse_getattr_in getattr = {0};
    ask(fixture, FUSE_GETATTR, 18, FUSE_ROOT_ID, &getattr, sizeof getattr, NULL, 0);
    assert_int_equal(answer(fixture), sizeof(struct fuse_attr_out));
    struct fuse_open_in open = {.flags = O_RDWR};
    struct fuse_open_out opened;
    ask(fixture, FUSE_OPEN, 20, FUSE_PROTO_VOLUME_INO, &open, sizeof open, NULL, 0);
    assert_int_equal(answer(fixture), sizeof opened);
    memcpy(&opened, fixture->answer.payload, sizeof opened);
    assert_int_equal(opened.open_flags, FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES);
    fixture->state.read_only = true;
    ask(fixture, FUSE_OPEN, 22, FUSE_PROTO_VOLUME_INO, &open, sizeof open, NULL, 0);
    expect_error(fixture, 22, EROFS);
    ask(fixture, FUSE_STATFS, 24, FUSE_ROOT_ID, NULL, 0, NULL, 0);
    assert_int_equal(answer(fixture), sizeof(struct fuse_statfs_out));
    ask(fixture, 9999, 26, FUSE_ROOT_ID, NULL, 0, NULL, 0);
    expect_error(fixture, 26, ENOSYS);
    struct fuse_interrupt_in interrupt = {.unique = 20};
    ask(fixture, FUSE_INTERRUPT, 21, 0, &interrupt, sizeof interrupt, NULL, 0);
    struct fuse_forget_in forget = {.nlookup = 1};
    ask(fixture, FUSE_FORGET, 28, FUSE_PROTO_VOLUME_INO, &forget, sizeof forget, NULL, 0);
    assert_int_equal(answer(fixture), -1);
    assert_int_equal(fixture->frontend.in_flight, 0);
}

/* A write is in the log before it is on the wire, and on the wire before it is answered. */
static void test_write(void **state)
{
    struct fixture *fixture = *state;
    const uint8_t cdb[16] = {0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3};
    ask_write(fixture, 30, 2 * BLOCK, 'w', 3 * BLOCK);
    assert_int_equal(fake_session.count, 1);
    struct scsi_task *task = fake_session.sent[0].task;
    assert_memory_equal(task->cdb, cdb, 16);
    struct replay_entry *entry = replay_log_first(&fixture->log);
    assert_non_null(entry);
    assert_int_equal(entry->offset, 2 * BLOCK);
    assert_int_equal(entry->payload_length, 3 * BLOCK);
    assert_ptr_equal(task->iovector_out.iov->iov_base, replay_entry_payload(entry)); /* no copy */
    const uint8_t *payload = replay_entry_payload(entry);
    assert_int_equal(payload[0], 'w');
    assert_int_equal(payload[3 * BLOCK - 1], 'w');
    assert_int_equal(answer(fixture), -1);

    fake_answer(0, SCSI_STATUS_GOOD);
    const uint8_t bytes[24] = {24, 0, 0, 0, 0, 0, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0x30};
    assert_int_equal(answer(fixture), 8);
    assert_memory_equal(&fixture->answer, bytes, 24);
    assert_non_null(replay_log_first(&fixture->log)); /* until a flush */
}

static void test_read(void **state)
{
    struct fixture *fixture = *state;
    ask_read(fixture, 32, BLOCK, 2 * BLOCK);
    struct scsi_task *task = fake_session.sent[0].task;
    memset(task->iovector_in.iov->iov_base, 'r', 2 * BLOCK);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(answer(fixture), 2 * BLOCK);
    assert_int_equal(fixture->answer.payload[0], 'r');
    assert_int_equal(fixture->answer.payload[2 * BLOCK - 1], 'r');
    ask_read(fixture, 34, SIZE, BLOCK); /* at the end: nothing */
    expect_error(fixture, 34, 0);
    ask_read(fixture, 36, 512, BLOCK);
    expect_error(fixture, 36, EINVAL);
    assert_int_equal(fake_session.count, 1);
    assert_true(replay_log_empty(&fixture->log));
}

static unsigned settled;

static void count_settled(int fd)
{
    assert_true(fd >= 0);
    settled++;
}

/* Users of the loop device learn of a batch's answers at its end, once: see softirq.h. */
static void test_answers_are_settled(void **state)
{
    struct fixture *fixture = *state;
    fixture->frontend.softirqs = count_settled;
    settled = 0;
    ask_read(fixture, 38, 0, BLOCK);
    ask_write(fixture, 40, 0, 'w', BLOCK);
    run(fixture);
    assert_int_equal(settled, 0);
    fake_answer(0, SCSI_STATUS_GOOD);
    fake_answer(1, SCSI_STATUS_GOOD);
    assert_int_equal(settled, 0); /* in time for both */
    run(fixture);
    assert_int_equal(settled, 1);
    assert_int_equal(answer(fixture), BLOCK);
    assert_int_equal(answer(fixture), sizeof(struct fuse_write_out));
}

static void test_resent_unique_is_echoed(void **state)
{
    struct fixture *fixture = *state;
    uint64_t unique = 44 | FUSE_UNIQUE_RESEND;
    ask_write(fixture, unique, 0, 'w', BLOCK);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(answer(fixture), 8);
    assert_true(fixture->answer.header.unique == unique);
}

static void test_refused_writes(void **state)
{
    struct fixture *fixture = *state;
    ask_write(fixture, 50, 0, 'w', 100);
    expect_error(fixture, 50, EINVAL);
    ask_write(fixture, 52, SIZE, 'w', BLOCK);
    expect_error(fixture, 52, EFBIG);
    ask_write(fixture, 54, UINT64_MAX - BLOCK + 1, 'w', 2 * BLOCK);
    expect_error(fixture, 54, EFBIG);
    struct fuse_write_in lies = {.offset = 0, .size = 2 * BLOCK};
    uint8_t data[BLOCK] = {0};
    ask(fixture, FUSE_WRITE, 56, FUSE_PROTO_VOLUME_INO, &lies, sizeof lies, data, BLOCK);
    expect_error(fixture, 56, EINVAL);
    fixture->state.read_only = true;
    ask_write(fixture, 58, 0, 'w', BLOCK);
    expect_error(fixture, 58, EROFS);
    assert_int_equal(fake_session.count, 0);
    assert_true(replay_log_empty(&fixture->log));
}

static void test_fsync_and_fallocate(void **state)
{
    struct fixture *fixture = *state;
    struct fuse_fsync_in fsync = {0};
    ask(fixture, FUSE_FSYNC, 60, FUSE_PROTO_VOLUME_INO, &fsync, sizeof fsync, NULL, 0);
    assert_int_equal(fake_session.sent[0].task->cdb[0], 0x35);
    assert_int_equal(answer(fixture), -1);
    fake_answer(0, SCSI_STATUS_GOOD);
    expect_error(fixture, 60, 0);
    ask(fixture, FUSE_FSYNC, 62, FUSE_PROTO_VOLUME_INO, &fsync, sizeof fsync, NULL, 0);
    fake_answer_sense(1, SCSI_SENSE_MEDIUM_ERROR, 0x0c00);
    expect_error(fixture, 62, EIO);

    struct fuse_fallocate_in punch = {
        .offset = BLOCK, .length = BLOCK, .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
    ask(fixture, FUSE_FALLOCATE, 64, FUSE_PROTO_VOLUME_INO, &punch, sizeof punch, NULL, 0);
    assert_int_equal(fake_session.sent[2].task->cdb[0], 0x42);
    assert_int_equal(replay_log_first(&fixture->log)->op, REPLAY_DISCARD);
    fake_answer(2, SCSI_STATUS_GOOD);
    expect_error(fixture, 64, 0);
    punch.mode = FALLOC_FL_ZERO_RANGE;
    ask(fixture, FUSE_FALLOCATE, 66, FUSE_PROTO_VOLUME_INO, &punch, sizeof punch, NULL, 0);
    assert_int_equal(fake_session.sent[3].task->cdb[0], 0x93);
    fake_answer(3, SCSI_STATUS_GOOD);
    expect_error(fixture, 66, 0);
    punch.mode = 0;
    ask(fixture, FUSE_FALLOCATE, 68, FUSE_PROTO_VOLUME_INO, &punch, sizeof punch, NULL, 0);
    expect_error(fixture, 68, EOPNOTSUPP);
}

/* More reads than there are buffers: the rest waits in the kernel, nothing is lost, nothing grows. */
static void test_reads_wait_for_buffers(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < 6; i++)
        ask_read(fixture, 100 + i, 0, 1u << 20);
    assert_int_equal(fake_session.count, 2);
    for (unsigned i = 0; i < 6; i++) {
        fake_answer(i, SCSI_STATUS_GOOD);
        assert_int_equal(answer(fixture), 1 << 20);
        assert_int_equal(fixture->answer.header.unique, 100 + i);
        run(fixture);
    }
    assert_int_equal(fixture->frontend.in_flight, 0);
}

/* The log is full: the device flushes by itself, then the change that waited goes on; reads pass. */
static void test_full_log_waits_for_a_flush(void **state)
{
    struct fixture *fixture = *state;
    unsigned next = 0, writes = 0, flushes = 0, answers = 0;
    for (unsigned i = 0; i < 12; i++)
        ask_write(fixture, 200 + i, i << 20, (uint8_t)('a' + i), 1u << 20);
    while (next < fake_session.count) {
        const uint8_t *cdb = fake_session.sent[next].task->cdb;
        if (cdb[0] == 0x35) {
            flushes++;
        } else {
            assert_int_equal(cdb[0], 0x8a);
            const uint8_t *data = fake_session.sent[next].task->iovector_out.iov->iov_base;
            assert_int_equal(data[0], 'a' + writes);
            assert_int_equal(data[(1 << 20) - 1], 'a' + writes);
            writes++;
        }
        fake_answer(next++, SCSI_STATUS_GOOD);
        run(fixture);
    }
    while (answer(fixture) >= 0)
        answers += fixture->answer.header.error == 0;
    assert_int_equal(writes, 12);
    assert_int_equal(answers, 12);
    assert_true(flushes >= 3);
}

/* The volume is write-failed: the change that has no room in the log gets the error, reads go on. */
static void test_full_log_and_failing_flush(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < 5; i++)
        ask_write(fixture, 300 + i, i << 20, 'w', 1u << 20);
    unsigned failed = 0, next = 0;
    while (next < fake_session.count && fake_session.dropped == 0) {
        if (fake_session.sent[next].task->cdb[0] == 0x35)
            fake_answer_sense(next++, SCSI_SENSE_MEDIUM_ERROR, 0x0c00);
        else
            fake_answer(next++, SCSI_STATUS_GOOD);
        run(fixture);
    }
    assert_int_equal(fake_session.dropped, 1);
    const struct volume_limits limits = fixture->requests.limits;
    requests_session_lost(&fixture->requests);
    requests_session_identified(&fixture->requests, &limits);
    fake_session_reset();
    requests_session_refused(&fixture->requests, EIO); /* the replay that comes now */
    run(fixture);
    while (answer(fixture) >= 0)
        failed += fixture->answer.header.error == -EIO;
    assert_int_equal(failed, 3); /* 4 MiB hold three of them; the third was sent behind the flush */
    next = fake_session.count;
    ask_read(fixture, 400, 0, BLOCK);
    assert_int_equal(fake_session.count, next + 1);
    fake_answer(next, SCSI_STATUS_GOOD);
    assert_int_equal(answer(fixture), BLOCK);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_init),
        TEST(test_init_with_io_uring),
        TEST(test_metadata),
        TEST(test_write),
        TEST(test_read),
        TEST(test_answers_are_settled),
        TEST(test_resent_unique_is_echoed),
        TEST(test_refused_writes),
        TEST(test_fsync_and_fallocate),
        TEST(test_reads_wait_for_buffers),
        TEST(test_full_log_waits_for_a_flush),
        TEST(test_full_log_and_failing_flush),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
