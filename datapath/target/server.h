/*
 * One mooring-target: its loops, its listening sockets, its store.
 *
 * Until the pool is open (its lock may be held by a dead predecessor's I/O, invariant 4) there is only the
 * lobby: a reactor that answers every login with "service unavailable". Then the reactors take over the
 * listening sockets. The volume's owner among them (server_owner()) alone decides on it.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/error.h"
#include "common/id.h"
#include "datapath/iscsi/login.h"
#include "datapath/store/store.h"
#include "datapath/target/health.h"
#include "datapath/target/holds.h"
#include "datapath/target/job.h"
#include "datapath/target/settings.h"

struct reactor;

enum server_state {
    SERVER_LOADING,  /* logins: 0301; calls: UNAVAILABLE */
    SERVER_READY,    /* store and reactors are there, and stay until SERVER_STOPPING */
    SERVER_STOPPING, /* as loading */
};

struct server {
    const struct settings *settings;
    char boot_id[ID_BOOT_LENGTH + 1]; /* of this start */
    _Atomic enum server_state state;
    struct store *store;
    struct reactor *lobby;
    struct reactor **reactors;
    unsigned reactors_count;
    int listeners[SETTINGS_PORTALS_MAX];
    unsigned listeners_count;
    atomic_uint connections_count; /* of all reactors */
    atomic_uint guests_count;      /* of them: those that proved no attachment */
    atomic_uint refused_count;     /* since the last log line */
    atomic_uint tsih_last;
    struct iscsi_login_config login_config;
    struct job_table jobs;
    struct health health;
    struct hold_table holds;
};

/* Listen on the portals and open the lobby. The settings outlive the server. */
int server_new(struct server **ret, const struct settings *settings, struct error *err);

/* Start to serve what the store holds; it is the caller's again after server_stop(). Main thread. */
int server_start(struct server *server, struct store *store, struct error *err);

/* Close every session, wait for the last command and the last job. Main thread; no call runs any more. */
void server_stop(struct server *server);
struct server *server_free(struct server *server);

/* The reactor that owns a volume. Any thread, while SERVER_READY or STOPPING. */
struct reactor *server_owner(const struct server *server, const char *volume_id);

static inline bool server_ready(const struct server *server)
{
    return atomic_load(&server->state) == SERVER_READY;
}

/* A target session handle that no recent session had: never 0. Any thread. */
uint16_t server_tsih_new(struct server *server);
