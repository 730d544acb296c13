/*
 * mooring-controller's configuration file (see mooring-controller(8)).
 *
 *   { "endpoint": "unix:///run/mooring/controller.sock", "servers": [ … ], "tls": { … }, "log_level": "info",
 *     "abandoned_group_s": 3600 }
 */
#pragma once

#include <jansson.h>

#include "common/log.h"
#include "common/servers.h"
#include "rpc/rpc.h"

struct controller_config {
    json_t *object; /* owns the strings */
    const char *endpoint;
    struct server_list servers;
    struct rpc_tls tls; /* required as soon as a server is there to be called */
    bool has_tls;
    uint64_t abandoned_group_s;
    enum log_level log_level;
};

/* Load and check. On 0 the caller calls controller_config_done(). */
int controller_config_load(const char *path, struct controller_config *ret, struct error *err);
void controller_config_done(struct controller_config *config);
