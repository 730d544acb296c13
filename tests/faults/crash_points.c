/*
 * crash-points --pool PATH --server-id ID --uuid UUID [--all] [OPERATION…]: each operation of the store on an
 * empty pool, killed at its first system call, at its second, and so on until it ends by itself. After each
 * the pool is opened again: it is as before the operation or as after it (or in the one third state that an
 * operation may have, where what it promised is known to be lost), with nothing left over; and the operation,
 * when it is tried again, leads to what it leads to without a crash.
 *
 * The process that carries the operation out is a child under ptrace(2), killed on the entry of the system
 * call, which the kernel does not carry out then. Without --all only those calls count that change something
 * outside the process, since between two of them the pool is the same, and nothing is flushed. What is lost
 * by a power cut is not lost here: see power_loss.py.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/ptrace.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "tests/faults/crash_points.h"

#define OPEN_LIMIT_MS 30000 /* for what a killed process has in flight */
#define POINTS_MAX 100000u

const char *crash_pool_path;

static struct {
    struct crash_pool pool;
    bool all;
} run;

/* ---- flushes: the kernel keeps what a killed process wrote, flushed or not, and they take most of the time
 * ---- */

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

int __wrap_fsync(int fd)
{
    return run.all ? __real_fsync(fd) : 0;
}

int __wrap_fdatasync(int fd)
{
    return run.all ? __real_fdatasync(fd) : 0;
}

/* ---- words ---- */

static int tell(const struct crash_operation *operation, const char *what, const struct error *err)
{
    printf("FAIL crash_points_%s: %s: %s\n", operation->name, what, error_text(err));
    return 1;
}

/* The lines of one that the other has not, one below the other on stderr. */
static void show_difference(const char *title, const char *expected, const char *found)
{
    fprintf(stderr, "--- %s\n%s--- found\n%s", title, expected, found);
}

/* ---- the store ---- */

static int store_open_again(struct store **ret, struct error *err)
{
    uint64_t until_ms = time_now_ms() + OPEN_LIMIT_MS;
    int r = store_open(ret, &run.pool.options, err);

    while (r == E_BUSY && time_now_ms() < until_ms) {
        error_done(err);
        poll(NULL, 0, 1);
        r = store_open(ret, &run.pool.options, err);
    }
    return r;
}

static int pool_prepare(const struct crash_operation *operation, bool litter, struct error *err)
{
    struct store *store;

    crash_pool_empty(&run.pool);
    int r = store_open_again(&store, err);
    if (r)
        return r;
    r = operation->prepare(store, err);
    store_close(store);
    if (!r && litter && operation->litter)
        r = operation->litter(&run.pool);
    return r;
}

/* The pool as the next process finds it; again: after the operation was repeated. */
static int pool_look(const struct crash_operation *operation, bool again, char **ret, struct error *err)
{
    struct store *store;

    int r = store_open_again(&store, err);
    if (r)
        return r;
    if (again)
        r = operation->run(store, err);
    if (!r)
        *ret = crash_pool_words(&run.pool, store);
    store_close(store);
    return r || *ret ? r : -ENOMEM;
}

/* ---- the one that is killed ---- */

static _Noreturn void child_run(const struct crash_operation *operation)
{
    _cleanup_error_ struct error err = {0};
    struct store *store = NULL;

    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(3);
    int r = operation->opening ? 0 : store_open_again(&store, &err);
    raise(SIGSTOP); /* from here on system calls count */
    if (!r)
        r = operation->opening ? store_open_again(&store, &err) : operation->run(store, &err);
    if (r)
        fprintf(stderr, "crash-points: %s: %s\n", operation->name, error_text(&err));
    _exit(r ? 4 : 0); /* like a kill after the answer: nothing is closed */
}

/* Does it change anything that outlives the process? fsync(2) does so at a power cut only. */
static bool call_changes(const struct ptrace_syscall_info *info)
{
    static const long changing[] = {
        SYS_mkdir,     SYS_mkdirat,   SYS_rename,         SYS_renameat,        SYS_renameat2, SYS_unlink,
        SYS_unlinkat,  SYS_rmdir,     SYS_link,           SYS_linkat,          SYS_symlink,   SYS_symlinkat,
        SYS_write,     SYS_pwrite64,  SYS_writev,         SYS_pwritev,         SYS_pwritev2,  SYS_ftruncate,
        SYS_truncate,  SYS_fallocate, SYS_ioctl,          SYS_copy_file_range, SYS_fchmod,    SYS_fchmodat,
        SYS_fsetxattr, SYS_setxattr,  SYS_io_uring_enter,
    };
    long number = (long)info->entry.nr;

    if (number == SYS_openat)
        return info->entry.args[2] & (O_CREAT | O_TRUNC);
    for (size_t i = 0; i < ARRAY_SIZE(changing); i++) {
        if (changing[i] == number)
            return true;
    }
    return false;
}

static bool is_point(pid_t pid, long *ret_number)
{
    struct ptrace_syscall_info info = {0};

    if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) < 0 || info.op != PTRACE_SYSCALL_INFO_ENTRY)
        return false;
    *ret_number = (long)info.entry.nr;
    return run.all || call_changes(&info);
}

/*
 * Let the child and its threads run to system call number `point`, and kill it there: *ret_number is which it
 * was; -1 when it ended before. 0, or the errno of what ptrace(2) refuses.
 */
static int child_follow(pid_t child, unsigned point, long *ret_number, int *ret_status)
{
    unsigned seen = 0;
    int status;
    pid_t pid;

    *ret_number = -1;
    while ((pid = waitpid(-1, &status, __WALL)) > 0) {
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == child) {
                *ret_status = status;
                return 0;
            }
            continue;
        }
        int signal_number = WSTOPSIG(status);
        long number;
        if (signal_number == (SIGTRAP | 0x80) && *ret_number < 0 && is_point(pid, &number) &&
            ++seen == point) {
            *ret_number = number;
            kill(child, SIGKILL); /* all its threads; none goes on to carry out anything */
            continue;
        }
        bool ours = signal_number == (SIGTRAP | 0x80) || signal_number == SIGTRAP || signal_number == SIGSTOP;
        if (ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(long)(ours ? 0 : signal_number)) < 0 && errno != ESRCH)
            return errno;
    }
    return errno;
}

static int child_kill_at(const struct crash_operation *operation, unsigned point, long *ret_number,
                         int *ret_status)
{
    int status;
    pid_t child = fork();

    if (child < 0)
        return errno;
    if (child == 0)
        child_run(operation);
    /* To its own stop: the store's opening is not what is looked at. */
    while (waitpid(child, &status, 0) == child && !(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP)) {
        if (!WIFSTOPPED(status)) {
            *ret_status = status;
            *ret_number = -1;
            return 0;
        }
        ptrace(PTRACE_CONT, child, NULL, (void *)(long)WSTOPSIG(status));
    }
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)options) < 0 ||
        ptrace(PTRACE_SYSCALL, child, NULL, NULL) < 0)
        return errno;
    return child_follow(child, point, ret_number, ret_status);
}

/* ---- one operation ---- */

struct outcome {
    char *before, *after, *between[CRASH_BETWEEN_MAX]; /* between: NULL where there is no such state */
    unsigned points, old, new, half;
};

static bool is_between(const struct outcome *outcome, const char *found)
{
    for (size_t i = 0; i < CRASH_BETWEEN_MAX; i++) {
        if (outcome->between[i] && str_equal(found, outcome->between[i]))
            return true;
    }
    return false;
}

static int check_state(const struct crash_operation *operation, struct outcome *outcome, unsigned point,
                       long number)
{
    _cleanup_error_ struct error err = {0};
    _cleanup_free_ char *found = NULL, *again = NULL;
    char where[96];

    snprintf(where, sizeof(where), "killed at system call %u (number %ld)", point, number);
    if (pool_look(operation, false, &found, &err))
        return tell(operation, where, &err);
    bool is_new = str_equal(found, outcome->after), is_old = str_equal(found, outcome->before);
    bool is_half = is_between(outcome, found);
    if (!is_new && !is_old && !is_half) {
        printf("FAIL crash_points_%s: %s: neither as before nor as after\n", operation->name, where);
        show_difference("before", outcome->before, "");
        show_difference("after", outcome->after, found);
        return 1;
    }
    outcome->new += is_new;
    outcome->old += is_old && !is_new;
    outcome->half += is_half;
    if (pool_look(operation, true, &again, &err))
        return tell(operation, where, &err);
    if (str_equal(again, outcome->after))
        return 0;
    printf("FAIL crash_points_%s: %s: not as after when it is tried again\n", operation->name, where);
    show_difference("after", outcome->after, again);
    return 1;
}

/* Each point, until it ends by itself. */
static int try_points(const struct crash_operation *operation, struct outcome *outcome)
{
    for (unsigned point = 1; point < POINTS_MAX; point++) {
        _cleanup_error_ struct error err = {0};
        int status = 0;
        long number = -1;

        if (pool_prepare(operation, true, &err))
            return tell(operation, "cannot be prepared", &err);
        int problem = child_kill_at(operation, point, &number, &status);
        if (problem || (number < 0 && status)) {
            printf("FAIL crash_points_%s: ptrace: %s, status %d\n", operation->name, strerror(problem),
                   status);
            return 1;
        }
        if (check_state(operation, outcome, point, number))
            return 1;
        if (number < 0)
            return 0;
        outcome->points++;
    }
    return 0;
}

/* The states that there are to be. */
static int learn_between(const struct crash_operation *operation, size_t index, char **ret, struct error *err)
{
    struct crash_operation half = *operation;
    _cleanup_free_ char *unseen = NULL;

    half.run = operation->between[index];
    int r = pool_prepare(operation, false, err);
    if (!r)
        r = pool_look(&half, true, &unseen, err);
    return r ? r : pool_look(operation, false, ret, err);
}

static int learn(const struct crash_operation *operation, struct outcome *outcome, struct error *err)
{
    int r = E_OK;

    for (size_t i = 0; !r && i < CRASH_BETWEEN_MAX && operation->between[i]; i++)
        r = learn_between(operation, i, &outcome->between[i], err);
    if (!r)
        r = pool_prepare(operation, false, err);
    if (!r)
        r = pool_look(operation, false, &outcome->before, err);
    if (!r)
        r = pool_look(operation, true, &outcome->after, err);
    return r;
}

static int try_operation(const struct crash_operation *operation)
{
    _cleanup_error_ struct error err = {0};
    struct outcome outcome = {0};

    int failed = 0, r = learn(operation, &outcome, &err);
    if (r)
        failed = tell(operation, "without a crash", &err);
    else
        failed = try_points(operation, &outcome);
    if (!failed && !operation->opening && str_equal(outcome.before, outcome.after)) {
        printf("FAIL crash_points_%s: it changes nothing\n", operation->name);
        failed = 1;
    }
    if (!failed && operation->between[0] && outcome.half == 0) {
        printf("FAIL crash_points_%s: it was never left half-way\n", operation->name);
        failed = 1;
    }
    if (!failed)
        printf(
            "PASS crash_points_%s\n    %u points: %u times as before, %u times as after, %u times half-way\n",
            operation->name, outcome.points, outcome.old, outcome.new, outcome.half);
    fflush(stdout);
    free(outcome.before);
    free(outcome.after);
    for (size_t i = 0; i < CRASH_BETWEEN_MAX; i++)
        free(outcome.between[i]);
    return failed;
}

static bool is_wanted(const char *name, int count, char **names)
{
    for (int i = 0; i < count; i++) {
        if (str_equal(names[i], name))
            return true;
    }
    return count == 0;
}

static int try_table(const struct crash_operation *table, size_t table_count, int count, char **names)
{
    int failed = 0;

    for (size_t i = 0; i < table_count; i++) {
        if (is_wanted(table[i].name, count, names))
            failed += try_operation(&table[i]);
    }
    return failed;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"pool", required_argument, NULL, 'p'},
                                            {"server-id", required_argument, NULL, 's'},
                                            {"uuid", required_argument, NULL, 'u'},
                                            {"all", no_argument, NULL, 'a'},
                                            {0}};
    struct store_options *store = &run.pool.options;
    int option, failed = 0;

    store->overcommit = true;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'p')
            store->path = crash_pool_path = optarg;
        else if (option == 's')
            store->server_id = optarg;
        else if (option == 'u')
            store->pool_uuid = optarg;
        else if (option == 'a')
            run.all = true;
        else
            return 2;
    }
    run.pool.fd = store->path ? open(store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (run.pool.fd < 0 || !store->server_id || !store->pool_uuid) {
        fprintf(stderr, "crash-points: --pool PATH, --server-id ID and --uuid UUID are needed\n");
        return 2;
    }
    log_init("crash-points", LOG_LEVEL_ERROR);
    failed = try_table(crash_operations, crash_operations_count, argc - optind, argv + optind) +
             try_table(crash_operations_more, crash_operations_more_count, argc - optind, argv + optind);
    return failed ? 1 : 0;
}
