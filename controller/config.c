/* mooring-controller's configuration. Called by main() before threads start. */
#include "controller/config.h"

#include "common/cleanup.h"
#include "common/config.h"
#include "common/strings.h"
#include "controller/group_sweep.h"

#define ABANDONED_GROUP_S_MAX UINT64_C(31536000) /* a year: never, for most */

static int check(struct controller_config *config, const char *path, const char *log_level, struct error *err)
{
    if (!str_starts_with(config->endpoint, "unix://"))
        return error_set(
            err, E_INVALID_ARGUMENT,
            "%s: \"endpoint\" \"%s\" must be a unix socket, as unix:///run/mooring/controller.sock", path,
            config->endpoint);
    if (!log_level_parse(log_level, &config->log_level))
        return error_set(err, E_INVALID_ARGUMENT, "%s: \"log_level\" must be error, warning, info or debug",
                         path);
    if (config->servers.count > 0 && !config->has_tls)
        return error_set(
            err, E_INVALID_ARGUMENT,
            "%s: \"tls\" is missing: storage servers are called with a client certificate; `mooring tls "
            "issue controller` makes one",
            path);
    return E_OK;
}

static int fill(struct controller_config *config, const char *path, struct error *err)
{
    const char *log_level = "info";
    json_t *servers = NULL, *tls = NULL;
    const struct config_key keys[] = {
        {.name = "endpoint", .type = CONFIG_STRING, .value = &config->endpoint},
        {.name = "servers", .type = CONFIG_ARRAY, .required = true, .value = &servers},
        {.name = "tls", .type = CONFIG_OBJECT, .value = &tls},
        {.name = "log_level", .type = CONFIG_STRING, .value = &log_level},
        {.name = "abandoned_group_s",
         .type = CONFIG_UINT,
         .min = 1,
         .max = ABANDONED_GROUP_S_MAX,
         .value = &config->abandoned_group_s},
    };
    int r = config_read(config->object, path, keys, ARRAY_SIZE(keys), err);

    config->endpoint = config_csi_endpoint(config->endpoint);
    if (r == E_OK)
        r = server_list_read(servers, path, &config->servers, err);
    if (r == E_OK && tls) {
        config->has_tls = true;
        r = server_tls_read(tls, path, &config->tls.ca_file, &config->tls.cert_file, &config->tls.key_file,
                            err);
    }
    return r == E_OK ? check(config, path, log_level, err) : r;
}

int controller_config_load(const char *path, struct controller_config *ret, struct error *err)
{
    struct controller_config config = {.endpoint = "unix:///run/mooring/controller.sock",
                                       .abandoned_group_s = GROUP_SWEEP_AFTER_S};
    int r = config_load(path, &config.object, err);

    if (r == E_OK)
        r = fill(&config, path, err);
    if (r != E_OK) {
        controller_config_done(&config);
        return r;
    }
    *ret = config;
    return E_OK;
}

void controller_config_done(struct controller_config *config)
{
    server_list_done(&config->servers);
    json_decref(config->object);
    *config = (struct controller_config){0};
}
