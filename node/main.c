/*
 * mooring-node: the CSI node plugin. The main thread starts everything and waits for SIGTERM or SIGINT;
 * device processes live on after it. With --end-devices it ends them, and then itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/options.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/node.h"
#include "node/readiness.h"
#include "proto/identity.h"
#include "rpc/rpc.h"

#define MAIN_GRACE_MS 10000
#define MAIN_LOCK_MS 15000
#define MAIN_LOCK_POLL_MS 100

/*
 * A process whose main thread is a zombie was ended, though a thread of it may hang in the kernel, in an
 * unmounting that waits for a device's successor. It does nothing more, and must not keep us from starting
 * that successor.
 */
static bool main_is_ending(int fd)
{
    _cleanup_free_ char *path = NULL;
    _cleanup_free_ char *stat = NULL;
    char text[16] = "";

    if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
        return false;
    path = str_format("/proc/%ld/stat", strtol(text, NULL, 10));
    if (!path || io_read_file(path, 4096, &stat, NULL, NULL))
        return false;
    const char *name_end = strrchr(stat, ')');
    return name_end && str_starts_with(name_end, ") Z");
}

static int main_try_lock(const char *path, int *ret_fd, struct error *err)
{
    _cleanup_fd_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", path);
    int problem = flock(fd, LOCK_EX | LOCK_NB) < 0 ? errno : 0;
    if (problem && problem != EWOULDBLOCK)
        return error_errno(err, problem, "cannot lock %s", path);
    if (problem) {
        if (main_is_ending(fd))
            unlink(path); /* the next try makes a lock of our own */
        return E_BUSY;
    }
    if (ftruncate(fd, 0) < 0 || dprintf(fd, "%d\n", (int)getpid()) < 0)
        return error_errno(err, errno, "cannot write %s", path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* One mooring-node for a state directory: two would each start successors, of generations that fence one
 * another. The one that a roll-out replaces has a while to end. */
static int main_lock(const struct node *node, const sigset_t *ending, int *ret_fd, struct error *err)
{
    _cleanup_free_ char *path = str_format("%s/lock", node->config.state_dir);
    const struct timespec pause = {.tv_nsec = MAIN_LOCK_POLL_MS * 1000000L};
    uint64_t deadline_ms = time_now_ms() + MAIN_LOCK_MS;
    int r;

    if (!path)
        return error_errno(err, ENOMEM, "cannot start");
    while ((r = main_try_lock(path, ret_fd, err)) == E_BUSY) {
        if (time_now_ms() >= deadline_ms)
            return error_set(
                err, E_BUSY,
                "another mooring-node works on %s (%s is locked): end it first, or give this one "
                "a state_dir of its own",
                node->config.state_dir, path);
        if (sigtimedwait(ending, NULL, &pause) > 0)
            return error_set(err, E_BUSY, "told to end while another mooring-node works on %s",
                             node->config.state_dir);
    }
    return r;
}

/* The kernel names mounts and loop devices' files by where they really are: links are followed once, here. */
static int main_resolve_state_dir(struct node_config *config, struct error *err)
{
    config->state_dir_real = realpath(config->state_dir, NULL);
    if (!config->state_dir_real)
        return error_errno(err, errno, "cannot resolve %s", config->state_dir);
    config->state_dir = config->state_dir_real;
    return 0;
}

static int main_prepare(struct node *node, struct error *err)
{
    _cleanup_free_ char *volumes = str_format("%s/volumes", node->config.state_dir);

    if (!volumes)
        return error_errno(err, ENOMEM, "cannot start");
    int r = io_make_socket_dir(node->config.endpoint, err);
    if (!r)
        r = io_make_dirs(node->config.state_dir, 0700, err);
    if (!r)
        r = io_make_dirs(volumes, 0700, err);
    if (!r)
        r = main_resolve_state_dir(&node->config, err);
    if (!r && volume_locks_new(&node->locks))
        r = error_errno(err, ENOMEM, "cannot start");
    if (!r)
        r = storage_new(&node->storage, &node->config, err);
    return r;
}

static int main_serve(struct node *node, const sigset_t *ending, struct error *err)
{
    struct identity identity = {.ready = readiness_tell};
    struct readiness *readiness = NULL;
    struct rpc_server *server = NULL;
    struct rpc_service services[3];
    int signal_number;

    services[0] = identity_service(&identity);
    service_node(node, &services[1]);
    service_devices(node, &services[2]);
    const struct rpc_server_options options = {.endpoint = node->config.endpoint, .socket_mode = 0600};

    stage_sweep_all(node);
    int r = supervisor_new(&node->supervisor, node, err);
    if (!r)
        r = registrar_new(&node->registrar, node, err);
    if (!r)
        r = readiness_new(&readiness, node, err);
    identity.context = readiness;
    if (!r)
        r = rpc_server_new(&server, &options, services, ARRAY_SIZE(services), err);
    if (!r) {
        log_info("node %s serves CSI at %s", node->config.node_id, node->config.endpoint);
        sigwait(ending, &signal_number);
        log_info("ending; devices stay attached");
        rpc_server_free(server, MAIN_GRACE_MS);
    }
    readiness_free(readiness);
    node->registrar = registrar_free(node->registrar);
    node->supervisor = supervisor_free(node->supervisor);
    return r;
}

/* What the command line says. */
struct main_options {
    const char *config_path;
    bool end_devices;
    uint64_t timeout_ms; /* for that */
};

/* *ret_configured: what fails is not the configuration's fault. */
static int main_run(const struct main_options *options, bool *ret_configured, struct error *err)
{
    _cleanup_fd_ int lock_fd = -1; /* to the end */
    struct node node = {0};
    enum log_level level;
    sigset_t ending;

    int r = node_config_load(options->config_path, &node.config, err);
    if (r)
        return r;
    if (!log_level_parse(node.config.log_level, &level)) {
        r = error_set(err, E_INVALID_ARGUMENT,
                      "%s: log_level \"%s\" is not one of error, warning, info, debug", options->config_path,
                      node.config.log_level);
    } else {
        *ret_configured = true;
        log_init("mooring-node", level);
        /* Blocked before any thread starts, so that only sigwait() sees them. */
        sigemptyset(&ending);
        sigaddset(&ending, SIGTERM);
        sigaddset(&ending, SIGINT);
        sigprocmask(SIG_BLOCK, &ending, NULL);
        signal(SIGPIPE, SIG_IGN);
        r = main_prepare(&node, err);
        if (!r)
            r = main_lock(&node, &ending, &lock_fd, err);
        if (!r)
            r = options->end_devices ? end_devices(&node, (unsigned)options->timeout_ms, err)
                                     : main_serve(&node, &ending, err);
    }
    storage_free(node.storage);
    volume_locks_free(node.locks);
    node_config_done(&node.config);
    return r;
}

int main(int argc, char **argv)
{
    struct main_options main_options = {.config_path = "/etc/mooring/node.json"};
    const char *timeout = "60s";
    const struct option_spec options[] = {
        {"config", "FILE", "configuration (default: /etc/mooring/node.json)", &main_options.config_path, NULL,
         false},
        {"end-devices", NULL,
         "unmount and end all volumes of this host in good order, then end: for its shutdown", NULL,
         &main_options.end_devices, false},
        {"timeout", "TIME", "how long --end-devices may take (default: 60s)", &timeout, NULL, false},
    };
    const struct program_spec program = {
        .name = "mooring-node",
        .summary = "the CSI node plugin: stages and publishes volumes on this host",
        .options = options,
        .options_count = ARRAY_SIZE(options),
    };
    _cleanup_error_ struct error err = {0};
    bool configured = false;
    int operand;

    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* CHAP secrets and keys pass through our memory */
    log_init("mooring-node", LOG_LEVEL_INFO);
    int r = options_parse(&program, argc, argv, &operand, &err);
    if (!r && (!time_parse_ms(timeout, &main_options.timeout_ms) || main_options.timeout_ms > INT_MAX))
        r = error_set(&err, E_INVALID_ARGUMENT, "--timeout: \"%s\" is not a time such as 60s", timeout);
    if (r) {
        fprintf(stderr, "mooring-node: %s\n", error_text(&err));
        return 2;
    }
    if (main_run(&main_options, &configured, &err)) {
        log_error("%s", error_text(&err));
        return configured ? 1 : 2;
    }
    return 0;
}
