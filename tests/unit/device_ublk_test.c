/*
 * The ublk frontend's queue: a sparse file stands in for the character device (the requests at its begin,
 * each tag's data far behind), loop_command() is the test's own and plays the driver, a fake session the
 * target.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/device/ublk_find.h"
#include "datapath/device/ublk_kernels.h"
#include "datapath/device/ublk_namespace.h"
#include "datapath/device/ublk_queue.h"
#include "tests/unit/device_fake_session.h"

#define BLOCK 4096u
#define SIZE (UINT64_C(1) << 30)
#define DEPTH 16u
#define MIB_BYTES (1u << 20)
#define NOTHING 12345 /* no command of that tag has come since */

struct driver {
    struct loop_op *pending[DEPTH]; /* commands that wait for a request */
    uint32_t code[DEPTH];
    int result[DEPTH]; /* committed; NOTHING: not yet */
    unsigned commands;
    int fd;
};

static struct driver driver;

void loop_command(struct loop *loop, struct loop_op *op, int fd, uint32_t code, const void *command)
{
    struct ublksrv_io_cmd io;
    (void)loop;
    memcpy(&io, command, sizeof io);
    assert_int_equal(fd, driver.fd);
    assert_int_equal(io.q_id, 0);
    assert_true(io.addr == 0); /* user copy */
    assert_true(io.tag < DEPTH);
    assert_null(driver.pending[io.tag]);
    driver.pending[io.tag] = op;
    driver.code[io.tag] = code;
    driver.result[io.tag] = io.result;
    driver.commands++;
}

struct fixture {
    struct loop *loop;
    struct device_state state;
    struct initiator initiator;
    struct replay_log log;
    int log_fd, file;
    struct requests requests;
    struct buffers buffers;
    struct frontend_parts parts;
    struct ublksrv_io_desc *asked;
    struct ublk_queue queue;
    int gone;
    unsigned gone_count;
};

static void relieved(void *context, int result)
{
    struct fixture *fixture = context;
    ublk_queue_resume(&fixture->queue, result);
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
                                   .transfer_max_bytes = MIB_BYTES,
                                   .unmap_max_bytes = SIZE,
                                   .same_max_bytes = SIZE};
    fixture->state = (struct device_state){.size_bytes = SIZE, .block_size_bytes = BLOCK};
    fixture->initiator.state = &fixture->state;
    fixture->file = memfd_create("ublkc", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fixture->file, (off_t)UBLK_PROTO_DATA(DEPTH)), 0);
    fixture->asked = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fixture->file, 0);
    assert_ptr_not_equal(fixture->asked, MAP_FAILED);
    driver = (struct driver){.fd = fixture->file};
    fake_session_reset();
    assert_int_equal(loop_new(&fixture->loop, &options, NULL), 0);
    assert_int_equal(replay_log_create(&fixture->log, "v", 1, REPLAY_LOG_SIZE_MIN, &fixture->log_fd, NULL),
                     0);
    assert_int_equal(buffers_init(&fixture->buffers, 4u << 20, NULL), 0);
    requests_init(&fixture->requests, fixture->loop, &fixture->initiator, &fixture->log, relieved, fixture);
    fixture->parts = (struct frontend_parts){.loop = fixture->loop,
                                             .state = &fixture->state,
                                             .requests = &fixture->requests,
                                             .log = &fixture->log,
                                             .buffers = &fixture->buffers};
    assert_int_equal(
        ublk_queue_init(&fixture->queue, &fixture->parts, fixture->file, fixture->asked, DEPTH, NULL), 0);
    fixture->queue.gone = gone;
    fixture->queue.context = fixture;
    requests_session_identified(&fixture->requests, &limits);
    requests_session_open(&fixture->requests);
    ublk_queue_serve(&fixture->queue);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    requests_session_lost(&fixture->requests);
    loop_free(fixture->loop);
    ublk_queue_done(&fixture->queue);
    buffers_done(&fixture->buffers);
    replay_log_done(&fixture->log);
    munmap(fixture->asked, BLOCK);
    fd_close(fixture->log_fd);
    fd_close(fixture->file);
    free(fixture);
    return 0;
}

static void run(struct fixture *fixture)
{
    fake_session_run(fixture->loop, 5);
}

/* The driver ends the tag's command. */
static void complete(unsigned tag, int res)
{
    struct loop_op *op = driver.pending[tag];
    assert_non_null(op);
    driver.pending[tag] = NULL;
    driver.result[tag] = NOTHING;
    op->done(op, res, 0);
}

static void ask(struct fixture *fixture, unsigned tag, uint32_t op, uint64_t offset, uint64_t length)
{
    fixture->asked[tag] = (struct ublksrv_io_desc){
        .op_flags = op, .nr_sectors = (uint32_t)(length >> 9), .start_sector = offset >> 9};
    complete(tag, UBLK_IO_RES_OK);
    run(fixture);
}

static void put_data(struct fixture *fixture, unsigned tag, uint8_t byte, size_t length)
{
    uint8_t *data = malloc(length);
    memset(data, byte, length);
    assert_int_equal(pwrite(fixture->file, data, length, (off_t)UBLK_PROTO_DATA(tag)), length);
    free(data);
}

static void ask_write(struct fixture *fixture, unsigned tag, uint64_t offset, uint8_t byte, size_t length)
{
    put_data(fixture, tag, byte, length);
    ask(fixture, tag, UBLK_IO_OP_WRITE, offset, length);
}

static const uint8_t *sent_cdb(unsigned index)
{
    assert_true(index < fake_session.count);
    return fake_session.sent[index].task->cdb;
}

/* ---- tests ---- */

static void test_every_tag_is_fetched(void **state)
{
    (void)state;
    assert_int_equal(driver.commands, DEPTH);
    for (unsigned i = 0; i < DEPTH; i++) {
        assert_non_null(driver.pending[i]);
        assert_int_equal(driver.code[i], UBLK_PROTO_FETCH_REQ);
    }
}

/* A write is in the log before it is on the wire, and on the wire before it is committed. */
static void test_write(void **state)
{
    struct fixture *fixture = *state;
    const uint8_t cdb[16] = {0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3};
    ask_write(fixture, 5, 2 * BLOCK, 'w', 3 * BLOCK);
    assert_int_equal(fake_session.count, 1);
    assert_memory_equal(sent_cdb(0), cdb, 16);
    struct replay_entry *entry = replay_log_first(&fixture->log);
    assert_non_null(entry);
    assert_int_equal(entry->offset, 2 * BLOCK);
    const uint8_t *payload = replay_entry_payload(entry);
    assert_ptr_equal(fake_session.sent[0].task->iovector_out.iov->iov_base, payload);
    assert_int_equal(payload[0], 'w');
    assert_int_equal(payload[3 * BLOCK - 1], 'w');
    assert_int_equal(driver.result[5], NOTHING);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(driver.result[5], 3 * BLOCK);
    assert_int_equal(driver.code[5], UBLK_PROTO_COMMIT_AND_FETCH_REQ);
    assert_non_null(replay_log_first(&fixture->log)); /* until a flush */
}

static void test_fua(void **state)
{
    struct fixture *fixture = *state;
    put_data(fixture, 0, 'f', BLOCK);
    ask(fixture, 0, UBLK_IO_OP_WRITE | UBLK_IO_F_FUA, 0, BLOCK);
    assert_int_equal(sent_cdb(0)[0], 0x8a);
    assert_int_equal(sent_cdb(0)[1], 0x08);
}

static void test_read(void **state)
{
    struct fixture *fixture = *state;
    uint8_t got[2 * BLOCK];
    ask(fixture, 7, UBLK_IO_OP_READ, BLOCK, 2 * BLOCK);
    struct scsi_task *task = fake_session.sent[0].task;
    assert_int_equal(task->cdb[0], 0x88);
    memset(task->iovector_in.iov->iov_base, 'r', 2 * BLOCK);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(driver.result[7], 2 * BLOCK);
    assert_int_equal(pread(fixture->file, got, sizeof got, (off_t)UBLK_PROTO_DATA(7)), sizeof got);
    assert_int_equal(got[0], 'r');
    assert_int_equal(got[2 * BLOCK - 1], 'r');
    assert_true(replay_log_empty(&fixture->log));

    ask(fixture, 7, UBLK_IO_OP_READ, 0, BLOCK); /* the tag serves again; an error is committed as it is */
    fake_answer_sense(1, SCSI_SENSE_MEDIUM_ERROR, 0x1100);
    assert_int_equal(driver.result[7], -EIO);
}

static void test_flush_discard_zeroes(void **state)
{
    struct fixture *fixture = *state;
    ask(fixture, 0, UBLK_IO_OP_FLUSH, 0, 0);
    assert_int_equal(sent_cdb(0)[0], 0x35);
    assert_int_equal(driver.result[0], NOTHING);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(driver.result[0], 0);
    ask(fixture, 1, UBLK_IO_OP_DISCARD, BLOCK, 4 * BLOCK);
    assert_int_equal(sent_cdb(1)[0], 0x42);
    assert_int_equal(replay_log_first(&fixture->log)->op, REPLAY_DISCARD);
    fake_answer(1, SCSI_STATUS_GOOD);
    assert_int_equal(driver.result[1], 0);
    ask(fixture, 2, UBLK_IO_OP_WRITE_ZEROES, 0, UINT64_C(512) << 20); /* more than any data request */
    assert_int_equal(sent_cdb(2)[0], 0x42);
    ask(fixture, 3, UBLK_IO_OP_WRITE_ZEROES | UBLK_IO_F_NOUNMAP, 0, BLOCK);
    assert_int_equal(sent_cdb(3)[0], 0x93); /* the space is kept: no UNMAP bit */
    assert_int_equal(sent_cdb(3)[1], 0);
    ask(fixture, 4, UBLK_IO_OP_FLUSH, 0, 0);
    fake_answer_sense(4, SCSI_SENSE_MEDIUM_ERROR, 0x0c00);
    assert_int_equal(driver.result[4], -EIO);
}

static void test_refused(void **state)
{
    struct fixture *fixture = *state;
    ask_write(fixture, 0, SIZE - BLOCK, 'w', 2 * BLOCK);
    assert_int_equal(driver.result[0], -EINVAL);
    ask_write(fixture, 1, 512, 'w', BLOCK);
    assert_int_equal(driver.result[1], -EINVAL);
    ask(fixture, 2, UBLK_IO_OP_READ, 0, 2 * MIB_BYTES);
    assert_int_equal(driver.result[2], -EINVAL);
    ask(fixture, 3, UBLK_IO_OP_READ, 0, 0);
    assert_int_equal(driver.result[3], -EINVAL);
    ask(fixture, 4, UBLK_IO_OP_WRITE_SAME, 0, BLOCK);
    assert_int_equal(driver.result[4], -EOPNOTSUPP);
    fixture->asked[5] = (struct ublksrv_io_desc){
        .op_flags = UBLK_IO_OP_READ, .nr_sectors = 8, .start_sector = UINT64_C(1) << 55};
    complete(5, UBLK_IO_RES_OK);
    assert_int_equal(driver.result[5], -EINVAL);
    fixture->state.read_only = true;
    ask_write(fixture, 6, 0, 'w', BLOCK);
    assert_int_equal(driver.result[6], -EROFS);
    ask(fixture, 7, UBLK_IO_OP_DISCARD, 0, BLOCK);
    assert_int_equal(driver.result[7], -EROFS);
    assert_int_equal(fake_session.count, 0);
    assert_true(replay_log_empty(&fixture->log));
}

/* Of what was sent since the first `from`, none of it answered; *ret_index: the last one's place. */
static unsigned count_sent(unsigned from, uint8_t opcode, unsigned *ret_index)
{
    unsigned count = 0;
    for (unsigned i = from; i < fake_session.count; i++) {
        if (sent_cdb(i)[0] != opcode)
            continue;
        count++;
        *ret_index = i;
    }
    return count;
}

/* The log takes three of these; the others wait, small ones behind large ones, until a flush makes room. */
static void test_full_log_keeps_the_turn(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < 5; i++)
        ask_write(fixture, i, (uint64_t)i * MIB_BYTES, (uint8_t)('a' + i), MIB_BYTES);
    ask_write(fixture, 5, 8 * MIB_BYTES, 's', BLOCK);
    unsigned flush = 0, other = 0;
    assert_int_equal(count_sent(0, 0x8a, &other), 3);
    assert_int_equal(count_sent(0, 0x35, &flush), 1);
    ask(fixture, 6, UBLK_IO_OP_READ, 0, BLOCK); /* does not wait for the log */
    assert_int_equal(count_sent(0, 0x88, &other), 1);
    unsigned sent = fake_session.count;
    for (unsigned i = 0; i < sent; i++)
        if (i != flush)
            fake_answer(i, SCSI_STATUS_GOOD);
    run(fixture);
    assert_int_equal(fake_session.count, sent); /* that flush was sent before the answers: it frees nothing */
    fake_answer(flush, SCSI_STATUS_GOOD);
    run(fixture);
    assert_int_equal(count_sent(sent, 0x8a, &other), 0);
    assert_int_equal(count_sent(sent, 0x35, &flush), 1); /* another one does */
    fake_answer(flush, SCSI_STATUS_GOOD);
    run(fixture);
    assert_int_equal(fake_session.sent[flush + 1].task->cdb[0], 0x8a);
    const struct replay_entry *entry = replay_log_first(&fixture->log);
    assert_non_null(entry);
    assert_int_equal(entry->offset, 3 * MIB_BYTES);
    assert_int_equal(((const uint8_t *)(entry + 1))[0], 'd');
    assert_int_equal(driver.result[3], NOTHING);
    assert_null(fixture->queue.changes.first);
}

/* The device's own flush fails: who waits for room gets an error, and does not wait for ever. */
static void test_failed_relief_ends_who_waits(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < 5; i++)
        ask_write(fixture, i, (uint64_t)i * MIB_BYTES, 'x', MIB_BYTES);
    unsigned flush = 0;
    assert_int_equal(count_sent(0, 0x35, &flush), 1);
    fake_answer_sense(flush, SCSI_SENSE_MEDIUM_ERROR, 0x0c00);
    assert_int_equal(driver.result[3], -EIO);
    assert_int_equal(driver.result[4], -EIO);
    assert_int_equal(driver.result[0], NOTHING);
    assert_int_equal(fixture->queue.slots[3].request.length, MIB_BYTES);
}

/* Reads wait for a buffer, in their turn, and changes do not wait with them. */
static void test_no_buffer(void **state)
{
    struct fixture *fixture = *state;
    unsigned tag = 0;
    while (!fixture->queue.reads.first && tag < DEPTH - 2)
        ask(fixture, tag++, UBLK_IO_OP_READ, 0, MIB_BYTES);
    assert_non_null(fixture->queue.reads.first);
    unsigned sent = fake_session.count;
    assert_int_equal(sent, tag - 1);
    ask_write(fixture, tag, 0, 'w', BLOCK);
    assert_int_equal(fake_session.count, sent + 1);
    fake_answer(0, SCSI_STATUS_GOOD);
    run(fixture);
    assert_null(fixture->queue.reads.first);
    assert_int_equal(fake_session.count, sent + 2);
}

static void test_data_that_cannot_be_taken(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(ftruncate(fixture->file, (off_t)UBLK_PROTO_DATA(3)), 0);
    ask(fixture, 3, UBLK_IO_OP_WRITE, 0, BLOCK);
    assert_int_equal(driver.result[3], -EIO);
    assert_int_equal(fake_session.count, 0);
    assert_true(replay_log_empty(&fixture->log));
}

/* An attachment that is over: what waits, and what comes, ends with EIO. */
static void test_failed_for_good(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < 5; i++)
        ask_write(fixture, i, (uint64_t)i * MIB_BYTES, 'x', MIB_BYTES);
    requests_session_lost(&fixture->requests);
    requests_fail(&fixture->requests);
    run(fixture);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(driver.result[i], -EIO);
    ask(fixture, 6, UBLK_IO_OP_READ, 0, BLOCK);
    assert_int_equal(driver.result[6], -EIO);
}

static void test_gone(void **state)
{
    struct fixture *fixture = *state;
    complete(0, UBLK_IO_RES_ABORT);
    complete(1, UBLK_IO_RES_ABORT);
    assert_int_equal(fixture->gone_count, 1);
    assert_int_equal(fixture->gone, UBLK_IO_RES_ABORT);
    assert_null(driver.pending[0]); /* not fetched again */
}

static void test_stopping_is_no_surprise(void **state)
{
    struct fixture *fixture = *state;
    atomic_store(&fixture->queue.stopping, true);
    complete(0, UBLK_IO_RES_ABORT);
    assert_int_equal(fixture->gone_count, 0);
}

static void test_kernels(void **state)
{
    (void)state;
    static const char *const good[] = {"6.18.6", "6.18.44-fc-v595", "6.19.0", "7.0.4+deb13-amd64",
                                       "7.1",    "unknown"};
    static const char *const bad[] = {"5.14.0-570.el9",
                                      "6.1.0-28-amd64",
                                      "6.4.16",
                                      "6.5.0",
                                      "6.6.141.1",
                                      "6.7.0-68.fc38",
                                      "6.8.0-1052-azure",
                                      "6.12.22",
                                      "6.12.69",
                                      "6.12.95+deb12-amd64",
                                      "6.13.12",
                                      "6.14.6",
                                      "6.15.0",
                                      "6.17.0-1015-azure",
                                      "6.17.13",
                                      "6.18.2",
                                      "6.18.3",
                                      "6.18.4-arch1-1",
                                      "6.18.5"};
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        if (ublk_kernels_problem(good[i]))
            fail_msg("%s: %s", good[i], ublk_kernels_problem(good[i]));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (!ublk_kernels_problem(bad[i]))
            fail_msg("%s is taken for sound", bad[i]);
    assert_non_null(strstr(ublk_kernels_problem("6.1.0"), "user copy"));
    assert_non_null(strstr(ublk_kernels_problem("6.17.0-1015-azure"), "Ubuntu"));
}

/* Another volume, another place: another mark; and none looks like a server that sets no flags. */
static void test_mark(void **state)
{
    (void)state;
    uint64_t mark = ublk_find_mark("store-1.0001", "/var/lib/mooring/1");
    assert_true(mark == ublk_find_mark("store-1.0001", "/var/lib/mooring/1"));
    assert_true(mark != ublk_find_mark("store-1.0002", "/var/lib/mooring/1"));
    assert_true(mark != ublk_find_mark("store-1.0001", "/var/lib/mooring/2"));
    assert_true(ublk_find_mark("ab", "c") != ublk_find_mark("a", "bc"));
    assert_int_equal(mark >> 48, 0x4d6f);
}

static bool is_mounted(const char *path)
{
    bool found = false;
    _cleanup_file_ FILE *file = fopen("/proc/self/mountinfo", "re");
    _cleanup_free_ char *line = NULL;
    size_t size = 0;
    while (file && getline(&line, &size, file) > 0)
        found |= strstr(line, path) != NULL;
    return found;
}

/* 0: all was well; else where it was not. */
static int namespace_server(const char *kept, const char *dropped)
{
    if (ublk_namespace_enter(kept, NULL))
        return 2;
    if (!is_mounted(kept) || is_mounted(dropped))
        return 3;
    if (access("/dev/null", R_OK) < 0 || access("/proc/self/stat", R_OK) < 0 ||
        access("/sys/block", R_OK) < 0)
        return 4;
    return 0;
}

/* A namespace that stands for the host's, with a server in it: it must not see what the server does. */
static int namespace_child(const char *kept, const char *dropped)
{
    char below[64];
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL) < 0)
        return 77;
    if (mount("kept", kept, "tmpfs", 0, NULL) < 0 || mount("dropped", dropped, "tmpfs", 0, NULL) < 0)
        return 77;
    snprintf(below, sizeof below, "%s/below", dropped);
    if (mkdir(below, 0700) < 0 || mount("below", below, "tmpfs", 0, NULL) < 0 || !is_mounted(below))
        return 77;
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(namespace_server(kept, dropped));
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return 5;
    if (WEXITSTATUS(status) == 0 && (!is_mounted(kept) || !is_mounted(below)))
        return 6;
    return WEXITSTATUS(status);
}

static void test_namespace(void **state)
{
    (void)state;
    char kept[] = "/tmp/mooring-ublk-kept-XXXXXX", dropped[] = "/tmp/mooring-ublk-dropped-XXXXXX";
    int status;
    assert_non_null(mkdtemp(kept));
    assert_non_null(mkdtemp(dropped));
    pid_t pid = fork();
    if (pid == 0)
        _exit(namespace_child(kept, dropped));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    rmdir(kept);
    rmdir(dropped);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip(); /* not root */
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
#define QUEUE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        QUEUE_TEST(test_every_tag_is_fetched),
        QUEUE_TEST(test_write),
        QUEUE_TEST(test_fua),
        QUEUE_TEST(test_read),
        QUEUE_TEST(test_flush_discard_zeroes),
        QUEUE_TEST(test_refused),
        QUEUE_TEST(test_full_log_keeps_the_turn),
        QUEUE_TEST(test_failed_relief_ends_who_waits),
        QUEUE_TEST(test_no_buffer),
        QUEUE_TEST(test_data_that_cannot_be_taken),
        QUEUE_TEST(test_failed_for_good),
        QUEUE_TEST(test_gone),
        QUEUE_TEST(test_stopping_is_no_surprise),
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_mark),
        cmocka_unit_test(test_namespace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
