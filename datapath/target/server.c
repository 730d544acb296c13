/*
 * The target as a whole: listening sockets, the lobby, the reactors. Called by main() from the main thread;
 * the accessors by any.
 */
#include "datapath/target/server.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "datapath/store/scrub.h"
#include "datapath/target/connection.h"
#include "datapath/target/reactor.h"
#include "datapath/target/recovery.h"

#define DAY_S 86400
#define LISTEN_BACKLOG 1024
#define LISTEN_WAIT_MS 5000u
#define LISTEN_RETRY_MS 20u

/* ---- listening ---- */

/* "address:port" or "[address]:port" into its two parts. */
static int portal_split(const char *portal, char host[64], const char **ret_port, struct error *err)
{
    const char *colon = strrchr(portal, ':');
    size_t length = (size_t)(colon - portal);
    if (length >= 2 && portal[0] == '[' && portal[length - 1] == ']') {
        portal++;
        length -= 2;
    }
    if (length == 0 || length >= 64)
        return error_set(err, E_INVALID_ARGUMENT, "portal \"%s\" is not \"address:port\"", portal);
    memcpy(host, portal, length);
    host[length] = '\0';
    *ret_port = colon + 1;
    return 0;
}

/* A listening socket, or -errno. */
static int portal_open(const struct addrinfo *address)
{
    int one = 1;
    _cleanup_fd_ int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
        return -errno;
    return TAKE_FD(fd);
}

/*
 * A predecessor that was killed keeps the address for a moment: its rings, which accept on it, are taken down
 * by the kernel after the process has gone.
 */
static int portal_listen(const char *portal, int *ret_fd, struct error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address;
    char host[64];
    const char *port;
    int code = portal_split(portal, host, &port, err);
    if (code)
        return code;
    if (getaddrinfo(host, port, &hints, &address) != 0)
        return error_set(err, E_INVALID_ARGUMENT, "portal \"%s\" is not a numeric \"address:port\"", portal);
    int fd = portal_open(address);
    for (unsigned waited_ms = 0; fd == -EADDRINUSE && waited_ms < LISTEN_WAIT_MS;
         waited_ms += LISTEN_RETRY_MS) {
        usleep(LISTEN_RETRY_MS * 1000);
        fd = portal_open(address);
    }
    freeaddrinfo(address);
    if (fd < 0)
        return error_errno(err, -fd, "cannot listen on portal \"%s\"", portal);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int server_listen(struct server *server, struct error *err)
{
    for (unsigned i = 0; i < server->settings->portals_count; i++) {
        int code = portal_listen(server->settings->portals[i], &server->listeners[i], err);
        if (code)
            return code;
        server->listeners_count++;
    }
    return 0;
}

/* ---- life ---- */

static const struct iscsi_negotiate_limits server_limits = {
    .max_recv_data_segment_length = CONNECTION_RECV_SEGMENT_MAX,
    .max_burst_length = CONNECTION_BURST_MAX,
    .first_burst_length = CONNECTION_FIRST_BURST_MAX,
    .max_outstanding_r2t = 1,
    .initial_r2t = true,
    .immediate_data = true,
    .digests = true,
};

static int server_open_lobby(struct server *server, struct error *err)
{
    int code = reactor_new(&server->lobby, server, 0, -1, err);
    if (code)
        return code;
    server->lobby->lobby = true;
    code = reactor_start(server->lobby);
    if (code) {
        server->lobby = reactor_free(server->lobby);
        return error_errno(err, -code, "cannot start a thread");
    }
    return reactor_accept(server->lobby, err);
}

int server_new(struct server **ret, const struct settings *settings, struct error *err)
{
    struct server *server = calloc(1, sizeof(*server));
    if (!server)
        return error_errno(err, ENOMEM, "mooring-target");
    server->settings = settings;
    server->login_config = (struct iscsi_login_config){
        .limits = server_limits,
        .chap_required = true,
        .chap_required_discovery = false,
        .portal_group_tag = 1,
        .command_window = (uint32_t)settings->commands_per_session_max,
    };
    job_table_init(&server->jobs);
    hold_table_init(&server->holds);
    health_init(&server->health, server);
    int code = id_boot_new(server->boot_id);
    if (code)
        error_errno(err, -code, "cannot draw a boot id");
    else
        code = server_listen(server, err);
    if (code == 0)
        code = server_open_lobby(server, err);
    if (code) {
        server_free(server);
        return code;
    }
    *ret = server;
    return 0;
}

static void server_close_lobby(struct server *server)
{
    if (!server->lobby)
        return;
    reactor_stop_begin(server->lobby);
    reactor_stop_wait(server->lobby);
    reactor_stop_join(server->lobby);
    server->lobby = reactor_free(server->lobby);
}

static int server_start_reactors(struct server *server, struct error *err)
{
    server->reactors = calloc(server->settings->loops, sizeof(struct reactor *));
    if (!server->reactors)
        return error_errno(err, ENOMEM, "event loops");
    for (unsigned i = 0; i < server->settings->loops; i++) {
        struct reactor *reactor;
        int code = reactor_new(&reactor, server, i, store_lock_fd(server->store), err);
        if (code)
            return code;
        code = reactor_start(reactor);
        if (code) {
            reactor_free(reactor);
            return error_errno(err, -code, "cannot start a thread");
        }
        server->reactors[server->reactors_count++] = reactor;
    }
    return 0;
}

int server_start(struct server *server, struct store *store, struct error *err)
{
    const struct scrub_options scrub = {.bytes_per_s = server->settings->scrub_bytes_per_s,
                                        .interval_s = server->settings->scrub_interval_days * DAY_S};
    server->store = store;
    recovery_run(server);
    int code = store_scrub_open(store, &scrub, err);
    if (code == 0)
        code = server_start_reactors(server, err);
    if (code)
        return code;
    code = store_scrub_start(store, err);
    if (code)
        return code;
    server_close_lobby(server);
    hold_table_start(&server->holds, store, server->reactors[0]->loop);
    atomic_store(&server->state, SERVER_READY);
    return reactor_accept(server->reactors[0], err);
}

void server_stop(struct server *server)
{
    atomic_store(&server->state, SERVER_STOPPING);
    server_close_lobby(server);
    hold_table_stop(&server->holds);
    for (unsigned i = 0; i < server->reactors_count; i++)
        reactor_stop_begin(server->reactors[i]);
    job_table_wait_empty(&server->jobs);
    for (unsigned i = 0; i < server->reactors_count; i++)
        reactor_stop_wait(server->reactors[i]);
    for (unsigned i = 0; i < server->reactors_count; i++)
        reactor_stop_join(server->reactors[i]);
    for (unsigned i = 0; i < server->reactors_count; i++)
        reactor_free(server->reactors[i]);
    server->reactors_count = 0;
    if (server->store)
        store_scrub_stop(server->store);
    server->store = NULL;
}

struct server *server_free(struct server *server)
{
    if (!server)
        return NULL;
    server_close_lobby(server);
    for (unsigned i = 0; i < server->listeners_count; i++)
        fd_close(server->listeners[i]);
    job_table_done(&server->jobs);
    hold_table_done(&server->holds);
    health_done(&server->health);
    free(server->reactors);
    free(server);
    return NULL;
}

/* ---- accessors ---- */

struct reactor *server_owner(const struct server *server, const char *volume_id)
{
    return server->reactors[str_hash(volume_id) % server->reactors_count];
}

uint16_t server_tsih_new(struct server *server)
{
    return (uint16_t)(1 + atomic_fetch_add(&server->tsih_last, 1) % UINT16_MAX);
}
