/* Reading mooring-node's configuration. Called by main() before threads start. */
#include "node/config.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/config.h"
#include "common/io.h"
#include "common/record.h"
#include "common/strings.h"
#include "node/choose.h"

#ifndef MOORING_LIBEXEC_DIR
#define MOORING_LIBEXEC_DIR "/usr/local/libexec/mooring"
#endif

/* The kernel writes a UUID with dashes; ours is its digits. */
static int node_config_read_boot_id(struct node_config *config, struct error *err)
{
    _cleanup_free_ char *text = NULL;
    size_t length = 0;
    int r = io_read_file(config->boot_id_file, 4096, &text, NULL, err);

    if (r)
        return error_wrap(err, "boot_id_file");
    for (const char *c = text; *c && length < ID_BOOT_LENGTH; c++) {
        if (isxdigit((unsigned char)*c))
            config->boot_id[length++] = (char)tolower((unsigned char)*c);
    }
    config->boot_id[length] = '\0';
    if (!id_boot_valid(config->boot_id))
        return error_set(err, E_INVALID_ARGUMENT, "%s does not hold a UUID", config->boot_id_file);
    return 0;
}

static int node_config_check(struct node_config *config, const char *path, struct error *err)
{
    if (!id_node_valid(config->node_id))
        return error_set(err, E_INVALID_ARGUMENT, "%s: node_id \"%s\" is not 1-%d of [a-z0-9.-]", path,
                         config->node_id, ID_NODE_MAX);
    if (!str_starts_with(config->endpoint, "unix://"))
        return error_set(err, E_INVALID_ARGUMENT,
                         "%s: endpoint \"%s\" must be a unix socket, as unix:///run/mooring/node.sock", path,
                         config->endpoint);
    if (config->topology && config_check_topology(config->topology, path, err))
        return E_INVALID_ARGUMENT;
    int r = place_parse(config->place_name, &config->place, err);
    if (r)
        return error_wrap(err, "%s: place", path);
    if (!choose_is_way(config->attach))
        return error_set(err, E_INVALID_ARGUMENT, "%s: attach \"%s\" is not one of auto, ublk, fuse, iscsi",
                         path, config->attach);
    if (config->state_dir[0] != '/')
        return error_set(err, E_INVALID_ARGUMENT, "%s: state_dir must be an absolute path", path);
    return 0;
}

int node_config_load(const char *path, struct node_config *ret, struct error *err)
{
    struct node_config config = {
        .endpoint = "unix:///run/mooring/node.sock",
        .state_dir = "/var/lib/mooring/node",
        .address = "",
        .attach = "auto",
        .boot_id_file = "/proc/sys/kernel/random/boot_id",
        .libexec_dir = MOORING_LIBEXEC_DIR,
        .log_level = "info",
        .place_name = "auto",
        .volumes_max = 64,
        .heartbeat_ms = 5000,
    };
    json_t *servers = NULL, *tls = NULL;
    const struct config_key keys[] = {
        {"header_digest", CONFIG_BOOL, false, 0, 0, &config.header_digest},
        {"fuse_io_uring", CONFIG_BOOL, false, 0, 0, &config.fuse_io_uring},
        {"endpoint", CONFIG_STRING, false, 0, 0, &config.endpoint},
        {"node_id", CONFIG_STRING, true, 0, 0, &config.node_id},
        {"state_dir", CONFIG_STRING, false, 0, 0, &config.state_dir},
        {"address", CONFIG_STRING, false, 0, 0, &config.address},
        {"attach", CONFIG_STRING, false, 0, 0, &config.attach},
        {"boot_id_file", CONFIG_STRING, false, 0, 0, &config.boot_id_file},
        {"libexec_dir", CONFIG_STRING, false, 0, 0, &config.libexec_dir},
        {"log_level", CONFIG_STRING, false, 0, 0, &config.log_level},
        {"place", CONFIG_STRING, false, 0, 0, &config.place_name},
        {"volumes_max", CONFIG_UINT, false, 1, 4096, &config.volumes_max},
        {"heartbeat_ms", CONFIG_UINT, false, 100, 600000, &config.heartbeat_ms},
        {"unsafe_no_replay", CONFIG_BOOL, false, 0, 0, &config.unsafe_no_replay},
        {"topology", CONFIG_OBJECT, false, 0, 0, &config.topology},
        {"servers", CONFIG_ARRAY, true, 0, 0, &servers},
        {"tls", CONFIG_OBJECT, true, 0, 0, &tls},
    };
    int r = config_load(path, &config.object, err);

    if (!r)
        r = config_read(config.object, path, keys, ARRAY_SIZE(keys), err);
    config.endpoint = config_csi_endpoint(config.endpoint);
    if (!r)
        r = node_config_check(&config, path, err);
    if (!r)
        r = server_list_read(servers, path, &config.servers, err);
    if (!r)
        r = server_tls_read(tls, path, &config.tls_ca, &config.tls_cert, &config.tls_key, err);
    if (!r)
        r = node_config_read_boot_id(&config, err);
    if (r) {
        node_config_done(&config);
        return r;
    }
    *ret = config;
    return 0;
}

void node_config_done(struct node_config *config)
{
    free(config->state_dir_real);
    server_list_done(&config->servers);
    json_decref(config->object);
    *config = (struct node_config){0};
}
