/*
 * mooring-node: the CSI node plugin. The main thread starts everything and waits for SIGTERM or SIGINT;
 * device processes live on after it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/options.h"
#include "common/strings.h"
#include "node/node.h"
#include "rpc/rpc.h"

#define MAIN_GRACE_MS 10000

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
    if (!r && volume_locks_new(&node->locks))
        r = error_errno(err, ENOMEM, "cannot start");
    if (!r)
        r = storage_new(&node->storage, &node->config, err);
    return r;
}

static int main_serve(struct node *node, const sigset_t *ending, struct error *err)
{
    struct registrar *registrar = NULL;
    struct rpc_server *server = NULL;
    struct rpc_service services[2];
    int signal_number;

    service_identity(node, &services[0]);
    service_node(node, &services[1]);
    const struct rpc_server_options options = {.endpoint = node->config.endpoint, .socket_mode = 0600};

    stage_sweep_all(node);
    int r = supervisor_new(&node->supervisor, node, err);
    if (!r)
        r = registrar_new(&registrar, node, err);
    if (!r)
        r = rpc_server_new(&server, &options, services, ARRAY_SIZE(services), err);
    if (!r) {
        log_info("node %s serves CSI at %s", node->config.node_id, node->config.endpoint);
        sigwait(ending, &signal_number);
        log_info("ending; devices stay attached");
        rpc_server_free(server, MAIN_GRACE_MS);
    }
    registrar_free(registrar);
    node->supervisor = supervisor_free(node->supervisor);
    return r;
}

static int main_run(const char *config_path, struct error *err)
{
    struct node node = {0};
    enum log_level level;
    sigset_t ending;

    int r = node_config_load(config_path, &node.config, err);
    if (r)
        return r;
    if (!log_level_parse(node.config.log_level, &level)) {
        r = error_set(err, E_INVALID_ARGUMENT,
                      "%s: log_level \"%s\" is not one of error, warning, info, debug", config_path,
                      node.config.log_level);
    } else {
        log_init("mooring-node", level);
        /* Blocked before any thread starts, so that only sigwait() sees them. */
        sigemptyset(&ending);
        sigaddset(&ending, SIGTERM);
        sigaddset(&ending, SIGINT);
        sigprocmask(SIG_BLOCK, &ending, NULL);
        signal(SIGPIPE, SIG_IGN);
        r = main_prepare(&node, err);
        if (!r)
            r = main_serve(&node, &ending, err);
    }
    storage_free(node.storage);
    volume_locks_free(node.locks);
    node_config_done(&node.config);
    return r;
}

int main(int argc, char **argv)
{
    const char *config_path = "/etc/mooring/node.json";
    const struct option_spec options[] = {
        {"config", "FILE", "configuration (default: /etc/mooring/node.json)", &config_path, NULL, false},
    };
    const struct program_spec program = {
        .name = "mooring-node",
        .summary = "the CSI node plugin: stages and publishes volumes on this host",
        .options = options,
        .options_count = ARRAY_SIZE(options),
    };
    _cleanup_error_ struct error err = {0};
    int operand;

    log_init("mooring-node", LOG_LEVEL_INFO);
    if (options_parse(&program, argc, argv, &operand, &err)) {
        fprintf(stderr, "mooring-node: %s\n", error_text(&err));
        return 2;
    }
    if (main_run(config_path, &err)) {
        log_error("%s", error_text(&err));
        return 1;
    }
    return 0;
}
