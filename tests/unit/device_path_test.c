/* The limits of waiting: what ends with an error when, and what never does. A fake session, a real loop. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/device/path.h"
#include "tests/unit/device_fake_session.h"

#define BLOCK 4096u
#define SIZE (UINT64_C(1) << 30)
#define PENDING 1

struct fixture {
    struct loop *loop;
    struct device_state state;
    struct initiator initiator;
    struct replay_log log;
    int log_fd;
    struct requests requests;
    struct path path;
    unsigned expired; /* times */
    uint8_t data[BLOCK];
};

struct asked {
    struct request request;
    int result;
};

static void relieved(void *context, int result)
{
    (void)context;
    (void)result;
}

static void expired(void *context)
{
    ((struct fixture *)context)->expired++;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct loop_options options = {.entries = 32};
    fixture->initiator.state = &fixture->state;
    fake_session_reset();
    assert_int_equal(loop_new(&fixture->loop, &options, NULL), 0);
    assert_int_equal(replay_log_create(&fixture->log, "v", 1, REPLAY_LOG_SIZE_MIN, &fixture->log_fd, NULL),
                     0);
    requests_init(&fixture->requests, fixture->loop, &fixture->initiator, &fixture->log, relieved, fixture);
    fixture->path = (struct path){.loop = fixture->loop,
                                  .requests = &fixture->requests,
                                  .initiator = &fixture->initiator,
                                  .expired = expired,
                                  .context = fixture};
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    requests_session_lost(&fixture->requests);
    loop_free(fixture->loop);
    replay_log_done(&fixture->log);
    fd_close(fixture->log_fd);
    free(fixture);
    return 0;
}

static void asked_done(struct request *request, int result)
{
    container_of(request, struct asked, request)->result = result;
}

static void submit(struct fixture *fixture, struct asked *asked, enum request_verb verb)
{
    asked->result = PENDING;
    asked->request.verb = verb;
    asked->request.length = verb == REQUEST_FLUSH ? 0 : BLOCK;
    asked->request.data = fixture->data;
    asked->request.done = asked_done;
    requests_submit(&fixture->requests, &asked->request);
}

static void run(struct fixture *fixture, unsigned ms)
{
    fake_session_run(fixture->loop, ms);
}

static void run_until_expired(struct fixture *fixture)
{
    while (!fixture->requests.expired)
        run(fixture, 20);
    run(fixture, 1);
}

static void session_identified(struct fixture *fixture)
{
    const struct volume_limits limits = {
        .size_bytes = SIZE, .block_size_bytes = BLOCK, .transfer_max_bytes = 1u << 20};
    requests_session_identified(&fixture->requests, &limits);
}

static void session_lost(struct fixture *fixture)
{
    requests_session_lost(&fixture->requests);
    path_lost(&fixture->path);
}

static void session_open(struct fixture *fixture)
{
    path_back(&fixture->path);
    requests_session_open(&fixture->requests);
}

static void test_no_limit(void **state)
{
    struct fixture *fixture = *state;
    struct asked read = {0};
    path_start(&fixture->path);
    submit(fixture, &read, REQUEST_READ);
    run(fixture, 150);
    assert_int_equal(read.result, PENDING);
    assert_false(fixture->path.timer_armed);
    session_identified(fixture);
    session_open(fixture);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(read.result, 0);
}

static void test_path_timeout(void **state)
{
    struct fixture *fixture = *state;
    struct asked read = {0}, write = {0}, late = {0}, patient = {.request.patient = true};
    fixture->path.timeout_ms = 1;
    path_start(&fixture->path);
    session_identified(fixture);
    session_open(fixture);
    submit(fixture, &read, REQUEST_READ);
    run(fixture, 150);
    assert_int_equal(read.result, PENDING); /* there is a session: however long that takes */
    assert_int_equal(fixture->expired, 0);
    session_lost(fixture);
    submit(fixture, &write, REQUEST_WRITE);
    submit(fixture, &patient, REQUEST_FLUSH);
    run_until_expired(fixture);
    assert_int_equal(fixture->expired, 1);
    assert_int_equal(read.result, -EIO);
    assert_int_equal(write.result, -EIO);
    assert_int_equal(patient.result, PENDING);
    submit(fixture, &late, REQUEST_READ);
    run(fixture, 1);
    assert_int_equal(late.result, -EIO);

    session_identified(fixture); /* not back yet: the replay runs now */
    submit(fixture, &late, REQUEST_READ);
    run(fixture, 1);
    assert_int_equal(late.result, -EIO);
    fake_session_reset();
    session_open(fixture);
    submit(fixture, &late, REQUEST_READ);
    assert_int_equal(fake_session.count, 2);
    fake_answer(0, SCSI_STATUS_GOOD);
    fake_answer(1, SCSI_STATUS_GOOD);
    assert_int_equal(patient.result, 0);
    assert_int_equal(late.result, 0);
}

/* Attempts that fail do not begin the time anew. */
static void test_counts_from_the_first_loss(void **state)
{
    struct fixture *fixture = *state;
    fixture->path.timeout_ms = 1000000;
    path_start(&fixture->path);
    uint64_t since_ms = fixture->path.lost_ms;
    run(fixture, 20);
    session_identified(fixture);
    session_lost(fixture);
    assert_int_equal(fixture->path.lost_ms, since_ms);
    session_identified(fixture);
    session_open(fixture);
    session_lost(fixture);
    assert_true(fixture->path.lost_ms > since_ms);
}

static void test_lease(void **state)
{
    struct fixture *fixture = *state;
    struct asked read = {0};
    fixture->path.lease_ms = 1000;
    session_identified(fixture);
    session_open(fixture);
    submit(fixture, &read, REQUEST_READ);
    session_lost(fixture);
    run(fixture, 150);
    assert_int_equal(read.result, PENDING); /* the lease holds */
    fake_session.lease_over = true;
    run_until_expired(fixture);
    assert_int_equal(read.result, -EIO);
}

/* What was answered stays in the log; what ended with the error is not replayed. */
static void test_log(void **state)
{
    struct fixture *fixture = *state;
    struct asked answered = {0}, failed = {0};
    fixture->path.timeout_ms = 1;
    session_identified(fixture);
    session_open(fixture);
    assert_non_null(replay_log_reserve(&fixture->log, BLOCK));
    struct replay_entry *kept = replay_log_append(&fixture->log, REPLAY_WRITE, 0, BLOCK, BLOCK);
    answered.request.entry = kept;
    submit(fixture, &answered, REQUEST_WRITE);
    fake_answer(0, SCSI_STATUS_GOOD);
    assert_int_equal(answered.result, 0);
    session_lost(fixture);
    assert_non_null(replay_log_reserve(&fixture->log, BLOCK));
    failed.request.entry = replay_log_append(&fixture->log, REPLAY_WRITE, BLOCK, BLOCK, BLOCK);
    submit(fixture, &failed, REQUEST_WRITE);
    run_until_expired(fixture);
    assert_int_equal(failed.result, -EIO);
    assert_ptr_equal(replay_log_first(&fixture->log), kept);
    assert_null(replay_log_next(&fixture->log, kept));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_no_limit), TEST(test_path_timeout), TEST(test_counts_from_the_first_loss),
        TEST(test_lease),    TEST(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
