/* Starting, finding and ending programs. Blocks; called by the node's RPC threads and its supervisor. */
#include "node/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/time.h"

#define PROCESS_OUTPUT_MAX 4096

/* ---- long-lived ones ---- */

/* In the new process: record who we are, keep the lock across exec, and become argv. Only async-signal-safe
 * calls. */
static _Noreturn void process_become(int lock_fd, int log_fd, int report_fd, const char *const *argv)
{
    char text[16];
    int length = 0, problem;
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (pid_t pid = getpid(), scale = 1000000000; scale; scale /= 10) {
        if (pid / scale || length)
            text[length++] = (char)('0' + pid / scale % 10);
    }
    text[length++] = '\n';
    if (null_fd < 0 || ftruncate(lock_fd, 0) < 0 || pwrite(lock_fd, text, (size_t)length, 0) != length ||
        dup2(null_fd, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 ||
        dup2(log_fd, STDERR_FILENO) < 0 || fcntl(lock_fd, F_SETFD, 0) < 0) {
        problem = errno;
    } else {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execv(argv[0], (char *const *)argv);
        problem = errno;
    }
    (void)!write(report_fd, &problem, sizeof(problem));
    _exit(127);
}

/* Fork twice, so that the program is nobody's child and leaves no zombie; errors come back through a pipe. */
static int process_fork(int lock_fd, int log_fd, const char *const *argv, struct error *err)
{
    _cleanup_fd_ int report_read = -1;
    _cleanup_fd_ int report_write = -1;
    int report[2], problem = 0, status;

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
            process_become(lock_fd, log_fd, report[1], argv);
        _exit(pid < 0 ? 1 : 0);
    }
    report_write = fd_close(report_write);
    while (waitpid(middle, &status, 0) < 0 && errno == EINTR)
        continue;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return error_errno(err, EAGAIN, "cannot start %s", argv[0]);
    if (io_read_full(report_read, &problem, sizeof(problem)) == 0)
        return error_errno(err, problem, "cannot execute %s", argv[0]);
    return 0;
}

int process_spawn(const char *pid_path, const char *log_path, const char *const *argv, struct error *err)
{
    _cleanup_fd_ int lock_fd = open(pid_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock_fd < 0)
        return error_errno(err, errno, "cannot open %s", pid_path);
    if (flock(lock_fd, LOCK_EX | LOCK_NB) < 0)
        return error_set(err, E_EXISTS, "%s is running already (%s is locked)", argv[0], pid_path);

    _cleanup_fd_ int log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        return error_errno(err, errno, "cannot open %s", log_path);
    return process_fork(lock_fd, log_fd, argv, err);
}

bool process_alive(const char *pid_path, pid_t *ret_pid)
{
    char text[16] = "";
    _cleanup_fd_ int fd = open(pid_path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK)
        return false;
    if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
        return false;
    long pid = strtol(text, NULL, 10);
    if (pid <= 1)
        return false;
    if (ret_pid)
        *ret_pid = (pid_t)pid;
    return true;
}

int process_open(const char *pid_path)
{
    pid_t pid, again;

    if (!process_alive(pid_path, &pid))
        return -1;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return -1;
    /* The lock is still held by that pid: the descriptor is of the right process. */
    if (!process_alive(pid_path, &again) || again != pid)
        return fd_close(fd);
    return fd;
}

int process_stop(const char *pid_path, int signal_number, unsigned timeout_ms, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    _cleanup_fd_ int fd = process_open(pid_path);

    if (fd < 0)
        return 0;
    if (syscall(SYS_pidfd_send_signal, fd, signal_number, NULL, 0) < 0 && errno != ESRCH)
        return error_errno(err, errno, "cannot signal the process of %s", pid_path);
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    int n = poll(&ended, 1, (int)timeout_ms);
    while (n != 0 && process_alive(pid_path, NULL) && time_now_ms() < deadline_ms)
        poll(NULL, 0, 1); /* it is a zombie that has not closed its files yet */
    if (process_alive(pid_path, NULL))
        return error_set(err, E_DEADLINE, "the process of %s did not end within %u ms", pid_path, timeout_ms);
    return 0;
}

/* ---- short ones ---- */

static void process_read_output(int fd, char *output, size_t size)
{
    char sink[1024];
    size_t length = 0;
    ssize_t n;

    while ((n = read(fd, sink, sizeof(sink))) > 0 || (n < 0 && errno == EINTR)) {
        if (n < 0)
            continue;
        size_t take = (size_t)n < size - 1 - length ? (size_t)n : size - 1 - length;
        memcpy(output + length, sink, take);
        length += take;
    }
    while (length && output[length - 1] == '\n')
        length--;
    output[length] = '\0';
}

int process_run(const char *const *argv, int *ret_status, char **ret_output, struct error *err)
{
    _cleanup_free_ char *output = malloc(PROCESS_OUTPUT_MAX);
    _cleanup_fd_ int read_fd = -1;
    _cleanup_fd_ int write_fd = -1;
    posix_spawn_file_actions_t actions;
    int fds[2], status;
    pid_t pid;

    if (!output)
        return error_errno(err, ENOMEM, "cannot run %s", argv[0]);
    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot make a pipe");
    read_fd = fds[0];
    write_fd = fds[1];
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, write_fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, write_fd, STDERR_FILENO);
    int problem = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (problem)
        return error_errno(err, problem, "cannot run %s (is it installed?)", argv[0]);
    write_fd = fd_close(write_fd);
    process_read_output(read_fd, output, PROCESS_OUTPUT_MAX);
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return error_errno(err, errno, "cannot wait for %s", argv[0]);
    }
    *ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (ret_output)
        *ret_output = TAKE_PTR(output);
    return 0;
}
