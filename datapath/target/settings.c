/* The configuration of mooring-target: read once by main() before any thread starts, constant afterwards. */
#include "datapath/target/settings.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/config.h"
#include "common/id.h"
#include "common/size.h"
#include "common/strings.h"

#define BUFFER_BYTES_MIN                                                                                     \
    (4 * MIB) /* a few of the largest transfers must fit, or none would ever be served                       \
               */

#define SCRUB_BYTES_PER_S_MIN 65536 /* one read is of four times as much */

static void settings_init(struct settings *settings)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    *settings = (struct settings){
        .loops = cores > 0 ? (uint64_t)cores : 1,
        .log_level = LOG_LEVEL_INFO,
        .pool_warning_percent = 80,
        .scrub_bytes_per_s = 16 * MIB,
        .scrub_interval_days = 30,
        .connections_max = 4096,
        .sessions_per_volume_max = 64,
        .commands_per_session_max = 128,
        .buffer_bytes_per_loop = 64 * MIB,
    };
}

static int settings_strings(json_t *array, const char *where, const char *key,
                            const char *ret_strings[SETTINGS_PORTALS_MAX], unsigned *ret_count,
                            struct error *err)
{
    size_t count = json_array_size(array);
    if (count == 0 || count > SETTINGS_PORTALS_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "%s: \"%s\" must list 1 to %d addresses", where, key,
                         SETTINGS_PORTALS_MAX);
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(array, i));
        if (!text || !strrchr(text, ':'))
            return error_set(err, E_INVALID_ARGUMENT, "%s: \"%s\" entry %zu must be \"address:port\"", where,
                             key, i + 1);
        ret_strings[i] = text;
    }
    *ret_count = (unsigned)count;
    return 0;
}

static int settings_read_tls(struct settings *settings, json_t *object, const char *path, struct error *err)
{
    const struct config_key keys[] = {
        {"ca", CONFIG_STRING, true, 0, 0, &settings->tls.ca_file},
        {"cert", CONFIG_STRING, true, 0, 0, &settings->tls.cert_file},
        {"key", CONFIG_STRING, true, 0, 0, &settings->tls.key_file},
    };
    _cleanup_free_ char *where = str_format("%s: tls", path);
    return config_read(object, where ? where : path, keys, ARRAY_SIZE(keys), err);
}

static int settings_read_limits(struct settings *settings, json_t *object, const char *path,
                                struct error *err)
{
    const struct config_key keys[] = {
        {"connections", CONFIG_UINT, false, 1, 1000000, &settings->connections_max},
        {"sessions_per_volume", CONFIG_UINT, false, 1, 4096, &settings->sessions_per_volume_max},
        {"commands_per_session", CONFIG_UINT, false, 2, 1024, &settings->commands_per_session_max},
        {"buffer_bytes_per_loop", CONFIG_UINT, false, BUFFER_BYTES_MIN, 0, &settings->buffer_bytes_per_loop},
    };
    _cleanup_free_ char *where = str_format("%s: limits", path);
    return config_read(object, where ? where : path, keys, ARRAY_SIZE(keys), err);
}

static int settings_read(struct settings *settings, const char *path, struct error *err)
{
    json_t *tls = NULL, *portals = NULL, *advertise = NULL, *limits = NULL;
    const char *log_level = NULL;
    uint64_t loops = 0;
    const struct config_key keys[] = {
        {"server_id", CONFIG_STRING, true, 0, 0, &settings->server_id},
        {"pool", CONFIG_STRING, true, 0, 0, &settings->pool},
        {"pool_uuid", CONFIG_STRING, true, 0, 0, &settings->pool_uuid},
        {"listen", CONFIG_STRING, true, 0, 0, &settings->listen},
        {"tls", CONFIG_OBJECT, true, 0, 0, &tls},
        {"portals", CONFIG_ARRAY, true, 0, 0, &portals},
        {"advertise", CONFIG_ARRAY, false, 0, 0, &advertise},
        {"loops", CONFIG_UINT, false, 0, 256, &loops},
        {"reserve_bytes", CONFIG_UINT, false, 0, 0, &settings->reserve_bytes},
        {"metrics_address", CONFIG_STRING, false, 0, 0, &settings->metrics_address},
        {"overcommit", CONFIG_BOOL, false, 0, 0, &settings->overcommit},
        {"pool_warning_percent", CONFIG_UINT, false, 1, 100, &settings->pool_warning_percent},
        {"scrub_bytes_per_s", CONFIG_UINT, false, 0, 0, &settings->scrub_bytes_per_s},
        {"scrub_interval_days", CONFIG_UINT, false, 1, 3650, &settings->scrub_interval_days},
        {"topology", CONFIG_OBJECT, false, 0, 0, &settings->topology},
        {"limits", CONFIG_OBJECT, false, 0, 0, &limits},
        {"log_level", CONFIG_STRING, false, 0, 0, &log_level},
    };
    int code = config_read(settings->object, path, keys, ARRAY_SIZE(keys), err);
    if (code == 0)
        code = settings_read_tls(settings, tls, path, err);
    if (code == 0)
        code = settings_strings(portals, path, "portals", settings->portals, &settings->portals_count, err);
    if (code == 0)
        code = settings_strings(advertise ? advertise : portals, path, "advertise", settings->advertise,
                                &settings->advertise_count, err);
    if (code == 0 && limits)
        code = settings_read_limits(settings, limits, path, err);
    if (code == 0 && settings->topology)
        code = config_check_topology(settings->topology, path, err);
    if (code)
        return code;
    if (loops)
        settings->loops = loops;
    if (log_level && !log_level_parse(log_level, &settings->log_level))
        return error_set(err, E_INVALID_ARGUMENT,
                         "%s: \"log_level\" is \"%s\": it must be error, warning, info or debug", path,
                         log_level);
    if (settings->scrub_bytes_per_s && settings->scrub_bytes_per_s < SCRUB_BYTES_PER_S_MIN)
        return error_set(err, E_INVALID_ARGUMENT,
                         "%s: \"scrub_bytes_per_s\" is %" PRIu64 ": 0, or at least %d", path,
                         settings->scrub_bytes_per_s, SCRUB_BYTES_PER_S_MIN);
    if (!id_server_valid(settings->server_id))
        return error_set(err, E_INVALID_ARGUMENT,
                         "%s: \"server_id\" is \"%s\": it must be 1 to %d of [a-z0-9-]", path,
                         settings->server_id, ID_SERVER_MAX);
    return 0;
}

int settings_load(struct settings *ret, const char *path, struct error *err)
{
    struct settings settings;
    settings_init(&settings);
    int code = config_load(path, &settings.object, err);
    if (code)
        return code;
    code = settings_read(&settings, path, err);
    if (code) {
        settings_done(&settings);
        return code;
    }
    *ret = settings;
    return 0;
}

void settings_done(struct settings *settings)
{
    json_decref(settings->object);
    settings->object = NULL;
}
