/*
 * The storage servers that a program is configured with: the array "servers" of its configuration file, the
 * same in every program, and the object "tls" beside it. Checked, and sorted by id: the order in which names
 * are claimed (invariant 8). Strings and topologies live as long as the configuration object.
 *
 *   "servers": [ { "id": "store-1", "address": "10.0.0.5:7443", "pool_uuid": "…", "topology": {"zone": "a"},
 *                  "gone": false } ]
 *   "tls": { "ca": "/etc/mooring/tls/ca.pem", "cert": "…", "key": "…" }
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

#define SERVERS_MAX 256

struct server_config {
    const char *id;        /* also the DNS name that its certificate carries */
    const char *address;   /* of its Storage service, "host:port" */
    const char *pool_uuid; /* which pool it must have: another one proves nothing (invariant 9) */
    json_t *topology;      /* object of strings, or NULL: what the server itself says counts */
    bool gone;             /* declared lost by an operator: what it held counts as absent */
};

struct server_list {
    struct server_config *items; /* sorted by id */
    size_t count;
};

/* Read the array. where names the file in errors. The caller calls server_list_done(). */
int server_list_read(json_t *array, const char *where, struct server_list *ret, struct error *err);
void server_list_done(struct server_list *list);

/* Read "tls": three file names, all required; the files are checked by who uses them. */
int server_tls_read(json_t *object, const char *where, const char **ret_ca, const char **ret_cert,
                    const char **ret_key, struct error *err);
