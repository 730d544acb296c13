/* What mooring-target's configuration file says: docs/man/mooring-target.8 describes each key. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/log.h"
#include "rpc/rpc.h"

#define SETTINGS_PORTALS_MAX 16

/* Strings live as long as `object`. */
struct settings {
    json_t *object;
    const char *server_id;
    const char *pool;
    const char *pool_uuid;
    const char *listen;          /* the Storage service's "host:port" */
    const char *metrics_address; /* "host:port" or "unix:///path"; NULL: no metrics */
    struct rpc_tls tls;
    const char *portals[SETTINGS_PORTALS_MAX]; /* listened on: numeric "address:port", "[v6]:port" */
    const char
        *advertise[SETTINGS_PORTALS_MAX]; /* told to initiators: the same unless "advertise" says else */
    unsigned portals_count;
    unsigned advertise_count;
    uint64_t loops; /* at least 1 */
    uint64_t reserve_bytes;
    bool overcommit;
    uint64_t pool_warning_percent; /* of the pool in use: its health says so from there on */
    uint64_t scrub_bytes_per_s;    /* 0: no scrub */
    uint64_t scrub_interval_days;  /* from the beginning of a round to that of the next */
    json_t *topology;              /* object of strings, or NULL */
    enum log_level log_level;

    uint64_t connections_max;          /* of all loops; one beyond is closed as soon as it is accepted */
    uint64_t sessions_per_volume_max;  /* one beyond: login status 0302 */
    uint64_t commands_per_session_max; /* the command window */
    uint64_t buffer_bytes_per_loop;    /* data buffers of one loop */
};

/* E_INVALID_ARGUMENT naming file and key, E_NOT_FOUND without the file. */
int settings_load(struct settings *ret, const char *path, struct error *err);
void settings_done(struct settings *settings);
