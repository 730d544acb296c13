/* What a dead mooring-device left, where a look fails: not knowing is never taken for nothing. Needs root. */
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "common/strings.h"
#include "node/attach_device.h"
#include "node/attach_files.h"
#include "node/process.h"
#include "node/takeover.h"
#include "tests/unit/common_dir.h"

#define VOLUME "store.0123456789abcdef"
#define NO_DEVICE "/dev/ublkb65535"
#define BOOT "0123456789abcdef0123456789abcdef"

static struct {
    struct node_config config;
    struct attach_files paths;
} node;

static void put_in(const char *dir, const char *name, const char *text)
{
    _cleanup_fd_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_int_equal(io_replace_file(fd, name, text, strlen(text), 0600, NULL), 0);
}

static void put(const char *name, const char *text)
{
    put_in(node.paths.dir, name, text);
}

/* A holder that lives, and holds no /dev/fuse. */
static int setup(void **state)
{
    const char *argv[] = {"/bin/sleep", "60", NULL};

    if (test_dir_setup(state))
        return -1;
    str_copy(node.config.boot_id, sizeof(node.config.boot_id), BOOT);
    node.config.state_dir = ((struct test_dir *)*state)->path;
    return attach_files_init(&node.paths, &node.config, VOLUME, NULL) ||
           io_make_dirs(node.paths.dir, 0700, NULL) ||
           process_spawn(node.paths.holder_pid, node.paths.log, NULL, argv, NULL);
}

static int teardown(void **state)
{
    process_stop(node.paths.holder_pid, SIGKILL, 5000, NULL);
    attach_files_done(&node.paths);
    return test_dir_teardown(state);
}

/* 1: it holds; 0: nothing; else why that cannot be told. */
static int holds(void)
{
    bool found = false;
    int r = attach_device_holds(&node.paths, &found, NULL);

    return r ? r : found;
}

static int holds_without_descriptors(void)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){.rlim_cur = 3, .rlim_max = limit.rlim_max}),
                     0);
    int r = holds();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    return r;
}

static void a_look_that_fails_is_an_error(void **state)
{
    (void)state;
    put("device.json", "{\"format\":1,\"attach\":\"fuse\"}");
    assert_int_equal(holds(), 0);
    assert_int_equal(holds_without_descriptors(), E_UNAVAILABLE);
    put("device.json", "{\"format\":1,\"attach\":");
    assert_int_equal(holds(), E_UNAVAILABLE);
}

/* Which block device it was is not known then, nor whether that still stands. */
static void a_ublk_note_that_cannot_be_read_is_an_error(void **state)
{
    (void)state;
    put("device.json", "{\"format\":1,\"attach\":\"ublk\"}");
    assert_int_equal(holds(), 0); /* it never served */
    put_in(node.paths.volume_dir, "ublk.json",
           "{\"format\":1,\"boot_id\":\"" BOOT "\",\"device\":\"" NO_DEVICE
           "\",\"number\":1,\"sequence\":2}");
    assert_int_equal(holds(), 0);
    assert_int_equal(holds_without_descriptors(), E_UNAVAILABLE);
    put_in(node.paths.volume_dir, "ublk.json", "{\"format\":1,\"boot_id");
    assert_int_equal(holds(), E_UNAVAILABLE);
    process_stop(node.paths.holder_pid, SIGKILL, 5000, NULL);
    assert_int_equal(holds(), 0); /* the log is gone with its holder, whatever else is there */
}

/* A holder that has just taken the place of another holds nothing yet. */
static void a_log_is_what_a_holder_of_ublk_must_have(void **state)
{
    static const char script[] = "import os, time; os.memfd_create('mooring-replay-log'); "
                                 "open('ready', 'w'); time.sleep(60)";
    _cleanup_free_ char *in = str_format("import os; os.chdir('%s'); %s", node.paths.dir, script);
    _cleanup_free_ char *ready = str_format("%s/ready", node.paths.dir);
    const char *argv[] = {"/usr/bin/python3", "-c", in, NULL};
    bool has_log = true;

    (void)state;
    assert_int_equal(takeover_holds_log(node.paths.holder_pid, &has_log, NULL), 0);
    assert_false(has_log);
    process_stop(node.paths.holder_pid, SIGKILL, 5000, NULL);
    assert_int_equal(process_spawn(node.paths.holder_pid, node.paths.log, NULL, argv, NULL), 0);
    while (process_alive(node.paths.holder_pid) && access(ready, F_OK) < 0)
        poll(NULL, 0, 10);
    assert_int_equal(takeover_holds_log(node.paths.holder_pid, &has_log, NULL), 0);
    assert_true(has_log);
}

static void drop_ptrace(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &header, data) < 0)
        _exit(10);
    data[0].effective &= ~(1u << CAP_SYS_PTRACE);
    data[0].permitted &= ~(1u << CAP_SYS_PTRACE);
    data[0].inheritable = 0;
    if (syscall(SYS_capset, &header, data) < 0)
        _exit(11);
}

/* As in a container: the mount alone must do as evidence. */
static void without_a_right_to_look_the_mount_decides(void **state)
{
    int status = 0;
    pid_t child = fork();

    (void)state;
    if (child == 0) {
        bool found = false, other = true;
        drop_ptrace();
        int r = takeover_holds(node.paths.holder_pid, "/proc", &found, NULL);
        r = r ? r : takeover_holds(node.paths.holder_pid, node.paths.mount_point, &other, NULL);
        _exit(r ? 12 : !found ? 13 : other ? 14 : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_look_that_fails_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(a_ublk_note_that_cannot_be_read_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(a_log_is_what_a_holder_of_ublk_must_have, setup, teardown),
        cmocka_unit_test_setup_teardown(without_a_right_to_look_the_mount_decides, setup, teardown),
    };

    return cmocka_run_group_tests_name("node_holds", tests, NULL, NULL);
}
