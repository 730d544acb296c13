/*
 * A refused login ends all I/O at once: the whole device but for its block device, libiscsi included, on a
 * loop whose clock stands still from the start, so that whatever waited for a timer would wait for ever. The
 * storage server is a socket of this test's that refuses.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "datapath/device/device.h"
#include "tests/unit/fake_loop.h"

#define BLOCK 4096u
#define COUNT 6u
#define HEADER_BYTES 48u
#define LOGIN_RESPONSE 0x23

struct fixture {
    char directory[64];
    struct device_state state;
    struct device device;
    struct loop *loop;
    int signal_fd, listen_fd, server_fd;
    pid_t holder;
    uint8_t data[BLOCK];
};

struct asked {
    struct request request;
    unsigned answers;
    int result;
};

/* io_uring's own commands: of frontends that are not opened here. */
void loop_command(struct loop *loop, struct loop_op *op, int fd, uint32_t code, const void *command)
{
    fail_msg("%p %p %d %u %p", (void *)loop, (void *)op, fd, code, command);
}

void loop_command_wide(struct loop *loop, struct loop_op *op, int fd, const struct loop_wide_command *command)
{
    fail_msg("%p %p %d %p", (void *)loop, (void *)op, fd, (const void *)command);
}

/* No timer ever fires. */
static enum fake_verdict hold_timers(void *context, const struct fake_op *op, int *ret_res)
{
    (void)context;
    (void)ret_res;
    return op->kind == FAKE_TIMEOUT ? FAKE_HOLD : FAKE_GO;
}

static pid_t holder_start(const char *directory)
{
    pid_t pid = fork();
    if (pid == 0) {
        char path[128];
        snprintf(path, sizeof path, "%s/holder.sock", directory);
        execl(HOLDER_PROGRAM, "mooring-holder", "--socket", path, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static char *server_listen(struct fixture *fixture)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    char *portal = NULL;
    fixture->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fixture->listen_fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fixture->listen_fd, 1), 0);
    assert_int_equal(getsockname(fixture->listen_fd, (struct sockaddr *)&address, &length), 0);
    assert_true(asprintf(&portal, "127.0.0.1:%u", ntohs(address.sin_port)) > 0);
    return portal;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct device_state *device = &fixture->state;
    struct loop_options options = {.entries = 256};
    strcpy(fixture->directory, "/tmp/mooring-refused-XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    *device = (struct device_state){.volume_id = "v",
                                    .target_name = "iqn.2026-11.storage.mooring:v",
                                    .initiator_name = "iqn.2026-11.storage.mooring:node:n",
                                    .isids = {{0x80, 1, 2, 3, 4, 5}},
                                    .isids_count = 1,
                                    .epoch = 1,
                                    .generation = 1,
                                    .portals_count = 1,
                                    .block_size_bytes = BLOCK,
                                    .size_bytes = 1u << 30,
                                    .log_size_bytes = REPLAY_LOG_SIZE_MIN,
                                    .buffers_size_bytes = 8u << 20,
                                    .attach = DEVICE_ATTACH_FUSE};
    device->dir_fd = open(fixture->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    device->dir = strdup(fixture->directory);
    assert_true(asprintf(&device->mount_point, "%s/fuse", fixture->directory) > 0);
    device->portals[0] = server_listen(fixture);
    fixture->server_fd = -1;
    fixture->signal_fd = eventfd(0, EFD_CLOEXEC);
    fixture->holder = holder_start(fixture->directory);
    assert_int_equal(loop_new(&fixture->loop, &options, NULL), 0);
    fake_loop_hook(fixture->loop, hold_timers, NULL);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    static const char *const files[] = {"holder.sock", "status.json"};
    struct fixture *fixture = *state;
    loop_free(fixture->loop);
    device_done(&fixture->device);
    kill(fixture->holder, SIGKILL);
    waitpid(fixture->holder, NULL, 0);
    for (size_t i = 0; i < ARRAY_SIZE(files); i++)
        unlinkat(fixture->state.dir_fd, files[i], 0);
    unlinkat(fixture->state.dir_fd, "fuse", AT_REMOVEDIR);
    assert_int_equal(rmdir(fixture->directory), 0);
    fd_close(fixture->signal_fd);
    fd_close(fixture->listen_fd);
    fd_close(fixture->server_fd);
    device_state_done(&fixture->state);
    free(fixture);
    return 0;
}

static void asked_done(struct request *request, int result)
{
    struct asked *asked = container_of(request, struct asked, request);
    asked->answers++;
    asked->result = result;
}

static void submit(struct fixture *fixture, struct asked *asked, enum request_verb verb)
{
    asked->request = (struct request){
        .verb = verb, .length = verb == REQUEST_FLUSH ? 0 : BLOCK, .data = fixture->data, .done = asked_done};
    requests_submit(&fixture->device.requests, &asked->request);
}

/* Some wait for a session, and some, which an earlier session had no memory for, for a timer. */
static void submit_all(struct fixture *fixture, struct asked *asked)
{
    static const enum request_verb verbs[] = {REQUEST_READ, REQUEST_WRITE, REQUEST_FLUSH};
    const struct volume_limits limits = {
        .size_bytes = 1u << 30, .block_size_bytes = BLOCK, .transfer_max_bytes = 1u << 20};
    struct requests *requests = &fixture->device.requests;
    requests_session_identified(requests, &limits);
    requests_session_open(requests);
    for (unsigned i = 0; i < COUNT / 2; i++)
        submit(fixture, &asked[i], verbs[i % ARRAY_SIZE(verbs)]);
    requests_session_lost(requests);
    for (unsigned i = COUNT / 2; i < COUNT; i++)
        submit(fixture, &asked[i], verbs[i % ARRAY_SIZE(verbs)]);
    assert_non_null(requests->delayed.first);
    assert_non_null(requests->waiting.first);
}

/* Run the device until the server has something to read on fd: messages of one process arrive at once, or
 * nearly so. */
static void wait_readable(struct fixture *fixture, int fd)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    for (unsigned tries = 0; tries < 3000; tries++) {
        fake_loop_settle(fixture->loop);
        if (poll(&readable, 1, 10) == 1)
            return;
    }
    fail_msg("the device does not come to its storage server");
}

/* RFC 7143, 11.13: status class 2, detail 2, "authorization failure". */
static void server_refuse(struct fixture *fixture)
{
    uint8_t request[HEADER_BYTES], answer[HEADER_BYTES] = {LOGIN_RESPONSE};
    wait_readable(fixture, fixture->listen_fd);
    fixture->server_fd = accept(fixture->listen_fd, NULL, NULL);
    wait_readable(fixture, fixture->server_fd);
    assert_int_equal(io_read_full(fixture->server_fd, request, sizeof request), 0);
    memcpy(answer + 8, request + 8, 12); /* the ISID, no TSIH, the task's tag */
    answer[36] = 2;
    answer[37] = 2;
    assert_int_equal(write(fixture->server_fd, answer, sizeof answer), (ssize_t)sizeof answer);
}

static bool all_answered(const struct asked *asked)
{
    for (unsigned i = 0; i < COUNT; i++)
        if (asked[i].answers == 0)
            return false;
    return true;
}

/* Once the refusal is there: how long the clock says it takes until all have their answers. */
static uint64_t run_until_answered(struct fixture *fixture, const struct asked *asked)
{
    struct pollfd refused = {.fd = iscsi_get_fd(fixture->device.initiator.iscsi), .events = POLLIN};
    assert_int_equal(poll(&refused, 1, 30000), 1);
    uint64_t begin_ns = loop_now_ns(fixture->loop);
    while (!all_answered(asked) && fake_loop_step(fixture->loop))
        continue;
    return loop_now_ns(fixture->loop) - begin_ns;
}

static void test_ends_all_at_once(void **state)
{
    struct fixture *fixture = *state;
    struct asked asked[COUNT] = {0}, late = {0};

    assert_int_equal(device_init(&fixture->device, fixture->loop, &fixture->state, fixture->signal_fd, NULL),
                     0);
    fixture->device.phase = DEVICE_PHASE_SERVE; /* the block device is there, and has users */
    submit_all(fixture, asked);
    device_start(&fixture->device);
    server_refuse(fixture);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(asked[i].answers, 0);
    assert_int_equal(run_until_answered(fixture, asked), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(asked[i].answers, 1);
        assert_int_equal(asked[i].result, -EIO);
    }
    submit(fixture, &late, REQUEST_READ);
    fake_loop_settle(fixture->loop);
    assert_int_equal(late.result, -EIO);
    assert_int_equal(fake_loop_count(fixture->loop, FAKE_TIMEOUT), 0);
    assert_int_equal(fixture->device.status.status.code, DEVICE_FAILED);
    assert_int_equal(fixture->device.status.status.failed_requests, COUNT);
    assert_non_null(strstr(fixture->device.status.status.error, "uthorization failure"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ends_all_at_once, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
