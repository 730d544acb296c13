/* A volume that grows: the unit attention that says so, and the question that follows, over a fake session.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/device/capacity.h"
#include "datapath/device/requests.h"
#include "tests/unit/device_fake_session.h"

#define BLOCK 4096u
#define CAPACITY_CHANGED 0x2a09

struct fixture {
    struct loop *loop;
    struct device_state state;
    struct initiator initiator;
    struct replay_log log;
    int log_fd;
    struct requests requests;
    struct capacity capacity;
    struct request request;
    int done, result, changed, erred;
    unsigned known;
    uint64_t size_bytes;
};

static void relieved(void *context, int result)
{
    (void)context;
    (void)result;
}

static void changed(void *context)
{
    ((struct fixture *)context)->changed++;
}

static void erred(void *context)
{
    ((struct fixture *)context)->erred++;
}

static void known(void *context, uint64_t size_bytes)
{
    struct fixture *fixture = context;
    fixture->known++;
    fixture->size_bytes = size_bytes;
}

static int setup(void **state)
{
    static const struct volume_limits limits = {
        .size_bytes = 1u << 30, .block_size_bytes = BLOCK, .transfer_max_bytes = 1u << 20};
    static struct fixture fixture;
    struct loop_options options = {.entries = 32};
    fixture = (struct fixture){.state = {.volume_id = "store-1.9f86d081884c7d65", .block_size_bytes = BLOCK}};
    fixture.initiator.state = &fixture.state;
    assert_int_equal(loop_new(&fixture.loop, &options, NULL), 0);
    assert_int_equal(replay_log_create(&fixture.log, fixture.state.volume_id, 1, REPLAY_LOG_SIZE_MIN,
                                       &fixture.log_fd, NULL),
                     0);
    fake_session_reset();
    requests_init(&fixture.requests, fixture.loop, &fixture.initiator, &fixture.log, relieved, &fixture);
    fixture.requests.capacity_changed = changed;
    fixture.requests.erred = erred;
    requests_session_identified(&fixture.requests, &limits);
    requests_session_open(&fixture.requests);
    capacity_init(&fixture.capacity, &fixture.initiator, known, &fixture);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    requests_session_lost(&fixture->requests);
    capacity_lost(&fixture->capacity);
    loop_free(fixture->loop);
    replay_log_done(&fixture->log);
    fd_close(fixture->log_fd);
    return 0;
}

static void request_done(struct request *request, int result)
{
    struct fixture *fixture = container_of(request, struct fixture, request);
    fixture->done++;
    fixture->result = result;
}

static void submit_read(struct fixture *fixture)
{
    static uint8_t data[BLOCK];
    fixture->request =
        (struct request){.verb = REQUEST_READ, .length = BLOCK, .data = data, .done = request_done};
    requests_submit(&fixture->requests, &fixture->request);
}

static void answer_capacity(unsigned index, uint64_t size_bytes, uint32_t block_bytes)
{
    uint64_t last = size_bytes / block_bytes - 1;
    uint8_t *data = calloc(1, 32);
    assert_non_null(data);
    for (int i = 0; i < 8; i++)
        data[i] = (uint8_t)(last >> (56 - 8 * i));
    for (int i = 0; i < 4; i++)
        data[8 + i] = (uint8_t)(block_bytes >> (24 - 8 * i));
    fake_session.sent[index].task->datain.data = data;
    fake_session.sent[index].task->datain.size = 32;
    fake_answer(index, SCSI_STATUS_GOOD);
}

static void test_unit_attention_is_told_and_hides_nothing(void **state)
{
    struct fixture *fixture = *state;
    submit_read(fixture);
    fake_answer_sense(0, SCSI_SENSE_UNIT_ATTENTION, 0x2900);
    assert_int_equal(fixture->changed, 0);
    fake_answer_sense(1, SCSI_SENSE_UNIT_ATTENTION, CAPACITY_CHANGED);
    assert_int_equal(fixture->changed, 1);
    assert_int_equal(fake_session.count, 3); /* the read is sent again */
    fake_answer(2, SCSI_STATUS_GOOD);
    assert_int_equal(fixture->done, 1);
    assert_int_equal(fixture->result, 0);
    assert_int_equal(fixture->erred, 0);
}

static void test_errors_are_counted(void **state)
{
    struct fixture *fixture = *state;
    submit_read(fixture);
    fake_answer_sense(0, SCSI_SENSE_MEDIUM_ERROR, 0x1100);
    assert_int_equal(fixture->done, 1);
    assert_int_equal(fixture->erred, 1);
    assert_int_equal(fixture->requests.errors, 1);
}

static void test_capacity_is_asked_for(void **state)
{
    struct fixture *fixture = *state;
    capacity_ask(&fixture->capacity);
    assert_int_equal(fake_session.count, 1);
    assert_int_equal(fake_session.sent[0].task->cdb[0], SCSI_OPCODE_SERVICE_ACTION_IN);
    fake_answer_sense(0, SCSI_SENSE_UNIT_ATTENTION, CAPACITY_CHANGED);
    assert_int_equal(fixture->known, 0);
    answer_capacity(1, 5 * UINT64_C(1) << 40, BLOCK);
    assert_int_equal(fixture->known, 1);
    assert_true(fixture->size_bytes == 5 * UINT64_C(1) << 40);
}

/* What was asked before the second growth may not have seen it. */
static void test_asked_again_meanwhile(void **state)
{
    struct fixture *fixture = *state;
    capacity_ask(&fixture->capacity);
    capacity_ask(&fixture->capacity);
    capacity_ask(&fixture->capacity);
    assert_int_equal(fake_session.count, 1);
    answer_capacity(0, 1 << 20, BLOCK);
    assert_int_equal(fixture->known, 0);
    assert_int_equal(fake_session.count, 2);
    answer_capacity(1, 2 << 20, BLOCK);
    assert_int_equal(fixture->known, 1);
    assert_int_equal(fixture->size_bytes, 2 << 20);
    assert_int_equal(fake_session.count, 2);
}

static void test_nonsense_and_refusals_change_nothing(void **state)
{
    struct fixture *fixture = *state;
    capacity_ask(&fixture->capacity);
    answer_capacity(0, 1 << 20, 512);
    capacity_ask(&fixture->capacity);
    fake_answer(1, SCSI_STATUS_GOOD);
    capacity_ask(&fixture->capacity);
    fake_answer_sense(2, SCSI_SENSE_ILLEGAL_REQUEST, 0x2000);
    assert_int_equal(fixture->known, 0);
    assert_null(fixture->capacity.task);
}

static void test_endless_unit_attentions(void **state)
{
    struct fixture *fixture = *state;
    capacity_ask(&fixture->capacity);
    for (unsigned i = 0; i < fake_session.count; i++) {
        assert_true(i < FAKE_SENT_MAX - 1);
        fake_answer_sense(i, SCSI_SENSE_UNIT_ATTENTION, CAPACITY_CHANGED);
    }
    assert_null(fixture->capacity.task);
    assert_int_equal(fixture->known, 0);
}

static void test_lost_session(void **state)
{
    struct fixture *fixture = *state;
    capacity_ask(&fixture->capacity);
    fake_answer(0, SCSI_STATUS_CANCELLED);
    capacity_lost(&fixture->capacity);
    assert_null(fixture->capacity.task);
    capacity_ask(&fixture->capacity);
    answer_capacity(1, 1 << 20, BLOCK);
    assert_int_equal(fixture->known, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_unit_attention_is_told_and_hides_nothing),
        TEST(test_errors_are_counted),
        TEST(test_capacity_is_asked_for),
        TEST(test_asked_again_meanwhile),
        TEST(test_nonsense_and_refusals_change_nothing),
        TEST(test_endless_unit_attentions),
        TEST(test_lost_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
