/*
 * mooring-target: opens its portals and its Storage service at once, both answering "unavailable", takes the
 * pool's lock, loads the pool, serves; ends on SIGTERM or SIGINT. The main thread does nothing but this.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/options.h"
#include "datapath/target/metrics.h"
#include "datapath/target/metrics_http.h"
#include "datapath/target/server.h"
#include "datapath/target/settings.h"
#include "datapath/target/storage_service.h"
#include "rpc/rpc.h"

#define CONFIG_DEFAULT "/etc/mooring/target.json"
#define EXIT_USAGE 2
#define LOCK_RETRY_MS 50
#define CALLS_GRACE_MS 500 /* an idle client's open connection uses it up */

struct target {
    struct settings settings;
    struct server *server;
    struct storage_service storage;
    struct rpc_server *rpc;
    struct metrics_http *metrics;
    struct store *store;
};

static sigset_t target_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    return set;
}

/* True when it is time to end. */
static bool target_wait_signal(long timeout_ms)
{
    const sigset_t set = target_signals();
    const struct timespec timeout = {.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000};
    int signal = timeout_ms < 0 ? sigwaitinfo(&set, NULL) : sigtimedwait(&set, NULL, &timeout);
    return signal > 0;
}

/* The lock is a dead predecessor's until its last I/O has ended, or a live one's. E_CANCELLED on a signal. */
static int target_open_store(struct target *target, struct error *err)
{
    const struct settings *settings = &target->settings;
    const struct store_options options = {.path = settings->pool,
                                          .server_id = settings->server_id,
                                          .pool_uuid = settings->pool_uuid,
                                          .reserve_bytes = settings->reserve_bytes,
                                          .overcommit = settings->overcommit};
    bool said = false;
    for (;;) {
        int code = store_open(&target->store, &options, err);
        if (code != E_BUSY)
            return code;
        if (!said)
            log_info("waiting: %s", error_text(err));
        said = true;
        if (target_wait_signal(LOCK_RETRY_MS))
            return error_set(err, E_CANCELLED, "ended while waiting for the pool's lock");
    }
}

static int target_start(struct target *target, struct error *err)
{
    int code = server_new(&target->server, &target->settings, err);
    if (code)
        return code;
    storage_service_init(&target->storage, target->server);
    if (target->settings.metrics_address)
        code = metrics_http_start(&target->metrics, target->settings.metrics_address, metrics_page,
                                  target->server, err);
    if (code)
        return code;
    const struct rpc_server_options options = {.endpoint = target->settings.listen,
                                               .tls = &target->settings.tls,
                                               .boot_id = target->server->boot_id};
    return rpc_server_new(&target->rpc, &options, target->storage.services, STORAGE_SERVICES, err);
}

static int target_serve(struct target *target, struct error *err)
{
    int code = target_open_store(target, err);
    if (code)
        return code;
    code = server_start(target->server, target->store, err);
    if (code)
        return code;
    log_info("storage server %s serves pool %s (%s) with %u event loops; boot id %s",
             target->settings.server_id, target->settings.pool, store_pool_uuid(target->store),
             target->server->reactors_count, target->server->boot_id);
    while (!target_wait_signal(-1))
        ;
    log_info("ending");
    return 0;
}

/* In the order that lets nobody meet what is gone already: metrics, calls, sessions, the store. */
static void target_stop(struct target *target)
{
    metrics_http_stop(target->metrics);
    if (target->rpc)
        rpc_server_free(target->rpc, CALLS_GRACE_MS);
    if (target->server)
        server_stop(target->server);
    if (target->store)
        store_close(target->store);
    if (target->server) {
        storage_service_done(&target->storage);
        server_free(target->server);
    }
    settings_done(&target->settings);
}

/* Each volume that was used takes a descriptor, each connection another: the usual soft limit, meant for
 * select(2), is a few hundred volumes. */
static void target_raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    rlim_t soft = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
        soft = limit.rlim_cur;
    else
        log_warning("cannot raise the limit of open descriptors: %s", error_name(-errno));
    log_info("descriptors: at most %lu", (unsigned long)soft);
}

static int target_parse(int argc, char **argv, const char **ret_config, struct error *err)
{
    const struct option_spec options[] = {
        {"config", "FILE", "the configuration (default: " CONFIG_DEFAULT ")", ret_config, NULL, false},
    };
    const struct program_spec program = {.name = "mooring-target",
                                         .summary =
                                             "Serve the volumes of a pool by iSCSI and mooring.storage.v1.",
                                         .options = options,
                                         .options_count = ARRAY_SIZE(options)};
    int operand;
    return options_parse(&program, argc, argv, &operand, err);
}

int main(int argc, char **argv)
{
    _cleanup_error_ struct error err = {0};
    struct target target = {0};
    const char *config = CONFIG_DEFAULT;
    if (target_parse(argc, argv, &config, &err) || settings_load(&target.settings, config, &err)) {
        fprintf(stderr, "mooring-target: %s\n", error_text(&err));
        return EXIT_USAGE;
    }
    log_init("mooring-target", target.settings.log_level);
    target_raise_descriptors();
    const sigset_t set = target_signals();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);

    int code = target_start(&target, &err);
    if (code == 0)
        code = target_serve(&target, &err);
    if (code && code != E_CANCELLED)
        log_error("%s", error_text(&err));
    target_stop(&target);
    return code && code != E_CANCELLED ? EXIT_FAILURE : EXIT_SUCCESS;
}
