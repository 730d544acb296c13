/* Detaching loop devices, on real ones. Needs root. */
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/size.h"
#include "common/strings.h"
#include "node/device_users.h"
#include "node/loop_device.h"
#include "node/process.h"
#include "tests/unit/common_dir.h"

static char device[64];
static int others_fd = -1; /* what the loop device's file becomes at its next opening */

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

/* The linker has loop_device.c call this one. */
int __wrap_open(const char *path, int flags, ...)
{
    va_list arguments;

    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    int fd = __real_open(path, flags, mode);
    if (fd >= 0 && others_fd >= 0 && str_equal(path, device)) {
        assert_int_equal(ioctl(fd, LOOP_CHANGE_FD, others_fd), 0);
        others_fd = -1;
    }
    return fd;
}

/* <dir>/<folder>/volume, on the heap. */
static char *make_file(const struct test_dir *dir, const char *folder)
{
    char *path = str_format("%s/%s/volume", dir->path, folder);

    assert_non_null(path);
    assert_int_equal(mkdirat(dir->fd, folder, 0700), 0);
    _cleanup_fd_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, (off_t)MIB), 0);
    return path;
}

static bool stands(const char *mount_point)
{
    bool found = false;

    assert_int_equal(loop_device_look(mount_point, &found, NULL), 0);
    return found;
}

static void attach(const char *file)
{
    const char *argv[] = {"losetup", "--read-only", "--find", "--show", file, NULL};
    _cleanup_error_ struct error err = {0};
    _cleanup_free_ char *output = NULL;
    int status = 0;

    if (process_run(argv, NULL, &status, &output, &err) || status)
        fail_msg("losetup: status %d %s", status, error_text(&err));
    assert_true(str_copy(device, sizeof(device), output));
}

/* Between the look at its file and its opening, the device was detached and taken by somebody else. */
static void what_became_anothers_stays(void **state)
{
    const struct test_dir *dir = *state;

    if (geteuid() != 0)
        skip();
    _cleanup_free_ char *ours = make_file(dir, "ours");
    _cleanup_free_ char *others = make_file(dir, "others");
    _cleanup_free_ char *our_dir = str_format("%s/ours", dir->path);
    _cleanup_free_ char *other_dir = str_format("%s/others", dir->path);
    _cleanup_fd_ int turned = open(others, O_RDONLY | O_CLOEXEC);

    attach(ours);
    others_fd = turned;
    assert_int_equal(loop_device_release(our_dir, NULL), 0);
    assert_int_equal(others_fd, -1); /* it came by */
    assert_true(stands(other_dir));
    assert_int_equal(loop_device_release(other_dir, NULL), 0);
    assert_false(stands(other_dir));
}

static void who_has_it_open_is_named(void **state)
{
    const struct test_dir *dir = *state;

    if (geteuid() != 0)
        skip();
    _cleanup_free_ char *file = make_file(dir, "mine");
    _cleanup_free_ char *pid = str_format("(pid %d)", getpid());

    attach(file);
    _cleanup_free_ char *nobody = device_users(device);
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    _cleanup_free_ char *somebody = device_users(device);
    close(fd);
    *strrchr(file, '/') = '\0';
    assert_int_equal(loop_device_release(file, NULL), 0);
    assert_null(strstr(nobody, pid));
    assert_non_null(strstr(somebody, pid));
}

/* In a mount namespace of its own, with the device mounted, until it is killed. */
static _Noreturn void mount_and_wait(const char *point, int ready_fd)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char said = unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                        mount(device, point, "ext4", MS_RDONLY, "noload") == 0
                    ? 'y'
                    : 'n';
    (void)!write(ready_fd, &said, 1);
    for (;;)
        pause();
}

/* As a container's mount that outlived the host's: nobody has it open, and we see no mount. */
static void who_has_it_mounted_elsewhere_is_named(void **state)
{
    const struct test_dir *dir = *state;
    int fds[2], status = 0;
    char said = 'n';

    if (geteuid() != 0)
        skip();
    _cleanup_free_ char *file = make_file(dir, "mine");
    const char *argv[] = {"mkfs.ext4", "-q", "-F", file, NULL};
    assert_int_equal(process_run(argv, NULL, &status, NULL, NULL), 0);
    assert_int_equal(status, 0);
    attach(file);
    *strrchr(file, '/') = '\0';
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0)
        mount_and_wait(file, fds[1]);
    bool mounted = read(fds[0], &said, 1) == 1 && said == 'y';
    _cleanup_free_ char *users = device_users(device);
    _cleanup_free_ char *expected = str_format("a mount of node_loop (pid %d)", child);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(fds[0]);
    close(fds[1]);
    assert_int_equal(loop_device_release(file, NULL), 0);
    assert_true(mounted);
    assert_non_null(strstr(users, expected));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_became_anothers_stays, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(who_has_it_open_is_named, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(who_has_it_mounted_elsewhere_is_named, test_dir_setup,
                                        test_dir_teardown),
    };
    return cmocka_run_group_tests_name("node_loop", tests, NULL, NULL);
}
