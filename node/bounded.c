/* Programs under way, by key: a short list under one mutex. Each waits on its caller's thread, an RPC's. */
#include "node/bounded.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/process.h"

#define OUTPUT_MAX 4096
#define KILL_MS 20

struct bounded_program {
    struct bounded_program *next;
    char *key;
    pid_t pid; /* 0: about to be started */
    uint64_t since_ms;
    bool hangs; /* nobody waits for it any more */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended =
    PTHREAD_COND_INITIALIZER; /* CLOCK_REALTIME: a jump makes a wait short or long once */
static struct bounded_program *programs;

static void bounded_remove_locked(struct bounded_program *program)
{
    struct bounded_program **at = &programs;

    while (*at != program)
        at = &(*at)->next;
    *at = program->next;
    free(program->key);
    free(program);
}

/* Those that the kernel has let go. */
static void bounded_sweep_locked(void)
{
    for (struct bounded_program *program = programs, *next; program; program = next) {
        next = program->next;
        if (program->hangs && waitpid(program->pid, NULL, WNOHANG) != 0)
            bounded_remove_locked(program);
    }
}

static struct bounded_program *bounded_find_locked(const char *key)
{
    struct bounded_program *program = programs;

    while (program && !str_equal(program->key, key))
        program = program->next;
    return program;
}

/* Until the key is free. */
static int bounded_enter(const char *key, uint64_t deadline_ms, struct bounded_program **ret,
                         struct error *err)
{
    struct bounded_program *program = calloc(1, sizeof(*program)), *other;
    int r = 0;

    if (program)
        program->key = strdup(key);
    if (!program || !program->key) {
        free(program);
        return error_errno(err, ENOMEM, "cannot start a program");
    }
    pthread_mutex_lock(&mutex);
    for (;;) {
        bounded_sweep_locked();
        other = bounded_find_locked(key);
        uint64_t now_ms = time_now_ms();
        if (!other || other->hangs || now_ms >= deadline_ms)
            break;
        struct timespec until;
        uint64_t left_ms = deadline_ms - now_ms;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec +=
            (time_t)(left_ms / 1000) + (until.tv_nsec + (long)(left_ms % 1000) * 1000000) / 1000000000;
        until.tv_nsec = (until.tv_nsec + (long)(left_ms % 1000) * 1000000) % 1000000000;
        pthread_cond_timedwait(&ended, &mutex, &until);
    }
    if (other) {
        r = error_set(err, E_UNAVAILABLE,
                      "an earlier look at %s has not ended for %llu ms: its storage hangs", key,
                      (unsigned long long)(time_now_ms() - other->since_ms));
        free(program->key);
        free(program);
    } else {
        program->since_ms = time_now_ms();
        program->next = programs;
        programs = program;
        *ret = program;
    }
    pthread_mutex_unlock(&mutex);
    return r;
}

static void bounded_leave(struct bounded_program *program, bool hangs)
{
    pthread_mutex_lock(&mutex);
    if (hangs)
        program->hangs = true;
    else
        bounded_remove_locked(program);
    pthread_cond_broadcast(&ended);
    pthread_mutex_unlock(&mutex);
}

/* What it prints, until it closes its output. false: not in time. */
static bool bounded_follow(int fd, char *output, uint64_t deadline_ms)
{
    size_t length = 0;

    for (;;) {
        uint64_t now_ms = time_now_ms();
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        char some[1024];
        output[length] = '\0';
        if (now_ms >= deadline_ms)
            return false;
        if (poll(&readable, 1, (int)(deadline_ms - now_ms)) <= 0)
            continue;
        ssize_t n = read(fd, some, sizeof(some));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return true;
        for (ssize_t i = 0; i < n && length < OUTPUT_MAX - 1; i++)
            output[length++] = some[i];
    }
}

static bool bounded_reap(pid_t pid, uint64_t deadline_ms, int *ret_status)
{
    for (;;) {
        pid_t done = waitpid(pid, ret_status, WNOHANG);
        if (done == pid || (done < 0 && errno != EINTR))
            return true;
        if (time_now_ms() >= deadline_ms)
            return false;
        poll(NULL, 0, 1);
    }
}

static int bounded_watch(struct bounded_program *program, int fd, const char *const *argv,
                         unsigned timeout_ms, int *ret_status, char **ret_output, struct error *err)
{
    _cleanup_free_ char *output = malloc(OUTPUT_MAX);
    uint64_t deadline_ms = program->since_ms + timeout_ms;
    int status = 0;

    bool whole =
        output && bounded_follow(fd, output, deadline_ms) && bounded_reap(program->pid, deadline_ms, &status);
    if (whole) {
        *ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        *ret_output = TAKE_PTR(output);
        bounded_leave(program, false);
        return 0;
    }
    kill(program->pid, SIGKILL);
    bounded_leave(program, !bounded_reap(program->pid, time_now_ms() + KILL_MS, &status));
    return error_set(err, output ? E_UNAVAILABLE : -ENOMEM, "%s did not end within %u ms: its storage hangs",
                     argv[0], timeout_ms);
}

int bounded_run(const char *key, const char *const *argv, unsigned timeout_ms, int *ret_status,
                char **ret_output, struct error *err)
{
    struct bounded_program *program;
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot make a pipe");
    _cleanup_fd_ int read_fd = fds[0];
    _cleanup_fd_ int write_fd = fds[1];
    int r = bounded_enter(key, time_now_ms() + timeout_ms, &program, err);
    if (r)
        return r;
    r = process_start(argv, write_fd, &program->pid, err);
    write_fd = fd_close(write_fd);
    if (r) {
        bounded_leave(program, false);
        return r;
    }
    return bounded_watch(program, read_fd, argv, timeout_ms, ret_status, ret_output, err);
}
