/* mooring-holder, the real program: descriptors by name, one device at a time, and its size. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/device/holder_client.h"

struct fixture {
    char directory[64];
    int dir_fd;
    pid_t holder;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    strcpy(fixture->directory, "/tmp/mooring-holder-XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    fixture->dir_fd = open(fixture->directory, O_RDONLY | O_DIRECTORY);
    fixture->holder = fork();
    if (fixture->holder == 0) {
        char path[128];
        snprintf(path, sizeof path, "%s/holder.sock", fixture->directory);
        execl(HOLDER_PROGRAM, "mooring-holder", "--socket", path, (char *)NULL);
        _exit(127);
    }
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    if (fixture->holder > 0) {
        kill(fixture->holder, SIGKILL);
        waitpid(fixture->holder, NULL, 0);
    }
    unlinkat(fixture->dir_fd, "holder.sock", 0);
    fd_close(fixture->dir_fd);
    rmdir(fixture->directory);
    free(fixture);
    return 0;
}

static ino_t inode(int fd)
{
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    return status.st_ino;
}

/* Run body in a process of its own, as a device: the holder tells devices apart by process. */
static pid_t device(struct fixture *fixture, int (*body)(struct fixture *fixture))
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(body(fixture));
    return pid;
}

static int reap(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int connect_now(struct fixture *fixture, unsigned wait_ms)
{
    int connection = -1;
    int r = holder_client_connect(fixture->dir_fd, wait_ms, &connection, NULL);
    return r ? (r == E_BUSY ? -1000 : -1) : connection;
}

static int put_memfd(struct fixture *fixture)
{
    int connection = connect_now(fixture, 5000), fd = memfd_create("x", 0);
    bool ok = connection >= 0 && holder_client_put(connection, "log", fd, NULL) == 0;
    ok = ok && write(fd, "kept", 4) == 4;
    return ok ? 0 : 1;
}

static int get_memfd(struct fixture *fixture)
{
    int connection = connect_now(fixture, 5000), fd = -1;
    char text[5] = {0};
    if (connection < 0 || holder_client_get(connection, "fuse0", &fd, NULL) != E_NOT_FOUND)
        return 1;
    if (holder_client_get(connection, "log", &fd, NULL) || pread(fd, text, 4, 0) != 4)
        return 2;
    return strcmp(text, "kept") == 0 ? 0 : 3;
}

static void test_outlives_the_device(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(reap(device(fixture, put_memfd)), 0);
    assert_int_equal(reap(device(fixture, get_memfd)), 0);
    assert_int_equal(reap(device(fixture, get_memfd)), 0); /* the holder kept its own copy */
}

static void test_names(void **state)
{
    struct fixture *fixture = *state;
    int connection = connect_now(fixture, 5000), got = -1;
    _cleanup_fd_ int first = memfd_create("a", 0), second = memfd_create("b", 0);
    assert_true(connection >= 0);
    assert_int_equal(holder_client_put(connection, "log", first, NULL), 0);
    assert_int_equal(holder_client_put(connection, "log", second, NULL), 0); /* replaces */
    assert_int_equal(holder_client_get(connection, "log", &got, NULL), 0);
    assert_int_equal(inode(got), inode(second));
    fd_close(got);
    assert_true(holder_client_put(connection, "a/b", first, NULL) < 0);
    assert_true(holder_client_put(connection, "", first, NULL) < 0);
    assert_true(holder_client_put(connection, "none", -1, NULL) < 0);
    char name[2] = "a";
    for (int i = 0; i < 7; i++, name[0]++)
        assert_int_equal(holder_client_put(connection, name, first, NULL), 0);
    assert_true(holder_client_put(connection, "z", first, NULL) < 0); /* bounded */
    assert_int_equal(holder_client_get(connection, "log", &got, NULL), 0);
    fd_close(got);
    fd_close(second);
    second = -1;
    fd_close(connection);
}

static void test_socket_is_private(void **state)
{
    struct fixture *fixture = *state;
    struct stat status;
    int connection = connect_now(fixture, 5000);
    assert_int_equal(fstatat(fixture->dir_fd, "holder.sock", &status, 0), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    fd_close(connection);
}

static int live_pipe[2];

/* Connected until the test closes its end. */
static int stay(struct fixture *fixture)
{
    char byte;
    int connection = connect_now(fixture, 5000);
    close(live_pipe[1]);
    if (read(live_pipe[0], &byte, 1) < 0)
        return 1;
    return connection >= 0 ? 0 : 1;
}

/* Closes its connection, and lives on: its writes could still come. */
static int close_and_stay(struct fixture *fixture)
{
    char byte;
    fd_close(connect_now(fixture, 5000));
    close(live_pipe[1]);
    return read(live_pipe[0], &byte, 1) < 0;
}

static int busy(struct fixture *fixture)
{
    return connect_now(fixture, 200) == -1000 ? 0 : 1;
}

static int admitted(struct fixture *fixture)
{
    return connect_now(fixture, 10000) >= 0 ? 0 : 1;
}

static void second_waits_for(struct fixture *fixture, int (*first)(struct fixture *fixture), bool killed)
{
    assert_int_equal(pipe(live_pipe), 0);
    pid_t predecessor = device(fixture, first);
    int faster = 0;
    while (reap(device(fixture, busy)) != 0) /* until the first is in: this one was faster */
        assert_true(waitpid(predecessor, NULL, WNOHANG) == 0 && ++faster < 500);
    for (int i = 0; i < 3; i++)
        assert_int_equal(reap(device(fixture, busy)), 0);
    if (killed)
        kill(predecessor, SIGKILL);
    close(live_pipe[1]);
    pid_t successor = device(fixture, admitted);
    reap(predecessor);
    assert_int_equal(reap(successor), 0);
    close(live_pipe[0]);
}

static void test_one_device_at_a_time(void **state)
{
    second_waits_for(*state, stay, false);
}

static void test_successor_after_kill(void **state)
{
    second_waits_for(*state, stay, true);
}

/* Not the connection decides but the process: it must have ended (invariant 4). */
static void test_closed_connection_is_not_enough(void **state)
{
    second_waits_for(*state, close_and_stay, false);
}

static void test_end(void **state)
{
    struct fixture *fixture = *state;
    int status;
    int connection = connect_now(fixture, 5000);
    assert_int_equal(holder_client_end(connection, NULL), 0);
    assert_int_equal(waitpid(fixture->holder, &status, 0), fixture->holder);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    fixture->holder = -1;
    assert_int_equal(faccessat(fixture->dir_fd, "holder.sock", F_OK, 0), -1);
    fd_close(connection);
}

static int keep_mount(struct fixture *fixture)
{
    int connection = connect_now(fixture, 5000);
    return connection >= 0 && holder_client_put(connection, "fuse0", live_pipe[1], NULL) == 0 ? 0 : 1;
}

static int ask_log(struct fixture *fixture)
{
    int connection = connect_now(fixture, 5000), fd = -1;
    return holder_client_get(connection, "log", &fd, NULL) == E_NOT_FOUND ? 0 : 1;
}

static void wait_end(struct fixture *fixture)
{
    int status;
    assert_int_equal(waitpid(fixture->holder, &status, 0), fixture->holder);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    fixture->holder = -1;
    assert_int_equal(faccessat(fixture->dir_fd, "holder.sock", F_OK, 0), -1);
}

/* A pipe stands in for the mount: poll(2) says of its end that the other one is gone. */
static void test_signal_with_a_live_mount(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(pipe(live_pipe), 0);
    assert_int_equal(reap(device(fixture, keep_mount)), 0);
    close(live_pipe[1]);
    kill(fixture->holder, SIGTERM);
    kill(fixture->holder, SIGINT);
    kill(fixture->holder, SIGHUP);
    for (int i = 0; i < 3; i++)
        assert_int_equal(reap(device(fixture, ask_log)), 0);
    close(live_pipe[0]);
    wait_end(fixture);
}

/* A block device that is there and can be taken away: its number, or -1. */
static int zram_add(void)
{
    char text[16] = {0};
    _cleanup_fd_ int fd = open("/sys/class/zram-control/hot_add", O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, text, sizeof text - 1) > 0 ? atoi(text) : -1;
}

static bool zram_remove(int number)
{
    _cleanup_fd_ int fd = open("/sys/class/zram-control/hot_remove", O_WRONLY | O_CLOEXEC);
    return fd >= 0 && dprintf(fd, "%d", number) > 0;
}

static int block_number;

/* As the ublk frontend does it. */
static int keep_block_device(struct fixture *fixture)
{
    char path[64], text[32];
    snprintf(path, sizeof path, "/sys/block/zram%d/dev", block_number);
    int connection = connect_now(fixture, 5000), fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = connection >= 0 && fd >= 0 && read(fd, text, sizeof text) > 0;
    return ok && holder_client_put(connection, "fuse-ublk", fd, NULL) == 0 ? 0 : 1;
}

static void test_signal_with_a_live_block_device(void **state)
{
    struct fixture *fixture = *state;
    block_number = zram_add();
    if (block_number < 0)
        skip(); /* no zram, or not root */
    int kept = reap(device(fixture, keep_block_device));
    kill(fixture->holder, SIGTERM);
    int asked = 0;
    for (int i = 0; i < 3; i++)
        asked += reap(device(fixture, ask_log));
    bool removed = zram_remove(block_number);
    assert_int_equal(kept, 0);
    assert_int_equal(asked, 0);
    assert_true(removed);
    wait_end(fixture);
}

static void test_signal_without_a_mount(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(reap(device(fixture, put_memfd)), 0);
    kill(fixture->holder, SIGTERM);
    wait_end(fixture);
}

/* While a device is there, nobody knows what it is about to mount. */
static void test_signal_with_a_device(void **state)
{
    struct fixture *fixture = *state;
    int connection = connect_now(fixture, 5000), fd = -1;
    kill(fixture->holder, SIGTERM);
    for (int i = 0; i < 3; i++)
        assert_int_equal(holder_client_get(connection, "log", &fd, NULL), E_NOT_FOUND);
    assert_int_equal(holder_client_end(connection, NULL), 0);
    wait_end(fixture);
    fd_close(connection);
}

static volatile sig_atomic_t interruptions;

static void interrupted(int number)
{
    (void)number;
    interruptions++;
}

/* A signal stands in for what interrupts a wait that has a time limit: the end of an io_uring of this thread.
 */
static void test_interrupted(void **state)
{
    struct fixture *fixture = *state;
    int connection = connect_now(fixture, 5000), fd = -1;
    struct sigaction action = {.sa_handler = interrupted}, before;
    assert_true(connection >= 0);
    sigaction(SIGALRM, &action, &before);
    kill(fixture->holder, SIGSTOP);
    struct itimerval often = {{0, 5000}, {0, 5000}};
    setitimer(ITIMER_REAL, &often, NULL);
    pid_t waker = fork();
    if (waker == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
        _exit(kill(fixture->holder, SIGCONT));
    }
    int r = holder_client_get(connection, "log", &fd, NULL);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    sigaction(SIGALRM, &before, NULL);
    assert_int_equal(reap(waker), 0);
    assert_int_equal(r, E_NOT_FOUND);
    assert_true(interruptions > 0);
    fd_close(connection);
}

static void test_second_holder_is_refused(void **state)
{
    struct fixture *fixture = *state;
    int connection = connect_now(fixture, 5000);
    pid_t pid = fork();
    if (pid == 0) {
        char path[128];
        snprintf(path, sizeof path, "%s/holder.sock", fixture->directory);
        fd_close(open("/dev/null", O_WRONLY));
        dup2(open("/dev/null", O_WRONLY), 2);
        execl(HOLDER_PROGRAM, "mooring-holder", "--socket", path, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(reap(pid), 1);
    fd_close(connection);
}

/* What must never be replaced stays small enough to be read whole. */
static void test_under_300_lines(void **state)
{
    (void)state;
    _cleanup_file_ FILE *file = fopen(HOLDER_SOURCE, "re");
    assert_non_null(file);
    char line[512];
    unsigned lines = 0;
    while (fgets(line, sizeof line, file)) {
        lines++;
        if (strncmp(line, "#include \"", 10) == 0)
            assert_string_equal(line, "#include \"datapath/device/holder.h\"\n");
    }
    assert_true(lines < 300);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_outlives_the_device),
        TEST(test_names),
        TEST(test_socket_is_private),
        TEST(test_one_device_at_a_time),
        TEST(test_successor_after_kill),
        TEST(test_closed_connection_is_not_enough),
        TEST(test_end),
        TEST(test_signal_with_a_live_mount),
        TEST(test_signal_with_a_live_block_device),
        TEST(test_signal_without_a_mount),
        TEST(test_signal_with_a_device),
        TEST(test_interrupted),
        TEST(test_second_holder_is_refused),
        cmocka_unit_test(test_under_300_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
