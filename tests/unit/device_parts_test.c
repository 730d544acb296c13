/* The device's pure parts: back-off, login status, SCSI answers, VPD pages, device.json, read buffers. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "datapath/device/answer.h"
#include "datapath/device/backoff.h"
#include "datapath/device/buffers.h"
#include "datapath/device/fuse_frontend.h"
#include "datapath/device/identify.h"
#include "datapath/device/login_status.h"
#include "datapath/device/replay_log.h"
#include "datapath/device/state.h"

static void test_backoff(void **state)
{
    (void)state;
    struct backoff backoff = {.seed = 7};
    unsigned step_ms = BACKOFF_MIN_MS;
    for (int i = 0; i < 20; i++) {
        unsigned wait_ms = backoff_next_ms(&backoff, 1);
        assert_in_range(wait_ms, step_ms / 2, step_ms);
        step_ms = step_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : step_ms * 2;
    }
    backoff_reset(&backoff);
    assert_in_range(backoff_next_ms(&backoff, 1), BACKOFF_MIN_MS / 2, BACKOFF_MIN_MS);
}

/* Dead portals cost the first step each, however long the server has been away. */
static void test_backoff_counts_rounds(void **state)
{
    (void)state;
    struct backoff backoff = {.seed = 7};
    for (int i = 0; i < 3 * 10; i++)
        backoff_next_ms(&backoff, 3);
    for (int i = 0; i < 3; i++) {
        unsigned least = i == 2 ? BACKOFF_MAX_MS / 2 : BACKOFF_MIN_MS / 2;
        assert_in_range(backoff_next_ms(&backoff, 3), least, 2 * least);
    }
}

static void test_backoff_jitters(void **state)
{
    (void)state;
    struct backoff a = {.seed = 1}, b = {.seed = 2};
    int same = 0;
    for (int i = 0; i < 20; i++)
        same += backoff_next_ms(&a, 1) == backoff_next_ms(&b, 1);
    assert_true(same < 10);
}

static void test_login_status(void **state)
{
    (void)state;
#define FAILED "Failed to log in to target. Status: "
    const struct {
        const char *text;
        enum login_outcome outcome;
    } cases[] = {
        {FAILED "Authorization failure(514)", LOGIN_FATAL},
        {FAILED "Target removed(516)", LOGIN_FATAL},
        {FAILED "Authentication failure(513)", LOGIN_WAIT},
        {FAILED "Target not found(515)", LOGIN_WAIT},
        {FAILED "Service unavailable(769)", LOGIN_WAIT},
        {FAILED "Out of resources(770)", LOGIN_WAIT},
        {FAILED "Target error(768)", LOGIN_WAIT},
        {FAILED "Authorization failure(513)", LOGIN_WAIT}, /* the number decides */
        {"Authorization failure", LOGIN_FATAL},
        {"iscsi_service: socket error Connection refused(111).", LOGIN_WAIT},
        {"socket error No route to host(514).", LOGIN_WAIT},
        {"", LOGIN_WAIT},
        {NULL, LOGIN_WAIT},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(login_status_classify(cases[i].text), cases[i].outcome);
}

static void test_answers(void **state)
{
    (void)state;
    int number;
    struct scsi_task task = {0};
    assert_int_equal(answer_classify(SCSI_STATUS_GOOD, NULL, &number), ANSWER_GOOD);
    assert_int_equal(answer_classify(SCSI_STATUS_CANCELLED, NULL, &number), ANSWER_LOST);
    assert_int_equal(answer_classify(SCSI_STATUS_TIMEOUT, &task, &number), ANSWER_LOST);
    assert_int_equal(answer_classify(SCSI_STATUS_ERROR, &task, &number), ANSWER_LOST);
    assert_int_equal(answer_classify(SCSI_STATUS_TASK_SET_FULL, &task, &number), ANSWER_LATER);
    assert_int_equal(answer_classify(SCSI_STATUS_TASK_ABORTED, &task, &number), ANSWER_AGAIN);
    assert_int_equal(answer_classify(SCSI_STATUS_RESERVATION_CONFLICT, &task, &number), ANSWER_ERROR);
    assert_int_equal(number, EIO);
    task.sense.key = SCSI_SENSE_NOT_READY;
    assert_int_equal(answer_classify(SCSI_STATUS_CHECK_CONDITION, &task, &number), ANSWER_LATER);
}

static void test_capacity(void **state)
{
    (void)state;
    struct volume_limits limits = {0};
    const uint8_t data[32] = {0, 0, 0, 0, 0, 3, 0xff, 0xff, 0, 0, 0x10, 0};
    const uint8_t wraps[32] = {255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0x10, 0};
    assert_true(identify_parse_capacity(data, 32, &limits));
    assert_int_equal(limits.size_bytes, UINT64_C(1) << 30);
    assert_int_equal(limits.block_size_bytes, 4096);
    assert_false(identify_parse_capacity(data, 11, &limits));
    assert_false(identify_parse_capacity(wraps, 32, &limits));
}

static void test_serial(void **state)
{
    const uint8_t page[] = {0, 0x80, 0, 5, 's', '1', '.', 'a', 'b'};
    (void)state;
    assert_true(identify_is_volume(page, sizeof page, "s1.ab"));
    assert_false(identify_is_volume(page, sizeof page, "s1.ac"));
    assert_false(identify_is_volume(page, sizeof page, "s1.a"));
    assert_false(identify_is_volume(page, sizeof page, "s1.abc"));
    assert_false(identify_is_volume(page, sizeof page - 1, "s1.ab")); /* cut off */
    assert_false(identify_is_volume(page, 3, "s1.ab"));
}

static void test_limits_pages(void **state)
{
    (void)state;
    struct volume_limits limits = {.block_size_bytes = 4096, .transfer_max_bytes = 1 << 20};
    uint8_t page[64] = {0, 0xB0, 0, 60, [10] = 0, [11] = 64, [22] = 4, [27] = 1, [43] = 128};
    uint8_t provisioning[8] = {0, 0xB2, 0, 4, 0, 0x80 | 0x40 | 0x04};
    identify_parse_limits(page, 64, &limits);
    assert_int_equal(limits.transfer_max_bytes, 64 * 4096);
    assert_int_equal(limits.unmap_max_bytes, 1024 * 4096);
    assert_int_equal(limits.same_max_bytes, 128 * 4096);
    identify_parse_provisioning(provisioning, 8, &limits);
    assert_int_equal(limits.unmap_max_bytes, 1024 * 4096);
    assert_true(limits.same_unmaps);
    provisioning[5] = 0x80 | 0x40; /* what is unmapped reads as anything: UNMAP is of no use */
    identify_parse_provisioning(provisioning, 8, &limits);
    assert_int_equal(limits.unmap_max_bytes, 0);
    page[11] = 0; /* no limit: ours stands */
    limits.transfer_max_bytes = 1 << 20;
    identify_parse_limits(page, 64, &limits);
    assert_int_equal(limits.transfer_max_bytes, 1 << 20);
    identify_parse_limits(page, 5, &limits); /* short: nothing is read beyond it */
}

/* ---- device.json ---- */

#define DEVICE_JSON                                                                                          \
    "{\"format\":1,\"volume_id\":\"store-1.9f86d081884c7d65\",\"target_name\":\"iqn.2026-11.x:y\",\"lun\":"  \
    "0,"                                                                                                     \
    "\"portals\":[\"10.0.0.1:3260\",\"10.0.0.2:3260\"],\"initiator_name\":\"iqn.2026-11.x:n\","              \
    "\"node_id\":\"n\",\"epoch\":4,\"generation\":2,\"chap_name\":\"c\",\"chap_secret\":\"s3cret\","         \
    "\"isid\":[\"80a1b2c3d4e5\"],\"read_only\":true,\"sessions\":1,\"block_size_bytes\":4096,"               \
    "\"size_bytes\":1073741824,\"mount_point\":\"/x/fuse\",\"attach\":\"fuse\"}"

static char directory[] = "/tmp/mooring-device-parts-XXXXXX";

static int directory_setup(void **state)
{
    (void)state;
    return mkdtemp(directory) ? 0 : -1;
}

static int directory_teardown(void **state)
{
    (void)state;
    char path[128];
    const char *const names[] = {"device.json", "status.json"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    return rmdir(directory);
}

/* device.json becomes DEVICE_JSON with `from` replaced by `to`. */
static void write_with(const char *from, const char *to)
{
    char text[1024], changed[1200];
    strcpy(text, DEVICE_JSON);
    char *at = strstr(text, from);
    assert_non_null(at);
    *at = '\0';
    int length = snprintf(changed, sizeof changed, "%s%s%s", text, to, at + strlen(from));
    _cleanup_fd_ int dir_fd = open(directory, O_RDONLY | O_DIRECTORY);
    assert_int_equal(io_replace_file(dir_fd, "device.json", changed, (size_t)length, 0600, NULL), 0);
}

static int load_with(struct device_state *ret_state, const char *from, const char *to, struct error *err)
{
    write_with(from, to);
    return device_state_load(ret_state, directory, err);
}

static void test_state(void **state)
{
    (void)state;
    struct device_state loaded;
    const uint8_t isid[6] = {0x80, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5};
    assert_int_equal(load_with(&loaded, "\"lun\":0", "\"lun\":3", NULL), 0);
    assert_int_equal(loaded.lun, 3);
    assert_int_equal(loaded.portals_count, 2);
    assert_string_equal(loaded.portals[1], "10.0.0.2:3260");
    assert_memory_equal(loaded.isids[0], isid, 6);
    assert_true(loaded.read_only);
    assert_true(loaded.replay);
    assert_string_equal(loaded.chap_secret, "s3cret");
    assert_int_equal(loaded.size_bytes, UINT64_C(1) << 30);
    device_state_done(&loaded);
}

static void test_state_refused(void **state)
{
    (void)state;
    const char *const cases[][3] = {
        {"\"format\":1", "\"format\":2", "format"},
        {"\"epoch\":4", "\"epoch\":\"4\"", "epoch"},
        {"80a1b2c3d4e5", "80a1b2c3d4", "isid"},
        {"80a1b2c3d4e5", "80a1b2c3d4eg", "isid"},
        {"[\"10.0.0.1:3260\",\"10.0.0.2:3260\"]", "[]", "portals"},
        {"10.0.0.1:3260", "10.0.0.1", "portals"},
        {"\"sessions\":1", "\"sessions\":2", "sessions"},
        {"\"block_size_bytes\":4096", "\"block_size_bytes\":1000", "block_size_bytes"},
        {"1073741824", "1073741825", "size_bytes"},
        {"\"fuse\"}", "\"nbd\"}", "attach"},
        {"/x/fuse", "x/fuse", "mount_point"},
        {"\"generation\":2,", "", "generation"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_error_ struct error err = {0};
        struct device_state loaded;
        assert_int_equal(load_with(&loaded, cases[i][0], cases[i][1], &err), E_CORRUPT);
        assert_non_null(strstr(error_text(&err), cases[i][2]));
        assert_null(strstr(error_text(&err), "s3cret"));
    }
}

#define PORTALS "[\"10.0.0.1:3260\",\"10.0.0.2:3260\"]"

/* Nothing but the portals is taken, however much else has changed. */
static void test_portals_renewed(void **state)
{
    (void)state;
    struct device_state loaded;
    bool changed = true;
    assert_int_equal(load_with(&loaded, PORTALS, PORTALS, NULL), 0);
    assert_int_equal(device_state_renew_portals(&loaded, &changed, NULL), 0);
    assert_false(changed);
    write_with(PORTALS, "[\"10.0.0.1:3260\"]");
    assert_int_equal(device_state_renew_portals(&loaded, &changed, NULL), 0);
    assert_true(changed);
    assert_int_equal(loaded.portals_count, 1);
    write_with("\"10.0.0.2:3260\"],\"initiator_name\":\"iqn.2026-11.x:n\",\"node_id\":\"n\",\"epoch\":4",
               "\"[fd00::9]:3261\"],\"initiator_name\":\"iqn.2026-11.x:m\",\"node_id\":\"m\",\"epoch\":9");
    assert_int_equal(device_state_renew_portals(&loaded, &changed, NULL), 0);
    assert_true(changed);
    assert_int_equal(loaded.portals_count, 2);
    assert_string_equal(loaded.portals[0], "10.0.0.1:3260");
    assert_string_equal(loaded.portals[1], "[fd00::9]:3261");
    assert_int_equal(loaded.epoch, 4);
    assert_string_equal(loaded.initiator_name, "iqn.2026-11.x:n");
    device_state_done(&loaded);
}

static void test_bad_portals_leave_the_old(void **state)
{
    (void)state;
    const char *const cases[][2] = {
        {PORTALS, "[]"},
        {PORTALS, "\"10.0.0.9:3260\""},
        {PORTALS, "[\"10.0.0.9:3260\",\"nonsense\"]"},
        {PORTALS, "[\"10.0.0.9:3260\",7]"},
        {PORTALS, "[\"a:1\",\"a:2\",\"a:3\",\"a:4\",\"a:5\",\"a:6\",\"a:7\",\"a:8\",\"a:9\"]"},
        {"\"portals\"", "\"others\""},
        {"\"format\":1", "\"format\":2"},
        {"{", ""},
    };
    struct device_state loaded;
    assert_int_equal(load_with(&loaded, PORTALS, PORTALS, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_error_ struct error err = {0};
        bool changed = false;
        write_with(cases[i][0], cases[i][1]);
        assert_int_not_equal(device_state_renew_portals(&loaded, &changed, &err), 0);
        assert_false(changed);
        assert_non_null(strstr(error_text(&err), "device.json"));
        assert_null(strstr(error_text(&err), "s3cret"));
        assert_int_equal(loaded.portals_count, 2);
        assert_string_equal(loaded.portals[0], "10.0.0.1:3260");
        assert_string_equal(loaded.portals[1], "10.0.0.2:3260");
    }
    device_state_done(&loaded);
}

static void test_status(void **state)
{
    (void)state;
    struct device_status status = {.code = DEVICE_READY, .generation = 7, .block_device = "/dev/loop3"};
    struct stat file;
    _cleanup_fd_ int dir_fd = open(directory, O_RDONLY | O_DIRECTORY);
    assert_int_equal(device_status_save(dir_fd, &status, NULL), 0);
    assert_int_equal(fstatat(dir_fd, "status.json", &file, 0), 0);
    assert_int_equal(file.st_mode & 0777, 0600);
    _cleanup_json_ json_t *object = NULL;
    const char *name = NULL;
    uint64_t generation = 0;
    assert_int_equal(record_load(dir_fd, "status.json", STATE_FORMAT, &object, NULL), 0);
    assert_int_equal(record_get_string(object, "state", &name, NULL), 0);
    assert_string_equal(name, "ready");
    assert_int_equal(record_get_uint64(object, "generation", &generation, NULL), 0);
    assert_int_equal(generation, 7);
}

static void test_buffers(void **state)
{
    (void)state;
    struct buffers buffers;
    void *taken[64], *buffer;
    unsigned count = 0;
    assert_int_equal(buffers_init(&buffers, 4u << 20, NULL), 0);
    while ((buffer = buffers_take(&buffers, 1u << 20))) {
        memset(buffer, 1, 1u << 20);
        taken[count++] = buffer;
    }
    assert_int_equal(count, 2); /* half of it */
    buffer = buffers_take(&buffers, 4096);
    assert_non_null(buffer); /* the small ones are their own */
    buffers_give(&buffers, buffer);
    for (unsigned i = 0; i < count; i++)
        buffers_give(&buffers, taken[i]);
    assert_non_null(buffers_take(&buffers, 1u << 20));
    buffers_done(&buffers);
}

/* Of the pages that [memory, memory + length) touches, how many this process has mapped at this moment. */
static size_t pages_present(const void *memory, size_t length, size_t *ret_pages)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = (uintptr_t)memory / page, last = ((uintptr_t)memory + length - 1) / page;
    _cleanup_fd_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    size_t present = 0;
    for (uintptr_t at = first; at <= last; at++) {
        uint64_t entry;
        assert_int_equal(pread(fd, &entry, sizeof entry, (off_t)(at * sizeof entry)), sizeof entry);
        present += entry >> 63;
    }
    *ret_pages = last - first + 1;
    return present;
}

static void check_present(const void *memory, size_t length)
{
    size_t pages = 0, present = pages_present(memory, length, &pages);
    assert_int_equal(present, pages);
}

/* A page to fault in while SIGKILL is pending would cost a FUSE request its answer. */
static void test_no_request_meets_a_missing_page(void **state)
{
    (void)state;
    struct buffers buffers;
    struct error err = {0};
    assert_int_equal(buffers_init(&buffers, 4 * 1024 * 1024, &err), 0);
    for (int i = 0; i < BUFFERS_CLASSES; i++)
        check_present(buffers.classes[i].memory, buffers.classes[i].count * buffers.classes[i].size_bytes);
    struct replay_log log, adopted;
    int fd;
    assert_int_equal(replay_log_create(&log, "s1.0123456789abcdef", 1, REPLAY_LOG_SIZE_MIN, &fd, &err), 0);
    check_present(log.header, log.mapped_bytes);
    assert_int_equal(replay_log_adopt(&adopted, fd, "s1.0123456789abcdef", 1, &err), 0);
    check_present(adopted.header, adopted.mapped_bytes);
    struct fuse_frontend frontend;
    assert_int_equal(fuse_frontend_init(&frontend, NULL, NULL, NULL, &log, &buffers, &err), 0);
    check_present(frontend.table, FUSE_LEDGER_SIZE * sizeof *frontend.table);
    fuse_frontend_done(&frontend);
    struct fuse_ledger ledger, taken_over;
    int ledger_fd;
    assert_int_equal(fuse_ledger_create(&ledger, &ledger_fd, &err), 0);
    assert_int_equal(fuse_ledger_adopt(&taken_over, ledger_fd, &err), 0);
    for (int i = 0; i < 2; i++) {
        const struct fuse_ledger *one = i ? &taken_over : &ledger;
        check_present(one->records, FUSE_LEDGER_SIZE * sizeof *one->records);
        check_present(one->landing, FUSE_PROTO_MAX_WRITE);
    }
    fuse_ledger_done(&taken_over);
    fuse_ledger_done(&ledger);
    close(ledger_fd);
    replay_log_done(&adopted);
    replay_log_done(&log);
    close(fd);
    buffers_done(&buffers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backoff),
        cmocka_unit_test(test_backoff_counts_rounds),
        cmocka_unit_test(test_no_request_meets_a_missing_page),
        cmocka_unit_test(test_backoff_jitters),
        cmocka_unit_test(test_login_status),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_capacity),
        cmocka_unit_test(test_serial),
        cmocka_unit_test(test_limits_pages),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_state_refused),
        cmocka_unit_test(test_portals_renewed),
        cmocka_unit_test(test_bad_portals_leave_the_old),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_buffers),
    };
    return cmocka_run_group_tests(tests, directory_setup, directory_teardown);
}
