/* Starting, finding and ending programs. Blocks; called by the node's RPC threads and its supervisor. */
#include "node/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/time.h"

#define PROCESS_OUTPUT_MAX 4096

/* ---- long-lived ones ---- */

/* Why a program did not start; through a pipe. */
struct process_problem {
    int number;
    bool network; /* of entering the host's */
};

/* In the new process: record who we are, keep the lock across exec, and become argv. Only async-signal-safe
 * calls. */
static _Noreturn void process_become(int lock_fd, int log_fd, int report_fd, const struct place *place,
                                     const char *const *argv)
{
    char text[16];
    int length = 0;
    struct process_problem problem = {0};
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (pid_t pid = getpid(), scale = 1000000000; scale; scale /= 10) {
        if (pid / scale || length)
            text[length++] = (char)('0' + pid / scale % 10);
    }
    text[length++] = '\n';
    for (size_t i = 0; place && i < place->procs_count; i++)
        (void)!write(place->procs_fds[i], "0", 1); /* one that takes nobody is no reason not to start */
    if (place && place->network_enters && setns(place->network_fd, CLONE_NEWNET) < 0)
        problem = (struct process_problem){errno, true};
    else if (null_fd < 0 || pwrite(lock_fd, text, (size_t)length, 0) != length ||
             dup2(null_fd, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 ||
             dup2(log_fd, STDERR_FILENO) < 0 || fcntl(lock_fd, F_SETFD, 0) < 0)
        problem.number = errno;
    else {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execv(argv[0], (char *const *)argv);
        problem.number = errno;
    }
    close(lock_fd); /* before anyone learns of it */
    (void)!write(report_fd, &problem, sizeof(problem));
    _exit(127);
}

static int process_explain(const struct process_problem *problem, const char *program, struct error *err)
{
    if (problem->network)
        return error_set(
            err, E_PRECONDITION,
            "a volume's device has to be in the host's network to outlive mooring-node, and cannot "
            "enter it (%s): the container must be privileged",
            error_name(-problem->number));
    return error_errno(err, problem->number, "cannot execute %s", program);
}

/* Fork twice, so that the program is nobody's child and leaves no zombie; errors come back through a pipe. */
static int process_fork(int lock_fd, int log_fd, const struct place *place, const char *const *argv,
                        struct error *err)
{
    _cleanup_fd_ int report_read = -1;
    _cleanup_fd_ int report_write = -1;
    struct process_problem problem;
    int report[2], status;

    if (pipe2(report, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot make a pipe");
    report_read = report[0];
    report_write = report[1];

    pid_t middle = fork();
    if (middle < 0)
        return error_errno(err, errno, "cannot start %s", argv[0]);
    if (middle == 0) {
        setsid();
        pid_t pid = fork();
        if (pid == 0)
            process_become(lock_fd, log_fd, report[1], place, argv);
        _exit(pid < 0 ? 1 : 0);
    }
    report_write = fd_close(report_write);
    while (waitpid(middle, &status, 0) < 0 && errno == EINTR)
        continue;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return error_errno(err, EAGAIN, "cannot start %s", argv[0]);
    if (io_read_full(report_read, &problem, sizeof(problem)) == 0)
        return process_explain(&problem, argv[0], err);
    return 0;
}

/* Locks of open file descriptions (fcntl(2)) can be asked for without being taken, so that a question never
 * makes a start fail. */
static bool process_lock(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

static int process_is_locked(int fd, bool *ret)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return -errno;
    *ret = lock.l_type != F_UNLCK;
    return 0;
}

/* The place's words, then the program's: an array on the heap of borrowed strings. */
static const char **process_words(const struct place *place, const char *const *argv)
{
    size_t count = 0, before = place ? place->argc : 0;

    while (argv[count])
        count++;
    const char **words = calloc(before + count + 1, sizeof(*words));
    if (!words)
        return NULL;
    for (size_t i = 0; i < before; i++)
        words[i] = place->argv[i];
    memcpy(words + before, argv, count * sizeof(*words));
    return words;
}

int process_spawn(const char *pid_path, const char *log_path, const struct place *place,
                  const char *const *argv, struct error *err)
{
    _cleanup_fd_ int lock_fd = open(pid_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock_fd < 0)
        return error_errno(err, errno, "cannot open %s", pid_path);
    if (!process_lock(lock_fd))
        return error_set(err, E_EXISTS, "%s is running already (%s is locked)", argv[0], pid_path);
    if (ftruncate(lock_fd, 0) < 0) /* with the lock, a predecessor's pid would be taken for the new one's */
        return error_errno(err, errno, "cannot write %s", pid_path);

    _cleanup_fd_ int log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        return error_errno(err, errno, "cannot open %s", log_path);
    _cleanup_free_ const char **words = process_words(place, argv);
    if (!words)
        return error_errno(err, ENOMEM, "cannot start %s", argv[0]);
    return process_fork(lock_fd, log_fd, place, words, err);
}

int process_find(const char *pid_path, pid_t *ret_pid, struct error *err)
{
    char text[16] = "";
    _cleanup_fd_ int fd = open(pid_path, O_RDONLY | O_CLOEXEC);
    bool locked = false;

    if (fd < 0 && errno != ENOENT)
        return error_errno(err, errno, "cannot tell whether the process of %s lives", pid_path);
    int r = fd < 0 ? 0 : process_is_locked(fd, &locked);
    if (r)
        return error_errno(err, -r, "cannot tell whether the process of %s lives", pid_path);
    if (!locked)
        return error_set(err, E_NOT_FOUND, "the process of %s has ended", pid_path);
    long pid = pread(fd, text, sizeof(text) - 1, 0) > 0 ? strtol(text, NULL, 10) : 0;
    if (pid <= 1)
        return error_set(err, E_UNAVAILABLE, "the process of %s is starting", pid_path);
    if (ret_pid)
        *ret_pid = (pid_t)pid;
    return 0;
}

bool process_alive(const char *pid_path)
{
    return process_find(pid_path, NULL, NULL) != E_NOT_FOUND;
}

/* As process_find(). ESRCH is of one that is gone and has not given its lock back yet. */
static int process_open_found(const char *pid_path, int *ret_fd, struct error *err)
{
    pid_t pid = 0, again = 0;

    int r = process_find(pid_path, &pid, err);
    if (r)
        return r;
    _cleanup_fd_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno != ESRCH)
        return error_errno(err, errno, "cannot open the process of %s", pid_path);
    /* The lock is still held by that pid: the descriptor is of the right process. */
    r = process_find(pid_path, &again, err);
    if (r)
        return r;
    if (fd < 0 || again != pid)
        return error_set(err, E_UNAVAILABLE, "the process of %s is ending or starting", pid_path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int process_open(const char *pid_path)
{
    int fd = -1;

    return process_open_found(pid_path, &fd, NULL) ? -1 : fd;
}

static int process_open_by(const char *pid_path, uint64_t deadline_ms, int *ret_fd, struct error *err)
{
    int r = process_open_found(pid_path, ret_fd, err);

    while (r == E_UNAVAILABLE && time_now_ms() < deadline_ms) {
        error_done(err);
        poll(NULL, 0, 1);
        r = process_open_found(pid_path, ret_fd, err);
    }
    return r;
}

static int process_send(int fd, const char *pid_path, int signal_number, struct error *err)
{
    if (syscall(SYS_pidfd_send_signal, fd, signal_number, NULL, 0) < 0 && errno != ESRCH)
        return error_errno(err, errno, "cannot signal the process of %s", pid_path);
    return 0;
}

int process_signal(const char *pid_path, int signal_number, struct error *err)
{
    _cleanup_fd_ int fd = process_open(pid_path);

    return fd < 0 ? 0 : process_send(fd, pid_path, signal_number, err);
}

int process_stop(const char *pid_path, int signal_number, unsigned timeout_ms, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    _cleanup_fd_ int fd = -1;

    int r = process_open_by(pid_path, deadline_ms, &fd, err);
    if (r == E_NOT_FOUND) {
        error_done(err);
        return 0;
    }
    if (!r)
        r = process_send(fd, pid_path, signal_number, err);
    if (r)
        return r;
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    int n = poll(&ended, 1, (int)timeout_ms);
    while (n != 0 && process_alive(pid_path) && time_now_ms() < deadline_ms)
        poll(NULL, 0, 1); /* it is a zombie that has not closed its files yet */
    if (process_alive(pid_path))
        return error_set(err, E_DEADLINE, "the process of %s did not end within %u ms", pid_path, timeout_ms);
    return 0;
}

/* ---- short ones ---- */

struct process_output {
    char *text;
    size_t length;
};

/* Read once; false at the end. What is too much is read and dropped, so that the program can go on. */
static bool process_read_output(int fd, struct process_output *output)
{
    char some[1024];
    ssize_t n = read(fd, some, sizeof(some));

    if (n < 0)
        return errno == EINTR;
    size_t room = PROCESS_OUTPUT_MAX - 1 - output->length;
    size_t take = (size_t)n < room ? (size_t)n : room;
    memcpy(output->text + output->length, some, take);
    output->length += take;
    return n > 0;
}

/* Until the program closes its output. Returns whether it was cut short because what is watched ended. */
static bool process_follow(int fd, pid_t pid, const struct process_watch *watch,
                           struct process_output *output)
{
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = watch ? watch->fd : -1, .events = POLLIN}};
    bool more = true, ended = false;

    while (more) {
        if (poll(fds, 2, -1) < 0)
            continue;
        if (watch && fds[1].revents) {
            ended = true;
            fds[1].fd = -1;
            fds[1].revents = 0;
            watch->ended(watch->context);
            kill(pid, SIGKILL);
        }
        if (fds[0].revents)
            more = process_read_output(fd, output);
    }
    while (output->length && output->text[output->length - 1] == '\n')
        output->length--;
    output->text[output->length] = '\0';
    return ended;
}

int process_start(const char *const *argv, int output_fd, pid_t *ret_pid, struct error *err)
{
    posix_spawn_file_actions_t actions;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output_fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output_fd, STDERR_FILENO);
    int problem = posix_spawnp(ret_pid, argv[0], &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return problem ? error_errno(err, problem, "cannot run %s (is it installed?)", argv[0]) : 0;
}

int process_run(const char *const *argv, const struct process_watch *watch, int *ret_status,
                char **ret_output, struct error *err)
{
    _cleanup_free_ char *text = malloc(PROCESS_OUTPUT_MAX);
    struct process_output output = {.text = text};
    _cleanup_fd_ int read_fd = -1;
    _cleanup_fd_ int write_fd = -1;
    int fds[2], status;
    pid_t pid;

    if (!text)
        return error_errno(err, ENOMEM, "cannot run %s", argv[0]);
    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot make a pipe");
    read_fd = fds[0];
    write_fd = fds[1];
    int r = process_start(argv, write_fd, &pid, err);
    if (r)
        return r;
    write_fd = fd_close(write_fd);
    bool ended = process_follow(read_fd, pid, watch, &output);
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return error_errno(err, errno, "cannot wait for %s", argv[0]);
    }
    if (ended)
        return error_set(err, E_UNAVAILABLE, "%s was ended: %s", argv[0], watch->why);
    *ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (ret_output)
        *ret_output = TAKE_PTR(text);
    return 0;
}
