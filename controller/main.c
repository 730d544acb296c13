/*
 * mooring-controller: the CSI Identity, Controller, GroupController and SnapshotMetadata services on a unix
 * socket, in front of any number of storage servers. Starts, waits for SIGTERM or SIGINT, drains, ends. Exit
 * status: 0 after a signal, 1 when it cannot start, 2 for a wrong command line or configuration.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/options.h"
#include "common/strings.h"
#include "controller/config.h"
#include "controller/group_sweep.h"
#include "controller/monitor.h"
#include "controller/service.h"
#include "proto/identity.h"

#define DRAIN_MS 10000

struct running {
    struct controller controller;
    struct monitor *monitor;
    struct group_sweep *sweep;
    struct identity identity;
    struct rpc_service services[7];
    struct rpc_server *server;
};

static int parse_options(int argc, char **argv, const char **ret_config, struct error *err)
{
    const struct option_spec options[] = {
        {.name = "config",
         .argument = "FILE",
         .help = "the configuration, see mooring-controller(8)",
         .value = ret_config},
    };
    const struct program_spec program = {
        .name = "mooring-controller",
        .summary = "Serve the controller side of CSI for Mooring's storage servers.",
        .options = options,
        .options_count = ARRAY_SIZE(options),
    };
    int operand;

    return options_parse(&program, argc, argv, &operand, err);
}

static int is_ready(void *context, bool *ret_ready, struct error *err)
{
    if (!monitor_has_servers(context))
        return error_set(err, E_PRECONDITION,
                         "no storage server is configured that is not gone; add one to \"servers\" in the "
                         "configuration");
    *ret_ready = monitor_ready(context);
    return E_OK;
}

static int start(struct running *running, const struct controller_config *config, struct error *err)
{
    struct rpc_server_options options = {.endpoint = config->endpoint};
    int r;

    r = operations_new(&running->controller.operations);
    if (r != E_OK)
        return error_errno(err, -r, "start");
    r = storage_new(&running->controller.storage, &config->servers, &config->tls, err);
    if (r == E_OK)
        r = monitor_new(&running->monitor, running->controller.storage, err);
    if (r == E_OK)
        r = group_sweep_new(&running->sweep, &running->controller, config->abandoned_group_s, err);
    if (r == E_OK)
        r = io_make_socket_dir(config->endpoint, err);
    if (r != E_OK)
        return r;
    running->identity = (struct identity){.ready = is_ready, .context = running->monitor};
    running->services[0] = identity_service(&running->identity);
    running->services[1] = service_controller(&running->controller);
    running->services[2] = service_controller_create(&running->controller);
    running->services[3] = service_controller_snapshots(&running->controller);
    running->services[4] = service_group(&running->controller);
    running->services[5] = service_group_looks(&running->controller);
    running->services[6] = service_metadata(&running->controller);
    return rpc_server_new(&running->server, &options, running->services, ARRAY_SIZE(running->services), err);
}

static void stop(struct running *running)
{
    if (running->server)
        rpc_server_free(running->server, DRAIN_MS);
    group_sweep_free(running->sweep);
    monitor_free(running->monitor);
    storage_free(running->controller.storage);
    operations_free(running->controller.operations);
}

static int serve(const struct controller_config *config)
{
    _cleanup_error_ struct error err = {0};
    struct running running = {0};
    sigset_t signals;
    int signal_number = 0;
    int r;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* in every thread; this one waits for them */
    signal(SIGPIPE, SIG_IGN);
    r = start(&running, config, &err);
    if (r == E_OK) {
        log_info("serving %s for %zu storage servers", config->endpoint, config->servers.count);
        sigwait(&signals, &signal_number);
        log_info("ending: %s", strsignal(signal_number));
    } else {
        log_error("cannot start: %s", error_text(&err));
    }
    stop(&running);
    return r == E_OK ? 0 : 1;
}

int main(int argc, char **argv)
{
    _cleanup_error_ struct error err = {0};
    const char *path = "/etc/mooring/controller.json";
    struct controller_config config;
    int status;

    log_init("mooring-controller", LOG_LEVEL_INFO);
    if (parse_options(argc, argv, &path, &err) != E_OK ||
        controller_config_load(path, &config, &err) != E_OK) {
        fprintf(stderr, "mooring-controller: %s\n", error_text(&err));
        return 2;
    }
    log_init("mooring-controller", config.log_level);
    status = serve(&config);
    controller_config_done(&config);
    return status;
}
