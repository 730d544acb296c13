/* Long-lived processes known by the lock on their pid file, and the locks of volumes. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "node/process.h"
#include "node/volume_lock.h"
#include "tests/unit/common_dir.h"

static struct fixture {
    char pid_path[96];
    char log_path[96];
} files;

static int setup(void **state)
{
    if (test_dir_setup(state))
        return -1;
    const struct test_dir *dir = *state;
    snprintf(files.pid_path, sizeof(files.pid_path), "%s/pid", dir->path);
    snprintf(files.log_path, sizeof(files.log_path), "%s/log", dir->path);
    *state = (void *)dir;
    return 0;
}

static int teardown(void **state)
{
    process_stop(files.pid_path, SIGKILL, 5000, NULL);
    return test_dir_teardown(state);
}

static void spawn(const struct fixture *fixture, const char *script)
{
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    _cleanup_error_ struct error err = {0};

    int r = process_spawn(fixture->pid_path, fixture->log_path, NULL, argv, &err);
    if (r)
        fail_msg("%s", error_text(&err));
}

static void a_process_lives_until_it_is_stopped(void **state)
{
    const struct fixture *fixture = &files;
    pid_t pid = 0;

    (void)state;
    assert_false(process_alive(fixture->pid_path));
    spawn(fixture, "exec sleep 60");
    assert_true(process_find(fixture->pid_path, &pid, NULL) == 0);
    assert_int_equal(kill(pid, 0), 0);
    assert_int_equal(process_stop(fixture->pid_path, SIGTERM, 5000, NULL), 0);
    assert_false(process_alive(fixture->pid_path));
    assert_int_equal(process_stop(fixture->pid_path, SIGTERM, 5000, NULL), 0);
}

static void a_killed_process_is_seen_as_dead(void **state)
{
    const struct fixture *fixture = &files;
    pid_t pid = 0;

    (void)state;
    spawn(fixture, "exec sleep 60");
    assert_true(process_find(fixture->pid_path, &pid, NULL) == 0);
    _cleanup_fd_ int fd = process_open(fixture->pid_path);
    assert_true(fd >= 0);
    kill(pid, SIGKILL);
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&ended, 1, 10000), 1);
    for (int i = 0; i < 1000 && process_alive(fixture->pid_path); i++)
        poll(NULL, 0, 5);
    assert_false(process_alive(fixture->pid_path));
    assert_int_equal(process_open(fixture->pid_path), -1);
}

static void a_second_one_is_refused(void **state)
{
    const struct fixture *fixture = &files;
    const char *argv[] = {"/bin/true", NULL};
    _cleanup_error_ struct error err = {0};

    (void)state;
    spawn(fixture, "exec sleep 60");
    assert_int_equal(process_spawn(fixture->pid_path, fixture->log_path, NULL, argv, &err), E_EXISTS);
}

/* The pid in the file is of a live process, but not of the one that held the lock: it must not be touched. */
static void a_reused_pid_is_not_mistaken(void **state)
{
    const struct fixture *fixture = &files;
    _cleanup_free_ char *text = str_format("%d\n", getpid());
    _cleanup_fd_ int fd = open(fixture->pid_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    (void)state;
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_false(process_alive(fixture->pid_path));
    assert_int_equal(process_stop(fixture->pid_path, SIGKILL, 100, NULL), 0);
}

static void *spawn_into(void *place)
{
    const char *argv[] = {"/bin/sleep", "60", NULL};

    return (void *)(intptr_t)process_spawn(files.pid_path, files.log_path, place, argv, NULL);
}

/* Another process may have the pid of one that ended by now, while its successor's start takes its time: here
 * until it can write to its cgroup, which is a pipe that is full. */
static void a_starting_process_is_not_its_predecessor(void **state)
{
    _cleanup_free_ char *text = str_format("%d\n", getpid());
    _cleanup_fd_ int fd = open(files.pid_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct flock lock = {.l_type = F_UNLCK};
    int cgroup[2], mistaken = 1;
    char drained[4096];
    pthread_t thread;
    void *result;
    pid_t pid;

    (void)state;
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(pipe2(cgroup, O_CLOEXEC), 0);
    assert_int_equal(fcntl(cgroup[1], F_SETPIPE_SZ, sizeof(drained)), sizeof(drained));
    memset(drained, 0, sizeof(drained));
    assert_int_equal(write(cgroup[1], drained, sizeof(drained)), sizeof(drained));
    struct place place = {.procs_fds = {cgroup[1]}, .procs_count = 1};
    assert_int_equal(pthread_create(&thread, NULL, spawn_into, &place), 0);
    for (int i = 0; i < 2000 && lock.l_type == F_UNLCK; i++, poll(NULL, 0, 5)) {
        lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
        fcntl(fd, F_OFD_GETLK, &lock);
    }
    for (int i = 0; i < 400 && mistaken; i++, poll(NULL, 0, 5))
        mistaken = process_find(files.pid_path, &pid, NULL) == 0 && pid == getpid();
    assert_int_equal(read(cgroup[0], drained, sizeof(drained)), sizeof(drained));
    assert_int_equal(pthread_join(thread, &result), 0);
    close(cgroup[0]);
    close(cgroup[1]);
    assert_int_equal(lock.l_type, F_WRLCK);
    assert_false(mistaken);
    assert_null(result);
    assert_true(process_find(files.pid_path, &pid, NULL) == 0 && pid != getpid());
}

static void one_that_does_not_end_is_told(void **state)
{
    const struct fixture *fixture = &files;
    _cleanup_error_ struct error err = {0};

    (void)state;
    spawn(fixture, "trap '' TERM; echo ready; while :; do sleep 1; done");
    struct stat log = {0};
    for (int i = 0; i < 2000 && (stat(fixture->log_path, &log) || !log.st_size); i++)
        poll(NULL, 0, 5);
    assert_int_equal(process_stop(fixture->pid_path, SIGTERM, 200, &err), E_DEADLINE);
    assert_int_equal(process_stop(fixture->pid_path, SIGKILL, 5000, NULL), 0);
}

static void what_cannot_be_executed_is_an_error_here(void **state)
{
    const struct fixture *fixture = &files;
    const char *argv[] = {"/nonexistent/program", NULL};
    _cleanup_error_ struct error err = {0};

    (void)state;
    assert_int_equal(process_spawn(fixture->pid_path, fixture->log_path, NULL, argv, &err), -ENOENT);
    assert_non_null(strstr(error_text(&err), "/nonexistent/program"));
    assert_false(process_alive(fixture->pid_path));
}

/* Without a free descriptor nothing can be seen: that is no proof of an end. */
static void one_that_cannot_be_seen_is_not_dead(void **state)
{
    struct rlimit limit;
    pid_t pid = 0;

    (void)state;
    spawn(&files, "exec sleep 60");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){.rlim_cur = 3, .rlim_max = limit.rlim_max}),
                     0);
    int found = process_find(files.pid_path, &pid, NULL),
        stopped = process_stop(files.pid_path, 0, 100, NULL);
    bool alive = process_alive(files.pid_path);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(found, -EMFILE);
    assert_int_equal(stopped, -EMFILE);
    assert_true(alive);
    assert_int_equal(process_find(files.pid_path, &pid, NULL), 0);
}

static void run_gives_status_and_words(void **state)
{
    const char *argv[] = {"sh", "-c", "echo out; echo bad >&2; exit 3", NULL};
    const char *missing[] = {"mooring-no-such-program", NULL};
    _cleanup_error_ struct error err = {0};
    _cleanup_free_ char *output = NULL;
    int status = 0;

    (void)state;
    assert_int_equal(process_run(argv, NULL, &status, &output, NULL), 0);
    assert_int_equal(status, 3);
    assert_string_equal(output, "out\nbad");
    assert_int_equal(process_run(missing, NULL, &status, NULL, &err), -ENOENT);
}

/* Asking whether a process lives, all the time and from elsewhere, never makes its start fail. */
static void asking_takes_nothing(void **state)
{
    const struct fixture *fixture = &files;
    pid_t asker = fork();

    (void)state;
    if (asker == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when an assertion ends us */
        for (;;)
            process_alive(fixture->pid_path);
    }
    for (int i = 0; i < 30; i++) {
        spawn(fixture, "exec sleep 60");
        assert_int_equal(process_stop(fixture->pid_path, SIGKILL, 5000, NULL), 0);
    }
    kill(asker, SIGKILL);
    assert_int_equal(waitpid(asker, NULL, 0), asker);
}

static void note_the_end(void *context)
{
    ++*(int *)context;
}

static void run_ends_with_what_it_depends_on(void **state)
{
    const char *argv[] = {"sleep", "600", NULL};
    _cleanup_error_ struct error err = {0};
    int fds[2], told = 0, status = -1;

    (void)state;
    assert_int_equal(pipe(fds), 0);
    const struct process_watch watch = {fds[0], note_the_end, &told, "its device ended"};
    close(fds[1]); /* readable from now on */
    assert_int_equal(process_run(argv, &watch, &status, NULL, &err), E_UNAVAILABLE);
    assert_non_null(strstr(error_text(&err), "its device ended"));
    assert_int_equal(told, 1);
    close(fds[0]);
}

struct borrower {
    struct volume_locks *locks;
    atomic_bool returned;
};

static void *borrower_run(void *context)
{
    struct borrower *borrower = context;

    poll(NULL, 0, 50);
    atomic_store(&borrower->returned, true);
    volume_lock_return(borrower->locks, "s.0123456789abcdef");
    return NULL;
}

static void a_lent_lock_is_waited_for(void **state)
{
    const char *volume = "s.0123456789abcdef";
    struct borrower borrower = {0};
    pthread_t thread;

    (void)state;
    assert_int_equal(volume_locks_new(&borrower.locks), 0);
    assert_false(volume_lock_borrow(borrower.locks, volume));
    assert_int_equal(volume_lock_try(borrower.locks, volume, "NodeStageVolume", NULL), 0);
    assert_false(volume_lock_borrow(borrower.locks, volume));
    volume_lock_lend(borrower.locks, volume);
    assert_int_equal(volume_lock_try(borrower.locks, volume, "NodeStageVolume", NULL), E_BUSY);
    assert_true(volume_lock_borrow(borrower.locks, volume));
    assert_false(volume_lock_borrow(borrower.locks, volume));
    assert_int_equal(pthread_create(&thread, NULL, borrower_run, &borrower), 0);
    volume_lock_reclaim(borrower.locks, volume);
    assert_true(atomic_load(&borrower.returned));
    assert_false(volume_lock_borrow(borrower.locks, volume));
    pthread_join(thread, NULL);
    volume_lock_release(borrower.locks, volume);
    volume_locks_free(borrower.locks);
}

static void *round_run(void *context)
{
    struct borrower *round = context;

    poll(NULL, 0, 50);
    atomic_store(&round->returned, true);
    volume_lock_release(round->locks, "s.0123456789abcdef");
    return NULL;
}

static void a_round_is_waited_for(void **state)
{
    const char *volume = "s.0123456789abcdef";
    _cleanup_error_ struct error err = {0};
    struct borrower round = {0};
    pthread_t thread;

    (void)state;
    assert_int_equal(volume_locks_new(&round.locks), 0);
    assert_int_equal(volume_lock_try_round(round.locks, volume, "a round", NULL), 0);
    assert_int_equal(volume_lock_try_round(round.locks, volume, "another", NULL), E_BUSY);
    assert_int_equal(pthread_create(&thread, NULL, round_run, &round), 0);
    assert_int_equal(volume_lock_try(round.locks, volume, "NodeUnstageVolume", NULL), 0);
    assert_true(atomic_load(&round.returned));
    pthread_join(thread, NULL);
    assert_int_equal(volume_lock_try_round(round.locks, volume, "a round", NULL), E_BUSY);
    volume_lock_release(round.locks, volume);
    assert_int_equal(volume_lock_try_round(round.locks, volume, "a long round", NULL), 0);
    assert_int_equal(volume_lock_try(round.locks, volume, "NodeUnstageVolume", &err), E_BUSY);
    assert_non_null(strstr(error_text(&err), "a long round"));
    volume_locks_free(round.locks);
}

static void volumes_are_locked_one_by_one(void **state)
{
    _cleanup_error_ struct error err = {0};
    struct volume_locks *locks;

    (void)state;
    assert_int_equal(volume_locks_new(&locks), 0);
    assert_int_equal(volume_lock_try(locks, "s.0123456789abcdef", "NodeStageVolume", NULL), 0);
    assert_int_equal(volume_lock_try(locks, "s.1123456789abcdef", "NodeStageVolume", NULL), 0);
    assert_int_equal(volume_lock_try(locks, "s.0123456789abcdef", "NodeUnstageVolume", &err), E_BUSY);
    assert_non_null(strstr(error_text(&err), "NodeStageVolume"));
    volume_lock_release(locks, "s.0123456789abcdef");
    assert_int_equal(volume_lock_try(locks, "s.0123456789abcdef", "NodeUnstageVolume", NULL), 0);
    volume_locks_free(locks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_process_lives_until_it_is_stopped, setup, teardown),
        cmocka_unit_test_setup_teardown(a_killed_process_is_seen_as_dead, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_one_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_reused_pid_is_not_mistaken, setup, teardown),
        cmocka_unit_test_setup_teardown(a_starting_process_is_not_its_predecessor, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_does_not_end_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_executed_is_an_error_here, setup, teardown),
        cmocka_unit_test_setup_teardown(asking_takes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_cannot_be_seen_is_not_dead, setup, teardown),
        cmocka_unit_test(run_gives_status_and_words),
        cmocka_unit_test(run_ends_with_what_it_depends_on),
        cmocka_unit_test(a_lent_lock_is_waited_for),
        cmocka_unit_test(a_round_is_waited_for),
        cmocka_unit_test(volumes_are_locked_one_by_one),
    };
    return cmocka_run_group_tests_name("node_process", tests, NULL, NULL);
}
