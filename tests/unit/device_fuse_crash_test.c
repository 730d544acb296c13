/*
 * A crash of the process at any point of a request's life, and the successor's work with the ledger, where
 * the kernel does not send again. A seqpacket pair stands in for /dev/fuse, a list of numbers for what the
 * kernel waits for, a fake session for the target.
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
#include <sys/uio.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/device/fuse_frontend.h"
#include "tests/unit/device_fake_session.h"

#define BLOCK 4096u
#define SIZE (UINT64_C(1) << 30)
#define MEBI (1u << 20)

struct fixture {
    struct loop *loop;
    struct device_state state;
    struct initiator initiator;
    struct replay_log log;
    struct fuse_ledger ledger;
    int log_fd, ledger_fd, kernel, device;
    struct requests requests;
    struct buffers buffers;
    struct fuse_frontend frontend;
    struct request flush;
    struct {
        struct fuse_out_header header;
        uint8_t payload[2 * MEBI];
    } answer;
};

static uint64_t waited_for[64]; /* by the kernel; 0: free */

static bool kernel_waits(int fd, uint64_t unique)
{
    (void)fd;
    for (size_t i = 0; i < 64; i++)
        if (waited_for[i] == unique)
            return true;
    return false;
}

static void kernel_note(uint64_t from, uint64_t to)
{
    for (size_t i = 0; i < 64; i++) {
        if (waited_for[i] == from) {
            waited_for[i] = to;
            return;
        }
    }
    fail_msg("no such number");
}

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

static void process_start(struct fixture *fixture)
{
    struct loop_options options = {.entries = 32};
    fake_session_reset();
    assert_int_equal(loop_new(&fixture->loop, &options, NULL), 0);
    assert_int_equal(buffers_init(&fixture->buffers, 4 * MEBI, NULL), 0);
    requests_init(&fixture->requests, fixture->loop, &fixture->initiator, &fixture->log, relieved, fixture);
    assert_int_equal(fuse_frontend_init(&fixture->frontend, fixture->loop, &fixture->state,
                                        &fixture->requests, &fixture->log, &fixture->buffers, NULL),
                     0);
    fuse_frontend_set_ledger(&fixture->frontend, &fixture->ledger);
    fixture->frontend.gone = gone;
    fixture->frontend.request_known = kernel_waits;
}

static void session_identified(struct fixture *fixture)
{
    const struct volume_limits limits = {.size_bytes = SIZE,
                                         .block_size_bytes = BLOCK,
                                         .transfer_max_bytes = MEBI,
                                         .unmap_max_bytes = SIZE,
                                         .same_max_bytes = SIZE};
    requests_session_identified(&fixture->requests, &limits);
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    int pair[2], room = 8 * MEBI;
    memset(waited_for, 0, sizeof waited_for);
    fixture->state = (struct device_state){.size_bytes = SIZE, .block_size_bytes = BLOCK};
    fixture->initiator.state = &fixture->state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room), 0);
    fixture->kernel = pair[0];
    fixture->device = pair[1];
    assert_int_equal(replay_log_create(&fixture->log, "v", 1, REPLAY_LOG_SIZE_MIN, &fixture->log_fd, NULL),
                     0);
    assert_int_equal(fuse_ledger_create(&fixture->ledger, &fixture->ledger_fd, NULL), 0);
    process_start(fixture);
    fuse_frontend_add(&fixture->frontend, fixture->device);
    session_identified(fixture);
    requests_session_open(&fixture->requests);
    *state = fixture;
    return 0;
}

/* Nothing of the process's own memory goes with it; the socket pair, the log and the ledger stay. */
static void process_end(struct fixture *fixture)
{
    requests_session_lost(&fixture->requests);
    loop_free(fixture->loop);
    fuse_frontend_done(&fixture->frontend);
    buffers_done(&fixture->buffers);
    replay_log_done(&fixture->log);
    fuse_ledger_done(&fixture->ledger);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    process_end(fixture);
    fd_close(fixture->log_fd);
    fd_close(fixture->ledger_fd);
    fd_close(fixture->kernel);
    fd_close(fixture->device);
    free(fixture);
    return 0;
}

/* The successor, up to its first session: returns how many requests it claims. */
static unsigned crash(struct fixture *fixture)
{
    const int fds[FUSE_CHANNELS] = {fixture->device, fixture->device};
    process_end(fixture);
    assert_int_equal(replay_log_adopt(&fixture->log, fixture->log_fd, "v", 1, NULL), 0);
    assert_int_equal(fuse_ledger_adopt(&fixture->ledger, fixture->ledger_fd, NULL), 0);
    process_start(fixture);
    unsigned claimed = fuse_frontend_claim(&fixture->frontend, fds);
    session_identified(fixture);
    return claimed;
}

static void run(struct fixture *fixture)
{
    fake_session_run(fixture->loop, 5);
}

static void serve(struct fixture *fixture)
{
    requests_session_open(&fixture->requests);
    fuse_frontend_add(&fixture->frontend, fixture->device);
    fuse_frontend_recover(&fixture->frontend);
    run(fixture);
}

static void ask(struct fixture *fixture, uint32_t opcode, uint64_t unique, const void *argument,
                size_t argument_length, const void *data, size_t data_length)
{
    struct fuse_in_header header = {.opcode = opcode, .unique = unique, .nodeid = FUSE_PROTO_VOLUME_INO};
    header.len = (uint32_t)(sizeof header + argument_length + data_length);
    struct iovec iov[3] = {
        {&header, sizeof header}, {(void *)argument, argument_length}, {(void *)data, data_length}};
    assert_int_equal(writev(fixture->kernel, iov, 3), header.len);
    kernel_note(0, unique);
}

static void ask_write(struct fixture *fixture, uint64_t unique, uint64_t offset, uint8_t byte, uint32_t size)
{
    uint8_t *data = malloc(size);
    memset(data, byte, size);
    struct fuse_write_in in = {.offset = offset, .size = size};
    ask(fixture, FUSE_WRITE, unique, &in, sizeof in, data, size);
    free(data);
    run(fixture);
}

static void ask_read(struct fixture *fixture, uint64_t unique, uint32_t size)
{
    struct fuse_read_in in = {.size = size};
    ask(fixture, FUSE_READ, unique, &in, sizeof in, NULL, 0);
    run(fixture);
}

static void expect_silence(struct fixture *fixture)
{
    assert_int_equal(recv(fixture->kernel, &fixture->answer, sizeof fixture->answer, MSG_DONTWAIT), -1);
}

static void expect(struct fixture *fixture, uint64_t unique, int error, size_t length)
{
    ssize_t got = recv(fixture->kernel, &fixture->answer, sizeof fixture->answer, MSG_DONTWAIT);
    assert_int_equal(got, sizeof fixture->answer.header + length);
    assert_int_equal(fixture->answer.header.unique, unique);
    assert_int_equal(fixture->answer.header.error, -error);
    kernel_note(unique, 0);
}

/* The answer was made, but did not get out: the process died on its way to write(2). */
static void lose_answer(struct fixture *fixture)
{
    assert_true(recv(fixture->kernel, &fixture->answer, sizeof fixture->answer, MSG_DONTWAIT) > 0);
}

static uint8_t sent_opcode(unsigned index)
{
    assert_true(index < fake_session.count);
    return fake_session.sent[index].task->cdb[0];
}

static void expect_sent_write(unsigned index, uint8_t byte, uint32_t size)
{
    assert_int_equal(sent_opcode(index), 0x8a);
    const struct scsi_iovec *iov = fake_session.sent[index].task->iovector_out.iov;
    const uint8_t *data = iov->iov_base;
    assert_int_equal(iov->iov_len, size);
    assert_int_equal(data[0], byte);
    assert_int_equal(data[size - 1], byte);
}

/* Sent, not answered: it is sent again from where it stands in the log, once. */
static void test_sent_write(void **state)
{
    struct fixture *fixture = *state;
    ask_write(fixture, 10, 0, 'a', 3 * BLOCK);
    assert_int_equal(crash(fixture), 1);
    serve(fixture);
    assert_int_equal(fake_session.count, 1);
    expect_sent_write(0, 'a', 3 * BLOCK);
    struct replay_entry *entry = replay_log_first(&fixture->log);
    assert_null(replay_log_next(&fixture->log, entry));
    fake_answer(0, SCSI_STATUS_GOOD);
    expect(fixture, 10, 0, sizeof(struct fuse_write_out));
    ask_write(fixture, 12, BLOCK, 'b', BLOCK);
    expect_sent_write(1, 'b', BLOCK);
}

/* The last instruction was the kernel's copy. Built by hand, as channel_read() would have left it. */
static void test_write_that_only_landed(void **state)
{
    struct fixture *fixture = *state;
    struct fuse_record *record = fixture->frontend.free->record;
    struct fuse_write_in in = {.offset = BLOCK, .size = 2 * BLOCK};
    memset(replay_log_reserve(&fixture->log, FUSE_PROTO_MAX_WRITE), 'l', 2 * BLOCK);
    *record = (struct fuse_record){.position = replay_log_tail(&fixture->log)};
    record->head.header = (struct fuse_in_header){.opcode = FUSE_WRITE, .unique = 14};
    record->head.header.nodeid = FUSE_PROTO_VOLUME_INO;
    record->head.header.len = FUSE_HEAD_SIZE + 2 * BLOCK;
    memcpy(record->head.bytes + sizeof record->head.header, &in, sizeof in);
    record->state = FUSE_RECORD_TAKEN;
    kernel_note(0, 14);
    assert_int_equal(crash(fixture), 1);
    assert_true(replay_log_empty(&fixture->log));
    serve(fixture);
    expect_sent_write(0, 'l', 2 * BLOCK);
    assert_int_equal(replay_log_first(&fixture->log)->offset, BLOCK);
    fake_answer(0, SCSI_STATUS_GOOD);
    expect(fixture, 14, 0, sizeof(struct fuse_write_out));
}

/* Answered by the target, not to the kernel: the same answer again, and no second execution. */
static void test_answering(void **state)
{
    struct fixture *fixture = *state;
    struct fuse_fsync_in fsync = {0};
    ask_write(fixture, 20, 0, 'a', BLOCK);
    ask_write(fixture, 22, BLOCK, 'b', BLOCK);
    ask(fixture, FUSE_FSYNC, 24, &fsync, sizeof fsync, NULL, 0);
    run(fixture);
    fake_answer(0, SCSI_STATUS_GOOD);
    lose_answer(fixture);
    fake_answer_sense(1, SCSI_SENSE_DATA_PROTECTION, 0x2707);
    lose_answer(fixture);
    fake_answer(2, SCSI_STATUS_GOOD);
    lose_answer(fixture);
    assert_int_equal(crash(fixture), 3);
    serve(fixture);
    assert_int_equal(fake_session.count, 0);
    expect(fixture, 24, 0, 0); /* in any order */
    expect(fixture, 22, ENOSPC, 0);
    expect(fixture, 20, 0, sizeof(struct fuse_write_out));
    expect_silence(fixture);
}

/* Told to the kernel: nothing is left to do, though the record looks as before. */
static void test_answered(void **state)
{
    struct fixture *fixture = *state;
    ask_write(fixture, 26, 0, 'a', BLOCK);
    fake_answer(0, SCSI_STATUS_GOOD);
    expect(fixture, 26, 0, sizeof(struct fuse_write_out));
    assert_int_equal(crash(fixture), 0);
    serve(fixture);
    assert_int_equal(fake_session.count, 0);
    expect_silence(fixture);
    assert_non_null(replay_log_first(&fixture->log)); /* until a flush */
}

static void flush_done(struct request *request, int result)
{
    (void)request;
    assert_int_equal(result, 0);
}

/* A flush of the replay comes before the request is carried out again: its data must not leave the log. */
static void test_flush_before_recovery(void **state)
{
    struct fixture *fixture = *state;
    ask_write(fixture, 30, 0, 'k', BLOCK);
    assert_int_equal(crash(fixture), 1);
    fixture->flush = (struct request){.verb = REQUEST_FLUSH, .internal = true, .done = flush_done};
    requests_submit(&fixture->requests, &fixture->flush);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_false(replay_log_empty(&fixture->log));
    serve(fixture);
    expect_sent_write(1, 'k', BLOCK);
    fake_answer(1, SCSI_STATUS_GOOD);
    expect(fixture, 30, 0, sizeof(struct fuse_write_out));
}

static void test_other_requests(void **state)
{
    struct fixture *fixture = *state;
    struct fuse_fsync_in fsync = {0};
    struct fuse_fallocate_in punch = {
        .offset = BLOCK, .length = BLOCK, .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
    ask_read(fixture, 40, BLOCK);
    ask(fixture, FUSE_FSYNC, 42, &fsync, sizeof fsync, NULL, 0);
    ask(fixture, FUSE_FALLOCATE, 44, &punch, sizeof punch, NULL, 0);
    run(fixture);
    assert_int_equal(fake_session.count, 3);
    fake_answer(0, SCSI_STATUS_GOOD); /* the read's answer is lost: it is read again */
    lose_answer(fixture);
    assert_int_equal(crash(fixture), 3);
    serve(fixture);
    assert_int_equal(fake_session.count, 3);
    unsigned seen = 0;
    for (unsigned i = 0; i < 3; i++) {
        uint8_t opcode = sent_opcode(i);
        seen |= opcode == 0x88 ? 1 : opcode == 0x35 ? 2 : opcode == 0x42 ? 4 : 8;
    }
    assert_int_equal(seen, 7);
    assert_null(replay_log_next(&fixture->log, replay_log_first(&fixture->log)));
}

/* Answer whatever is sent until the kernel has that many answers, all of them good; how many were writes. */
static unsigned answer_until(struct fixture *fixture, unsigned answers)
{
    unsigned next = 0, writes = 0;
    for (unsigned rounds = 0; answers > 0; rounds++) {
        assert_true(rounds < 1000);
        while (next < fake_session.count) {
            writes += sent_opcode(next) == 0x8a;
            fake_answer(next++, SCSI_STATUS_GOOD);
        }
        while (recv(fixture->kernel, &fixture->answer, sizeof fixture->answer, MSG_DONTWAIT) > 0) {
            assert_int_equal(fixture->answer.header.error, 0);
            answers--;
        }
        run(fixture);
    }
    return writes;
}

/* The log was full: the data is in the landing place; two crashes, then room. */
static void test_parked_write(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < 4; i++)
        ask_write(fixture, 50 + 2 * i, i * MEBI, (uint8_t)('a' + i), MEBI);
    assert_non_null(fixture->frontend.parked);
    assert_int_equal(crash(fixture), 4);
    assert_int_equal(crash(fixture), 4);
    serve(fixture);
    ask_write(fixture, 58, 4 * MEBI, 'e', MEBI); /* stays in the kernel: the landing place is taken */
    assert_non_null(fixture->frontend.parked);
    assert_int_equal(answer_until(fixture, 5), 5);
}

static void test_more_than_buffers(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < 2; i++)
        ask_read(fixture, 70 + 2 * i, MEBI);
    ask_read(fixture, 74, MEBI); /* parked: two buffers of that size */
    assert_int_equal(crash(fixture), 3);
    serve(fixture);
    ask_read(fixture, 76, MEBI);
    assert_int_equal(fake_session.count, 2);
    answer_until(fixture, 4);
    assert_int_equal(fixture->frontend.in_flight, 0);
}

static void test_ledger_of_another_format(void **state)
{
    struct fixture *fixture = *state;
    struct fuse_ledger ledger;
    ((uint8_t *)fixture->ledger.mapping)[8]++;
    assert_int_equal(fuse_ledger_adopt(&ledger, fixture->ledger_fd, NULL), E_CORRUPT);
    assert_int_equal(fuse_ledger_adopt(&ledger, fixture->log_fd, NULL), E_CORRUPT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_sent_write),   TEST(test_write_that_only_landed), TEST(test_answering),
        TEST(test_answered),     TEST(test_flush_before_recovery),  TEST(test_other_requests),
        TEST(test_parked_write), TEST(test_more_than_buffers),      TEST(test_ledger_of_another_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
