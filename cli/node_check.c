/* mooring node check: can this host be a compute node? Looks, changes nothing. Run by main(). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/csi.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/host.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"

static void add(json_t *rows, const char *name, bool ok, bool required, const char *detail)
{
    json_array_append_new(rows, json_pack("{s:s, s:b, s:b, s:s}", "check", name, "ok", ok, "required",
                                          required, "detail", detail));
}

static bool on_path(const char *program)
{
    static const char *const dirs[] = {"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"};

    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
        _cleanup_free_ char *path = str_format("%s/%s", dirs[i], program);

        if (path && access(path, X_OK) == 0)
            return true;
    }
    return false;
}

static void check_device(json_t *rows, const char *path, const char *remedy)
{
    bool ok = access(path, R_OK | W_OK) == 0;

    add(rows, path, ok, false, ok ? "there" : remedy);
}

/* ---- ways to attach: mooring-device knows the kernels ---- */

static json_t *ask_device(const char *program)
{
    char option[] = "--check";
    char *argv[] = {(char *)program, option, NULL};
    posix_spawn_file_actions_t actions;
    json_t *object = NULL;
    int fds[2], status;
    pid_t pid;

    if (!program || pipe2(fds, O_CLOEXEC) < 0)
        return NULL;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int r = posix_spawn(&pid, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    if (r == 0) {
        object = json_loadfd(fds[0], JSON_DISABLE_EOF_CHECK, NULL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
    }
    close(fds[0]);
    return object;
}

/* Beside us in a build's folder, else where it is installed. */
static char *device_program(const char *libexec_dir)
{
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (libexec_dir)
        return str_format("%s/mooring-device", libexec_dir);
    if (length <= 0)
        return NULL;
    self[length] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    char *path = str_format("%s/../libexec/mooring/mooring-device", self);
    if (path && access(path, X_OK) == 0)
        return path;
    free(path);
    return str_format("%s/mooring-device", self);
}

static void check_way(json_t *rows, json_t *check, const char *way)
{
    json_t *object = json_object_get(check, way);
    const char *why = json_string_value(json_object_get(object, "why"));
    bool usable = json_is_true(json_object_get(object, "usable"));
    _cleanup_free_ char *name = str_format("attach=%s", way);

    add(rows, name ? name : way, usable, false, usable ? "works here" : why && *why ? why : "not known");
}

/* An opt-in ("fuse_io_uring" of node.json), and its price. */
static void check_fuse_io_uring(json_t *rows, json_t *check)
{
    json_t *object = json_object_get(check, "fuse_io_uring");
    const char *why = json_string_value(json_object_get(object, "why"));
    bool usable = json_is_true(json_object_get(object, "usable"));

    if (!object) /* a mooring-device that does not know it */
        return;
    add(rows, "attach=fuse by io_uring", usable, false,
        usable ? "can be asked for (fuse_io_uring); a crash of mooring-device then ends the volume's I/O"
        : why  ? why
               : "not known");
}

static void check_ways(json_t *rows, const char *libexec_dir)
{
    _cleanup_free_ char *program = device_program(libexec_dir);
    _cleanup_json_ json_t *check = ask_device(program);
    const char *chosen = json_string_value(json_object_get(check, "auto"));
    const char *version = json_string_value(json_object_get(check, "version"));

    if (!check) {
        add(rows, "mooring-device", false, true, program ? program : "not found");
        return;
    }
    add(rows, "mooring-device", true, true, version ? version : "of before 0.1.0");
    check_way(rows, check, "ublk");
    check_way(rows, check, "fuse");
    check_fuse_io_uring(rows, check);
    bool iscsi = on_path("iscsiadm") && on_path("iscsid");
    add(rows, "attach=iscsi", iscsi, false, iscsi ? "open-iscsi is installed" : "apt-get install open-iscsi");
    add(rows, "attach=auto takes", chosen && *chosen, true,
        chosen && *chosen ? chosen : "neither ublk nor fuse works here: see above");
}

/* FUSE_NOTIFY_RESEND came with Linux 6.9: with it the kernel sends again what a crashed device process had
 * not answered; before, the holder keeps it. */
static void check_kernel(json_t *rows)
{
    struct utsname name = {.release = "unknown"};
    long major, minor;
    bool resend;
    char *end;

    uname(&name);
    major = strtol(name.release, &end, 10);
    minor = *end == '.' ? strtol(end + 1, NULL, 10) : 0;
    resend = major > 6 || (major == 6 && minor >= 9);
    add(rows, "kernel resends FUSE requests", resend, false,
        resend ? name.release
               : "Linux 6.9 or newer has it; before, mooring-holder's memory stands in for it");
}

static void check_root(json_t *rows)
{
    add(rows, "root", geteuid() == 0, true, geteuid() == 0 ? "yes" : "mounts and devices need it");
}

/* As the node's process.c does for a device. */
static bool can_enter_network(int fd)
{
    int status = 1;
    pid_t pid = fork();

    if (pid == 0)
        _exit(setns(fd, CLONE_NEWNET) < 0);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* A container's own network ends with it, and with it the I/O of devices that were in it. */
static void check_network(json_t *rows)
{
    _cleanup_fd_ int fd = -1;
    const char *name = "devices are in the host's network";

    if (host_network_open(&fd))
        add(rows, name, false, true,
            "it cannot be seen from here: the container must be privileged and share the host's PID "
            "namespace "
            "(hostPID)");
    else if (fd < 0)
        add(rows, name, true, true, "we are");
    else if (can_enter_network(fd))
        add(rows, name, true, true, "we are not, they will be: it must reach the storage servers' portals");
    else
        add(rows, name, false, true, "it cannot be entered from here: the container must be privileged");
}

/* Where device processes go, and whether that spares them (mooring-node(8), PLACES). */
static void check_place(json_t *rows)
{
    char name[64] = "";
    ssize_t n = readlink("/proc/self/ns/pid", name, sizeof(name) - 1);
    bool inside = n > 0 && !str_equal(name, "pid:[4026531836]"); /* the kernel's PROC_PID_INIT_INO */
    bool systemd = access("/proc/1/root/run/systemd/system", F_OK) == 0, same = true;
    bool apart = !systemd && host_shares("cgroup", &same) == 0 && !same;

    add(rows, "devices outlive mooring-node", !inside && !apart, false,
        inside    ? "they end with this container: give it the host's PID namespace (hostPID)"
        : apart   ? "they end with this container's cgroup namespace: a privileged container has the host's"
        : systemd ? "in systemd scopes"
                  : "in a cgroup beside mooring-node's");
}

static void check_program(json_t *rows, const char *program, bool required, const char *package)
{
    bool ok = on_path(program);
    _cleanup_free_ char *remedy = str_format("apt-get install %s", package);

    add(rows, program, ok, required, ok ? "installed" : remedy ? remedy : "missing");
}

static void check_service(struct cli *cli, json_t *rows)
{
    _cleanup_error_ struct error err = {0};
    Csi__V1__NodeGetInfoRequest request = CSI__V1__NODE_GET_INFO_REQUEST__INIT;
    ProtobufCMessage *message = NULL;

    if (csi_call_node(cli, "NodeGetInfo", &request.base, &message, &err) != E_OK) {
        add(rows, "mooring-node answers", false, true, error_text(&err));
        return;
    }
    add(rows, "mooring-node answers", true, true, ((Csi__V1__NodeGetInfoResponse *)message)->node_id);
    protobuf_c_message_free_unpacked(message, NULL);
}

static int count_missing(json_t *rows, struct error *err)
{
    size_t missing = 0, i;
    json_t *row;

    json_array_foreach(rows, i, row) missing +=
        json_is_true(json_object_get(row, "required")) && !json_is_true(json_object_get(row, "ok"));
    if (missing == 0)
        return E_OK;
    return error_set(err, E_PRECONDITION, "%zu of what a compute node needs is missing", missing);
}

int node_check(struct cli *cli, int argc, char **argv, struct error *err)
{
    static const struct output_column columns[] = {
        {"check", "CHECK", OUTPUT_TEXT},
        {"ok", "OK", OUTPUT_BOOL},
        {"required", "REQUIRED", OUTPUT_BOOL},
        {"detail", "DETAIL", OUTPUT_TEXT},
    };
    const char *libexec_dir = NULL;
    const struct option_spec options[] = {
        {.name = "node-socket", .argument = "ENDPOINT", .help = "of mooring-node", .value = &cli->node},
        {.name = "libexec-dir", .argument = "DIR", .help = "where mooring-device is", .value = &libexec_dir},
    };
    const struct cli_usage usage = {
        "mooring node check",
        "Check whether this host can be a compute node, and which way to attach it takes. Changes nothing.",
        NULL,
        options,
        ARRAY_SIZE(options),
        0,
        0};
    _cleanup_json_ json_t *rows = json_array();
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r != E_OK)
        return r;
    check_root(rows);
    check_device(rows, "/dev/fuse", "modprobe fuse");
    check_device(rows, "/dev/loop-control", "modprobe loop");
    check_device(rows, "/dev/ublk-control", "modprobe ublk_drv");
    check_ways(rows, libexec_dir);
    check_kernel(rows);
    check_place(rows);
    check_network(rows);
    check_program(rows, "mkfs.ext4", true, "e2fsprogs");
    check_program(rows, "e2fsck", true, "e2fsprogs");
    check_program(rows, "mkfs.xfs", false, "xfsprogs");
    check_service(cli, rows);
    r = output_rows(cli, stdout, rows, columns, ARRAY_SIZE(columns), err);
    return r == E_OK ? count_missing(rows, err) : r;
}
