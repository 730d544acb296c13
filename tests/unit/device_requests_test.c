/* Requests and the replay, over a fake session: splitting, re-sending, waiting, failing, the log's part. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/device/boot_id.h"
#include "datapath/device/replay.h"
#include "datapath/device/requests.h"
#include "tests/unit/device_fake_session.h"

#define BLOCK 4096u

struct fixture {
    struct loop *loop;
    struct device_state state;
    struct initiator initiator;
    struct replay_log log;
    int log_fd;
    struct requests requests;
    struct replay replay;
    int relieved, relieved_result, replayed, replay_result;
};

struct probe {
    struct request request;
    int count, result;
};

static const struct volume_limits limits = {.size_bytes = 1u << 30,
                                            .block_size_bytes = BLOCK,
                                            .transfer_max_bytes = 4 * BLOCK,
                                            .unmap_max_bytes = 1024 * BLOCK,
                                            .same_max_bytes = 512 * BLOCK,
                                            .same_unmaps = true};

static void relieved(void *context, int result)
{
    struct fixture *fixture = context;
    fixture->relieved++;
    fixture->relieved_result = result;
}

static void replayed(void *context, int result)
{
    struct fixture *fixture = context;
    fixture->replayed++;
    fixture->replay_result = result;
}

static int setup(void **state)
{
    static struct fixture fixture;
    fixture = (struct fixture){.state = {.volume_id = "store-1.9f86d081884c7d65"}};
    struct loop_options options = {.entries = 32};
    fixture.initiator.state = &fixture.state;
    assert_int_equal(loop_new(&fixture.loop, &options, NULL), 0);
    assert_int_equal(replay_log_create(&fixture.log, fixture.state.volume_id, 1, REPLAY_LOG_SIZE_MIN,
                                       &fixture.log_fd, NULL),
                     0);
    fake_session_reset();
    requests_init(&fixture.requests, fixture.loop, &fixture.initiator, &fixture.log, relieved, &fixture);
    replay_init(&fixture.replay, &fixture.requests, replayed, &fixture);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    requests_session_lost(&fixture->requests); /* gives back the tasks */
    loop_free(fixture->loop);
    replay_log_done(&fixture->log);
    fd_close(fixture->log_fd);
    return 0;
}

/* Let timers and messages run. */
static void run(struct fixture *fixture, unsigned ms)
{
    fake_session_run(fixture->loop, ms);
}

static void open_session(struct fixture *fixture)
{
    requests_session_identified(&fixture->requests, &limits);
    requests_session_open(&fixture->requests);
}

static void probe_done(struct request *request, int result)
{
    struct probe *probe = container_of(request, struct probe, request);
    probe->count++;
    probe->result = result;
}

static void submit(struct fixture *fixture, struct probe *probe, enum request_verb verb, uint64_t offset,
                   uint64_t length)
{
    static uint8_t data[1 << 20];
    *probe = (struct probe){.request = {.verb = verb, .offset = offset, .length = length, .data = data}};
    probe->request.done = probe_done;
    requests_submit(&fixture->requests, &probe->request);
}

static struct replay_entry *submit_write(struct fixture *fixture, struct probe *probe, uint64_t offset,
                                         uint8_t byte)
{
    void *room = replay_log_reserve(&fixture->log, BLOCK);
    assert_non_null(room);
    memset(room, byte, BLOCK);
    *probe = (struct probe){.request = {.verb = REQUEST_WRITE, .offset = offset, .length = BLOCK}};
    probe->request.entry = replay_log_append(&fixture->log, REPLAY_WRITE, offset, BLOCK, BLOCK);
    probe->request.data = replay_entry_payload(probe->request.entry);
    probe->request.done = probe_done;
    requests_submit(&fixture->requests, &probe->request);
    return probe->request.entry;
}

static const uint8_t *cdb(unsigned index)
{
    return fake_session.sent[index].task->cdb;
}

static void test_split_by_transfer_max(void **state)
{
    struct fixture *fixture = *state;
    static struct probe probe;
    const uint8_t first[16] = {0x88, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4};
    const uint8_t second[16] = {0x88, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1};
    open_session(fixture);
    submit(fixture, &probe, REQUEST_READ, 2 * BLOCK, 5 * BLOCK);
    assert_int_equal(fake_session.count, 1);
    assert_memory_equal(cdb(0), first, 16);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(probe.count, 0);
    assert_memory_equal(cdb(1), second, 16);
    fake_answer(1, SCSI_STATUS_GOOD);
    assert_int_equal(probe.count, 1);
    assert_int_equal(probe.result, 0);
}

static void test_cdbs(void **state)
{
    struct fixture *fixture = *state;
    static struct probe probes[5];
    const uint8_t sync[10] = {0x35};
    const uint8_t write_fua[16] = {0x8a, 0x08, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1};
    const uint8_t same[16] = {0x93, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 2, 0};
    const uint8_t unmap[10] = {0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0};
    const uint8_t list[24] = {0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 4, 0};
    open_session(fixture);
    submit(fixture, &probes[0], REQUEST_FLUSH, 0, 0);
    assert_memory_equal(cdb(0), sync, 10);
    fixture->requests.limits.write_through = true;
    submit(fixture, &probes[1], REQUEST_WRITE, BLOCK, BLOCK);
    assert_memory_equal(cdb(1), write_fua, 16);
    submit(fixture, &probes[2], REQUEST_ZERO, 3 * BLOCK, 600 * BLOCK);
    assert_memory_equal(cdb(2), same, 16);
    submit(fixture, &probes[3], REQUEST_DISCARD, 5 * BLOCK, 2000 * BLOCK);
    assert_memory_equal(cdb(3), unmap, 10);
    assert_memory_equal(probes[3].request.parameters, list, 24);
    fixture->requests.limits.unmap_max_bytes = 0; /* no UNMAP that reads back as zeroes */
    submit(fixture, &probes[4], REQUEST_DISCARD, 5 * BLOCK, BLOCK);
    assert_int_equal(cdb(4)[0], 0x93);
    assert_int_equal(cdb(4)[1], 0x08);
}

static void test_waits_without_session(void **state)
{
    struct fixture *fixture = *state;
    static struct probe probe;
    submit(fixture, &probe, REQUEST_READ, 0, BLOCK);
    run(fixture, 50);
    assert_int_equal(fake_session.count, 0);
    assert_int_equal(probe.count, 0);
    open_session(fixture);
    assert_int_equal(fake_session.count, 1);
}

/* Sent commands come first, in their order, on the next session; those of the replay do not. */
static void test_sent_again_after_loss(void **state)
{
    struct fixture *fixture = *state;
    static struct probe probes[4];
    open_session(fixture);
    for (unsigned i = 0; i < 3; i++)
        submit(fixture, &probes[i], REQUEST_READ, i * BLOCK, BLOCK);
    fake_answer(1, SCSI_STATUS_CANCELLED);
    assert_int_equal(fake_session.dropped, 1);
    assert_int_equal(probes[1].count, 0);
    requests_session_lost(&fixture->requests);
    submit(fixture, &probes[3], REQUEST_READ, 3 * BLOCK, BLOCK);
    fake_session_reset();
    open_session(fixture);
    assert_int_equal(fake_session.count, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(cdb(i)[9], i);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(probes[0].count, 1);
}

static void test_unit_attention_and_busy(void **state)
{
    struct fixture *fixture = *state;
    static struct probe probe;
    open_session(fixture);
    submit(fixture, &probe, REQUEST_WRITE, 0, BLOCK);
    fake_answer_sense(0, SCSI_SENSE_UNIT_ATTENTION, 0x2900);
    assert_int_equal(fake_session.count, 2);
    fake_answer(1, SCSI_STATUS_BUSY);
    assert_int_equal(fake_session.count, 2);
    while (fake_session.count < 3)
        run(fixture, 10);
    fake_answer(2, SCSI_STATUS_GOOD);
    assert_int_equal(probe.count, 1);
    assert_int_equal(probe.result, 0);
}

static void test_no_memory_is_no_error(void **state)
{
    struct fixture *fixture = *state;
    static struct probe probe;
    open_session(fixture);
    fake_session.no_memory = true;
    submit(fixture, &probe, REQUEST_WRITE, 0, BLOCK);
    run(fixture, 60); /* tries again and again */
    assert_int_equal(probe.count, 0);
    fake_session.no_memory = false;
    while (fake_session.count < 1)
        run(fixture, 10);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(probe.count, 1);
}

static void test_last_words(void **state)
{
    struct fixture *fixture = *state;
    const struct {
        int key, ascq, result;
    } cases[] = {{SCSI_SENSE_MEDIUM_ERROR, 0x1100, -EIO},
                 {SCSI_SENSE_DATA_PROTECTION, 0x2707, -ENOSPC},
                 {SCSI_SENSE_DATA_PROTECTION, 0x2700, -EIO},
                 {SCSI_SENSE_ILLEGAL_REQUEST, 0x2000, -EOPNOTSUPP},
                 {SCSI_SENSE_HARDWARE_ERROR, 0x4400, -EIO}};
    open_session(fixture);
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static struct probe probe;
        submit_write(fixture, &probe, 0, 'a');
        fake_answer_sense(i, cases[i].key, cases[i].ascq);
        assert_int_equal(probe.count, 1);
        assert_int_equal(probe.result, cases[i].result);
        assert_null(replay_log_first(&fixture->log)); /* refused: not replayed */
    }
}

static void test_fail_ends_all(void **state)
{
    struct fixture *fixture = *state;
    static struct probe probes[3];
    open_session(fixture);
    submit(fixture, &probes[0], REQUEST_READ, 0, BLOCK);
    requests_session_lost(&fixture->requests);
    submit(fixture, &probes[1], REQUEST_WRITE, 0, BLOCK);
    requests_fail(&fixture->requests);
    submit(fixture, &probes[2], REQUEST_FLUSH, 0, 0);
    assert_int_equal(probes[0].count + probes[1].count + probes[2].count, 0); /* never from within */
    run(fixture, 10);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(probes[i].count, 1);
        assert_int_equal(probes[i].result, -EIO);
    }
}

/* A flush that was sent, lost, and sent again covers what was answered before the second sending only. */
static void test_flush_covers_by_its_last_sending(void **state)
{
    struct fixture *fixture = *state;
    static struct probe write, flush, late;
    open_session(fixture);
    submit_write(fixture, &write, 0, 'a');
    fake_answer(0, SCSI_STATUS_GOOD);
    submit(fixture, &flush, REQUEST_FLUSH, 0, 0);
    submit_write(fixture, &late, BLOCK, 'b');
    fake_answer(2, SCSI_STATUS_GOOD); /* after the flush was sent */
    fake_answer(1, SCSI_STATUS_GOOD);
    assert_int_equal(flush.count, 1);
    assert_int_equal(replay_log_first(&fixture->log)->offset, BLOCK);
    assert_null(replay_log_next(&fixture->log, replay_log_first(&fixture->log)));
}

static void test_failed_flush_keeps_the_log(void **state)
{
    struct fixture *fixture = *state;
    static struct probe write, flush;
    open_session(fixture);
    submit_write(fixture, &write, 0, 'a');
    fake_answer(0, SCSI_STATUS_GOOD);
    submit(fixture, &flush, REQUEST_FLUSH, 0, 0);
    fake_answer_sense(1, SCSI_SENSE_MEDIUM_ERROR, 0x0c00);
    assert_int_equal(flush.result, -EIO);
    assert_non_null(replay_log_first(&fixture->log));
}

static void test_relief_when_half_full(void **state)
{
    struct fixture *fixture = *state;
    static struct probe write;
    open_session(fixture);
    unsigned sent = 0;
    while (replay_log_used_bytes(&fixture->log) <= fixture->log.capacity_bytes / 2) {
        fake_session_reset();
        submit_write(fixture, &write, 0, 'a');
        fake_answer(0, SCSI_STATUS_GOOD);
        if (++sent % 100 == 0)
            requests_relieve(&fixture->requests, false);
    }
    fake_session_reset();
    requests_relieve(&fixture->requests, false);
    requests_relieve(&fixture->requests, false);
    assert_int_equal(fake_session.count, 1);
    assert_int_equal(cdb(0)[0], 0x35);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(fixture->relieved, 1);
    assert_true(replay_log_empty(&fixture->log));
}

/* Answered writes go out again, in order, one at a time, then a flush; others wait meanwhile. */
static void test_replay(void **state)
{
    struct fixture *fixture = *state;
    static struct probe writes[3], other;
    open_session(fixture);
    for (unsigned i = 0; i < 3; i++) {
        submit_write(fixture, &writes[i], i * BLOCK, (uint8_t)('a' + i));
        fake_answer(i, SCSI_STATUS_GOOD);
    }
    requests_session_lost(&fixture->requests);
    submit(fixture, &other, REQUEST_READ, 9 * BLOCK, BLOCK);

    fake_session_reset();
    requests_session_identified(&fixture->requests, &limits);
    replay_start(&fixture->replay);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(fake_session.count, i + 1);
        assert_int_equal(cdb(i)[0], 0x8a);
        assert_int_equal(cdb(i)[9], i);
        assert_int_equal(*(uint8_t *)fake_session.sent[i].task->iovector_out.iov->iov_base, 'a' + i);
        fake_answer(i, SCSI_STATUS_GOOD);
    }
    assert_int_equal(cdb(3)[0], 0x35);
    assert_int_equal(fixture->replayed, 0);
    assert_false(replay_log_empty(&fixture->log));
    fake_answer(3, SCSI_STATUS_GOOD);
    assert_int_equal(fixture->replayed, 1);
    assert_true(replay_log_empty(&fixture->log));
    assert_int_equal(fake_session.count, 4);
    requests_session_open(&fixture->requests);
    assert_int_equal(cdb(4)[0], 0x88);
}

static void test_replay_lost_begins_anew(void **state)
{
    struct fixture *fixture = *state;
    static struct probe writes[2];
    open_session(fixture);
    for (unsigned i = 0; i < 2; i++) {
        submit_write(fixture, &writes[i], i * BLOCK, 'a');
        fake_answer(i, SCSI_STATUS_GOOD);
    }
    requests_session_lost(&fixture->requests);
    requests_session_identified(&fixture->requests, &limits);
    fake_session_reset();
    replay_start(&fixture->replay);
    fake_answer(0, SCSI_STATUS_GOOD);
    replay_lost(&fixture->replay);
    requests_session_lost(&fixture->requests);
    fake_session_reset();
    requests_session_identified(&fixture->requests, &limits);
    assert_int_equal(fake_session.count, 0); /* the replay's own is not sent again by itself */
    replay_start(&fixture->replay);
    assert_int_equal(cdb(0)[9], 0);
    for (unsigned i = 0; i < 3; i++)
        fake_answer(i, SCSI_STATUS_GOOD);
    assert_int_equal(fixture->replayed, 1);
    requests_session_open(&fixture->requests);
    assert_int_equal(fake_session.count, 3);
}

/* The target refuses an entry: reads pass and see what the log holds, all else ends; a later replay opens. */
static void test_refused_replay(void **state)
{
    struct fixture *fixture = *state;
    static struct probe writes[2], waiting, read, change, flush;
    open_session(fixture);
    for (unsigned i = 0; i < 2; i++) {
        submit_write(fixture, &writes[i], i * BLOCK, (uint8_t)('a' + i));
        fake_answer(i, SCSI_STATUS_GOOD);
    }
    requests_session_lost(&fixture->requests);
    submit(fixture, &waiting, REQUEST_FLUSH, 0, 0);
    requests_session_identified(&fixture->requests, &limits);
    fake_session_reset();
    replay_start(&fixture->replay);
    fake_answer_sense(0, SCSI_SENSE_DATA_PROTECTION, 0x2707);
    assert_int_equal(fixture->replay_result, -ENOSPC);
    requests_session_refused(&fixture->requests, ENOSPC);
    submit_write(fixture, &change, 5 * BLOCK, 'x');
    submit(fixture, &flush, REQUEST_FLUSH, 0, 0);
    run(fixture, 10);
    assert_int_equal(waiting.result, -ENOSPC);
    assert_int_equal(change.result, -ENOSPC);
    assert_int_equal(flush.result, -ENOSPC);
    assert_int_equal(waiting.count + change.count + flush.count, 3);

    fake_session_reset();
    submit(fixture, &read, REQUEST_READ, BLOCK, 2 * BLOCK);
    memset(read.request.data, 'z', 2 * BLOCK);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(read.count, 1);
    assert_int_equal(((uint8_t *)read.request.data)[0], 'b');
    assert_int_equal(((uint8_t *)read.request.data)[BLOCK], 'z');

    submit(fixture, &read, REQUEST_READ, 0, BLOCK); /* on its way while the replay succeeds */
    replay_start(&fixture->replay);
    for (unsigned i = 2; i < 5; i++)
        fake_answer(i, SCSI_STATUS_GOOD);
    assert_int_equal(fixture->replay_result, 0);
    assert_true(replay_log_empty(&fixture->log));
    requests_session_open(&fixture->requests);
    fake_answer(1, SCSI_STATUS_GOOD); /* of before the replay, and no log covers it any more */
    assert_int_equal(read.count, 0);
    fake_answer(5, SCSI_STATUS_GOOD);
    assert_int_equal(read.count, 1);
    submit(fixture, &flush, REQUEST_FLUSH, 0, 0);
    fake_answer(6, SCSI_STATUS_GOOD);
    assert_int_equal(flush.result, 0);
}

/* After a failed flush no flush succeeds before a replay: neither one that was on its way nor the next. */
static void test_failed_flush_asks_for_a_replay(void **state)
{
    struct fixture *fixture = *state;
    static struct probe write, flushes[2];
    static const char boot_id[] = "0123456789abcdef0123456789abcdef";
    open_session(fixture);
    replay_log_set_boot_id(&fixture->log, boot_id);
    submit_write(fixture, &write, 0, 'a');
    fake_answer(0, SCSI_STATUS_GOOD);
    submit(fixture, &flushes[0], REQUEST_FLUSH, 0, 0);
    submit(fixture, &flushes[1], REQUEST_FLUSH, 0, 0);
    fake_answer_sense(1, SCSI_SENSE_MEDIUM_ERROR, 0x0c00);
    fake_answer(2, SCSI_STATUS_GOOD);
    assert_int_equal(flushes[0].count, 1);
    assert_int_equal(flushes[0].result, -EIO);
    assert_int_equal(flushes[1].count, 0);
    assert_int_equal(fake_session.dropped, 1);
    assert_true(boot_id_needs_replay(&fixture->log, boot_id));

    requests_session_lost(&fixture->requests);
    requests_session_identified(&fixture->requests, &limits);
    fake_session_reset();
    replay_start(&fixture->replay);
    assert_int_equal(cdb(0)[0], 0x8a);
    fake_answer(0, SCSI_STATUS_GOOD);
    fake_answer(1, SCSI_STATUS_GOOD);
    requests_session_open(&fixture->requests);
    assert_int_equal(cdb(2)[0], 0x35);
    fake_answer(2, SCSI_STATUS_GOOD);
    assert_int_equal(flushes[1].count, 1);
    assert_int_equal(flushes[1].result, 0);
}

/* So does a failed write that was to be stable, as the server takes it for a failed flush; one without space
 * does not. */
static void test_failed_stable_write_asks_for_a_replay(void **state)
{
    struct fixture *fixture = *state;
    static struct probe write, stable[2];
    static const char boot_id[] = "0123456789abcdef0123456789abcdef";
    open_session(fixture);
    replay_log_set_boot_id(&fixture->log, boot_id);
    submit_write(fixture, &write, 0, 'a');
    fake_answer(0, SCSI_STATUS_GOOD);
    for (unsigned i = 0; i < 2; i++) {
        submit_write(fixture, &stable[i], BLOCK, 'b');
        stable[i].request.fua = true;
    }
    fake_answer_sense(1, SCSI_SENSE_DATA_PROTECTION, 0x2707);
    assert_int_equal(stable[0].result, -ENOSPC);
    assert_int_equal(fake_session.dropped, 0);
    fake_answer_sense(2, SCSI_SENSE_MEDIUM_ERROR, 0x0c00);
    assert_int_equal(stable[1].result, -EIO);
    assert_int_equal(fake_session.dropped, 1);
    assert_true(boot_id_needs_replay(&fixture->log, boot_id));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_split_by_transfer_max),
        TEST(test_cdbs),
        TEST(test_waits_without_session),
        TEST(test_sent_again_after_loss),
        TEST(test_unit_attention_and_busy),
        TEST(test_no_memory_is_no_error),
        TEST(test_last_words),
        TEST(test_fail_ends_all),
        TEST(test_flush_covers_by_its_last_sending),
        TEST(test_failed_flush_keeps_the_log),
        TEST(test_relief_when_half_full),
        TEST(test_replay),
        TEST(test_replay_lost_begins_anew),
        TEST(test_refused_replay),
        TEST(test_failed_flush_asks_for_a_replay),
        TEST(test_failed_stable_write_asks_for_a_replay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
