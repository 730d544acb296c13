/*
 * mooring-node's configuration file, and what follows from it. Read once at start; constant afterwards.
 *
 *   { "endpoint": "unix:///run/mooring/node.sock", "node_id": "worker-1", "state_dir":
 * "/var/lib/mooring/node", "servers": […], "tls": {…} (common/servers.h), "topology": {"zone": "a"},
 * "attach": "auto", "volumes_max": 64, "heartbeat_ms": 5000, "place": "auto", "address": "…", "boot_id_file":
 * "/proc/sys/kernel/random/boot_id", "libexec_dir": "/usr/libexec/mooring", "log_level": "info" }
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/id.h"
#include "common/servers.h"
#include "node/place.h"

struct node_config {
    json_t *object; /* owns the strings */
    const char *endpoint;
    const char *node_id;
    bool header_digest; /* of the devices' sessions */
    bool fuse_io_uring; /* of the devices; cheaper reads, but a crash of one ends its volume's I/O */
    const char *state_dir;
    char *state_dir_real; /* owned, once it is resolved; then state_dir is it */
    const char *address;
    const char *attach;
    const char *boot_id_file;
    const char *libexec_dir;
    const char *log_level;
    const char *place_name;
    enum place_kind place;
    uint64_t volumes_max;
    uint64_t heartbeat_ms;
    json_t *topology;      /* object of strings, or NULL */
    bool unsafe_no_replay; /* devices do not replay their log: to show what it is for, never for data */
    struct server_list servers;
    const char *tls_ca, *tls_cert, *tls_key;
    char boot_id[ID_BOOT_LENGTH + 1]; /* of the host; survives our restart */
};

int node_config_load(const char *path, struct node_config *ret, struct error *err);
void node_config_done(struct node_config *config);
