/* Where its storage server is, told to a device that waits for it: who is told, and what is written. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach_device.h"
#include "node/attach_files.h"
#include "node/process.h"
#include "tests/unit/common_dir.h"

#define VOLUME "store.0123456789abcdef"
#define FIRST "10.0.0.1:3260"
#define SECOND "[fd00::2]:3261"

/* What stands for mooring-device counts its SIGHUPs in its log. */
#define DEVICE "trap 'echo hangup' HUP; echo begun; while :; do sleep 0.02; done"

static struct fixture {
    const struct test_dir *dir;
    struct node_config config;
    struct attach_files paths;
    pid_t pid;
} node;

static char *log_text(void)
{
    char *text = NULL;

    assert_int_equal(io_read_file(node.paths.log, 4096, &text, NULL, NULL), 0);
    return text;
}

static unsigned hangups(void)
{
    _cleanup_free_ char *text = log_text();
    unsigned count = 0;

    for (const char *at = text; (at = strstr(at, "hangup")); at++)
        count++;
    return count;
}

static void status_write(const char *state, pid_t pid)
{
    _cleanup_fd_ int dir_fd = open(node.paths.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char text[128];
    int length = snprintf(text, sizeof(text), "{\"format\":1,\"state\":\"%s\",\"pid\":%d,\"generation\":2}",
                          state, (int)pid);

    assert_int_equal(io_replace_file(dir_fd, "status.json", text, (size_t)length, 0600, NULL), 0);
}

static bool begun(unsigned count)
{
    _cleanup_free_ char *text = log_text();

    (void)count;
    return strstr(text, "begun");
}

static bool hung_up(unsigned count)
{
    return hangups() >= count;
}

static bool wait_until(bool (*condition)(unsigned count), unsigned count)
{
    uint64_t deadline_ms = time_now_ms() + 10000;

    while (!condition(count)) {
        if (time_now_ms() > deadline_ms)
            return false;
        poll(NULL, 0, 5);
    }
    return true;
}

static int setup(void **state)
{
    const char *argv[] = {"/bin/sh", "-c", DEVICE, NULL};

    if (test_dir_setup(state))
        return -1;
    node = (struct fixture){.dir = *state, .config.state_dir = ((struct test_dir *)*state)->path};
    if (attach_files_init(&node.paths, &node.config, VOLUME, NULL) ||
        io_make_dirs(node.paths.dir, 0700, NULL) ||
        process_spawn(node.paths.device_pid, node.paths.log, NULL, argv, NULL) ||
        process_find(node.paths.device_pid, &node.pid, NULL))
        return -1;
    if (!wait_until(begun, 0))
        return -1;
    _cleanup_json_ json_t *device =
        json_pack("{s:s, s:s, s:[s], s:i, s:i, s:s, s:b}", "volume_id", VOLUME, "target_name", "iqn.a",
                  "portals", FIRST, "epoch", 4, "generation", 2, "chap_secret", "s3cret", "end", 0);
    status_write("waiting", node.pid);
    return attach_files_save(&node.paths, device, NULL);
}

static int teardown(void **state)
{
    process_stop(node.paths.device_pid, SIGKILL, 5000, NULL);
    attach_files_done(&node.paths);
    return test_dir_teardown(state);
}

static void tell(uint64_t epoch, const char *portal)
{
    char *portals[] = {(char *)portal, (char *)"10.0.0.3:3260"};
    struct storage_attachment attachment = {
        .volume_id = VOLUME, .epoch = epoch, .portals = portals, .portals_count = ARRAY_SIZE(portals)};

    assert_int_equal(attach_device_tell_portals(&node.config, &attachment, NULL), 0);
}

static void what_waits_is_told_the_portals_alone(void **state)
{
    _cleanup_json_ json_t *before = NULL;
    _cleanup_json_ json_t *after = NULL;
    _cleanup_json_ json_t *wanted = json_pack("[s, s]", SECOND, "10.0.0.3:3260");
    _cleanup_free_ char *path = str_format("%s/device.json", node.paths.dir);
    struct stat file;

    (void)state;
    assert_true(attach_device_waits(&node.config, VOLUME));
    assert_int_equal(attach_files_load(&node.paths, "device.json", &before, NULL), 0);
    tell(4, SECOND);
    assert_true(wait_until(hung_up, 1));
    assert_int_equal(attach_files_load(&node.paths, "device.json", &after, NULL), 0);
    assert_true(json_equal(json_object_get(after, "portals"), wanted));
    assert_int_equal(stat(path, &file), 0);
    assert_int_equal(file.st_mode & 0777, 0600);
    json_object_del(before, "portals");
    json_object_del(after, "portals");
    assert_true(json_equal(before, after));
}

/* Who wrote them may not have come to the signal. */
static void it_is_signalled_again(void **state)
{
    (void)state;
    tell(4, SECOND);
    assert_true(wait_until(hung_up, 1));
    tell(4, SECOND);
    assert_true(wait_until(hung_up, 2));
}

static void assert_untold(uint64_t epoch)
{
    _cleanup_json_ json_t *device = NULL;

    tell(epoch, SECOND);
    poll(NULL, 0, 100); /* for a signal that must not come */
    assert_int_equal(hangups(), 0);
    assert_int_equal(attach_files_load(&node.paths, "device.json", &device, NULL), 0);
    assert_string_equal(json_string_value(json_array_get(json_object_get(device, "portals"), 0)), FIRST);
}

static void another_epoch_s_portals_are_not_its_own(void **state)
{
    (void)state;
    assert_untold(5);
}

static void what_has_a_session_is_left_alone(void **state)
{
    (void)state;
    status_write("ready", node.pid);
    assert_false(attach_device_waits(&node.config, VOLUME));
    assert_untold(4);
}

/* It has only just begun, and the signal would end it: the status is its predecessor's. */
static void what_has_not_spoken_is_left_alone(void **state)
{
    (void)state;
    status_write("waiting", node.pid + 1);
    assert_false(attach_device_waits(&node.config, VOLUME));
    assert_untold(4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_waits_is_told_the_portals_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(it_is_signalled_again, setup, teardown),
        cmocka_unit_test_setup_teardown(another_epoch_s_portals_are_not_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(what_has_a_session_is_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(what_has_not_spoken_is_left_alone, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
