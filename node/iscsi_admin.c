/* Running iscsiadm, and the words for what it answers. RPC threads and the supervisor; called by
 * iscsi_attach.c. */
#include "node/iscsi_admin.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/iscsi_record.h"
#include "node/process.h"

#define ADMIN_ARGUMENTS_MAX 24
#define ADMIN_HOST_ROOT "/proc/1/root"
#define ADMIN_TRANSPORT "/sys/class/iscsi_transport/tcp"
#define ADMIN_NOT_EXECUTED 127 /* nsenter's, where the host lacks the program */

/* What iscsiadm exits with (iscsiadm(8), "EXIT STATUS"). */
enum admin_status {
    ADMIN_NO_TRANSPORT = 12,
    ADMIN_SESSION_EXISTS = 15,
    ADMIN_FATAL_LOGIN = 19,
    ADMIN_NO_ISCSID = 20,
    ADMIN_NO_OBJECTS = 21,
    ADMIN_AUTH_FAILED = 24,
};

/* ---- running ---- */

/* In a pod the host's init is in another mount namespace; where it is ours, or cannot be seen, we are the
 * host. */
static bool admin_in_pod(void)
{
    struct stat init, self;

    return stat("/proc/1/ns/mnt", &init) == 0 && stat("/proc/self/ns/mnt", &self) == 0 &&
           (init.st_ino != self.st_ino || init.st_dev != self.st_dev);
}

static const char *admin_root(void)
{
    return admin_in_pod() ? ADMIN_HOST_ROOT : "";
}

static void admin_timed_out(void *context)
{
    (void)context; /* it is killed: nothing of it waits in the kernel */
}

static int admin_timer(uint64_t deadline_ms, int *ret_fd, struct error *err)
{
    uint64_t now_ms = time_now_ms(), left_ms = deadline_ms > now_ms ? deadline_ms - now_ms : 1;
    const struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(left_ms / 1000), .tv_nsec = (long)(left_ms % 1000) * 1000000}};
    _cleanup_fd_ int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);

    if (fd < 0 || timerfd_settime(fd, 0, &when, NULL) < 0)
        return error_errno(err, errno, "cannot make a timer");
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int admin_explain_missing(struct error *err)
{
    error_done(err);
    return error_set(
        err, E_PRECONDITION,
        "attach=iscsi needs open-iscsi, and this host has no iscsiadm: install it (Debian: open-iscsi, "
        "RPM: iscsi-initiator-utils)");
}

/* arguments ends with NULL. ret_status is the exit status. E_DEADLINE when it did not end in time. */
static int admin_run(const char *const *arguments, uint64_t deadline_ms, int *ret_status, char **ret_output,
                     struct error *err)
{
    static const char *const enter[] = {"nsenter", "--target", "1", "--mount", "--net", "--"};
    const char *argv[ARRAY_SIZE(enter) + ADMIN_ARGUMENTS_MAX];
    size_t count = 0;
    _cleanup_fd_ int timer_fd = -1;

    for (size_t i = 0; admin_in_pod() && i < ARRAY_SIZE(enter); i++)
        argv[count++] = enter[i];
    do
        argv[count++] = *arguments;
    while (*arguments++);
    int r = admin_timer(deadline_ms, &timer_fd, err);
    if (r)
        return r;
    const struct process_watch watch = {timer_fd, admin_timed_out, NULL, "it did not end in the time given"};
    r = process_run(argv, &watch, ret_status, ret_output, err);
    if (r == E_UNAVAILABLE && time_now_ms() >= deadline_ms) {
        error_done(err);
        return error_set(err, E_DEADLINE, "%s did not end in the time given", argv[0]);
    }
    return r;
}

/* iscsiadm with these arguments, which end with NULL. */
static int admin_iscsiadm(const char *const *arguments, uint64_t deadline_ms, int *ret_status,
                          char **ret_output, struct error *err)
{
    const char *argv[ADMIN_ARGUMENTS_MAX] = {"iscsiadm"};

    for (size_t i = 1; i < ARRAY_SIZE(argv) && (argv[i] = arguments[i - 1]); i++)
        continue;
    int r = admin_run(argv, deadline_ms, ret_status, ret_output, err);
    if (r == -ENOENT || (!r && *ret_status == ADMIN_NOT_EXECUTED))
        return admin_explain_missing(err);
    return r;
}

/* The last line of what it printed: its own words for what went wrong. */
static const char *admin_words(const char *output)
{
    const char *line = output ? strstr(output, "iscsiadm: ") : NULL;

    for (const char *next = line; next && (next = strstr(next + 1, "iscsiadm: "));) {
        if (strstr(next, "Could not log into all portals") != next + strlen("iscsiadm: "))
            line = next;
    }
    return line ? line + strlen("iscsiadm: ") : "it said nothing";
}

static int admin_explain(int status, const char *what, const char *output, struct error *err)
{
    const char *words = admin_words(output);
    int length = (int)strcspn(words, "\n");

    if (status == ADMIN_NO_ISCSID)
        return error_set(
            err, E_PRECONDITION,
            "%s: iscsid does not run: start it (systemctl enable --now iscsid.socket, or iscsid)", what);
    if (status == ADMIN_NO_TRANSPORT)
        return error_set(err, E_PRECONDITION,
                         "%s: the kernel's iSCSI driver is not there: load it (modprobe iscsi_tcp)", what);
    if (status == ADMIN_SESSION_EXISTS)
        return error_set(err, E_EXISTS, "%s: %.*s", what, length, words);
    if (status == ADMIN_AUTH_FAILED || status == ADMIN_FATAL_LOGIN)
        return error_set(err, E_PERMISSION, "%s: the storage server refused it: %.*s", what, length, words);
    return error_set(err, E_UNAVAILABLE, "%s: %.*s (iscsiadm: exit status %d)", what, length, words, status);
}

/* ---- what must be there ---- */

int iscsi_admin_check(uint64_t deadline_ms, struct error *err)
{
    static const char *const modprobe[] = {"modprobe", "-a", "iscsi_tcp", "sd_mod", NULL};
    static const char *const version[] = {"--version", NULL};
    _cleanup_free_ char *output = NULL;
    _cleanup_free_ char *said = NULL;
    int status;

    int r = admin_iscsiadm(version, deadline_ms, &status, &output, err);
    if (r || access(ADMIN_TRANSPORT, F_OK) == 0)
        return r;
    r = admin_run(modprobe, deadline_ms, &status, &said, err);
    if (access(ADMIN_TRANSPORT, F_OK) == 0) {
        error_done(err);
        return 0;
    }
    const char *why = r ? error_text(err) : said;
    _cleanup_free_ char *words = str_format("%.*s", (int)strcspn(why, "\n"), why);
    error_done(err);
    return error_set(
        err, E_PRECONDITION,
        "attach=iscsi needs the kernel module iscsi_tcp, which this host cannot load (%s): install the "
        "kernel's modules, or use attach=fuse",
        words && *words ? words : "modprobe said nothing");
}

/* ---- one record, one session ---- */

static int admin_make_record(const struct iscsi_login *login, uint64_t deadline_ms, struct error *err)
{
    const char *const arguments[] = {
        "-m", "node", "-T", login->target_name, "-p", login->portal, "-I", "default", "-o", "new", NULL};
    _cleanup_free_ char *output = NULL;
    int status;

    int r = admin_iscsiadm(arguments, deadline_ms, &status, &output, err);
    if (!r && status)
        r = admin_explain(status, "cannot make open-iscsi's record", output, err);
    return r ? r : iscsi_record_set(admin_root(), login, err);
}

int iscsi_admin_login(const struct iscsi_login *login, uint64_t deadline_ms, struct error *err)
{
    const char *const arguments[] = {"-m",      "node", "-T", login->target_name, "-p", login->portal, "-I",
                                     "default", "-l",   NULL};
    _cleanup_free_ char *output = NULL;
    int status;

    int r = iscsi_admin_check(deadline_ms, err);
    if (!r)
        r = iscsi_admin_forget(login->target_name, login->portal, deadline_ms, err);
    if (!r)
        r = admin_make_record(login, deadline_ms, err);
    if (!r)
        r = admin_iscsiadm(arguments, deadline_ms, &status, &output, err);
    if (!r && status) {
        _cleanup_free_ char *what = str_format("cannot log in at %s", login->portal);
        r = admin_explain(status, what ? what : "cannot log in", output, err);
    }
    return r;
}

int iscsi_admin_logout(unsigned sid, uint64_t deadline_ms, struct error *err)
{
    char number[16];
    const char *const arguments[] = {"-m", "session", "-r", number, "-u", NULL};
    _cleanup_free_ char *output = NULL;
    int status;

    snprintf(number, sizeof(number), "%u", sid);
    int r = admin_iscsiadm(arguments, deadline_ms, &status, &output, err);
    if (!r && status && status != ADMIN_NO_OBJECTS) {
        _cleanup_free_ char *what = str_format("cannot log session %u out", sid);
        r = admin_explain(status, what ? what : "cannot log out", output, err);
    }
    return r;
}

int iscsi_admin_forget(const char *target_name, const char *portal, uint64_t deadline_ms, struct error *err)
{
    const char *const arguments[] = {"-m", "node", "-T", target_name, "-p", portal, "-o", "delete", NULL};
    _cleanup_free_ char *output = NULL;
    int status;

    iscsi_record_sweep(admin_root(), target_name, portal);
    int r = admin_iscsiadm(arguments, deadline_ms, &status, &output, err);
    if (!r && status && status != ADMIN_NO_OBJECTS)
        r = admin_explain(status, "cannot remove open-iscsi's record", output, err);
    return r;
}
