/*
 * mooring-device: turns one remote volume into one local block device. See state.h for the state directory,
 * which is the whole interface. Started by mooring-node, after mooring-holder; or by hand.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/options.h"
#include "common/size.h"
#include "datapath/device/attach_check.h"
#include "datapath/device/device.h"

#define THREAD_STACK_BYTES (256 * 1024)
#define SPIN_US 30

static void write_oom_score(void)
{
    _cleanup_fd_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "-1000", 5) < 0)
        log_warning("cannot set oom_score_adj: %s", error_name(-errno));
}

/* Writeback goes through this process: it must neither wait for memory that writeback would free, nor be
 * killed for it. All that it needs is taken now and stays in memory. */
static void harden_early(void)
{
    pthread_attr_t attributes;
    write_oom_score();
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
        log_warning("cannot become an I/O flusher: %s", error_name(-errno));
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    mallopt(M_TOP_PAD, (int)(4 * MIB));
    mallopt(M_TRIM_THRESHOLD, (int)(64 * MIB));
    mallopt(M_ARENA_MAX, 1);
    if (pthread_attr_init(&attributes) == 0) {
        if (pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES) == 0)
            pthread_setattr_default_np(&attributes);
        pthread_attr_destroy(&attributes);
    }
}

static void harden_late(void)
{
    if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
        log_warning("cannot lock memory (%s): under memory pressure the volume may hang", error_name(-errno));
}

static int signals_new(struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    return fd < 0 ? error_errno(err, errno, "signalfd") : fd;
}

static int run(struct device_state *state, int signal_fd, struct error *err)
{
    static struct device device;
    struct loop *loop = NULL;
    struct loop_options options = {
        .entries = 256, .offload_threads = 2, .spin_us = SPIN_US, .wide = state->fuse_io_uring};
    int r = loop_new(&loop, &options, err);
    if (r)
        return r;
    r = device_init(&device, loop, state, signal_fd, err);
    if (r == 0) {
        harden_late();
        device_start(&device);
        r = loop_run(loop);
        if (r)
            error_errno(err, -r, "the event loop");
    }
    loop_free(loop);
    if (r == 0) {
        device_done(&device);
        return device.exit_code;
    }
    return r;
}

static int run_state(const char *dir, bool remove, struct error *err)
{
    struct device_state state;
    int r = device_state_load(&state, dir, err);
    if (r)
        return r;
    if (remove) {
        r = attach_check_remove(&state, err);
    } else {
        int signal_fd = signals_new(err);
        r = signal_fd < 0 ? signal_fd : run(&state, signal_fd, err);
        fd_close(signal_fd);
    }
    device_state_done(&state);
    return r;
}

int main(int argc, char **argv)
{
    const char *dir = NULL, *level_name = "info";
    bool check = false, remove = false;
    const struct option_spec options[] = {
        {"state", "DIR", "the volume's state directory, with device.json and holder.sock", &dir, NULL, false},
        {"check", NULL, "print which ways to attach work on this machine, and why others do not", NULL,
         &check, false},
        {"remove", NULL, "remove the volume's ublk device, left by a process that is gone", NULL, &remove,
         false},
        {"log-level", "LEVEL", "error, warning, info (default) or debug", &level_name, NULL, false},
    };
    const struct program_spec program = {"mooring-device", "Attach one volume as a local block device.", NULL,
                                         options, ARRAY_SIZE(options)};
    _cleanup_error_ struct error err = {0};
    enum log_level level = LOG_LEVEL_INFO;
    int operand;
    if (options_parse(&program, argc, argv, &operand, &err) || !log_level_parse(level_name, &level)) {
        fprintf(stderr, "%s\n", err.code ? error_text(&err) : "--log-level: error, warning, info or debug");
        return 2;
    }
    if (!check && !dir) {
        fprintf(stderr, "--state is required; see mooring-device --help\n");
        return 2;
    }
    log_init("mooring-device", level);
    if (!check)
        harden_early();
    int r = check ? attach_check_print(&err) : run_state(dir, remove, &err);
    if (err.code)
        log_error("%s", error_text(&err));
    return r ? 1 : 0;
}
