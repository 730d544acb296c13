/* mooring node upgrade: this host's device processes, one after the other. Run by main(). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/csi.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"
#include "proto/node.pb-c.h"

static const struct output_column columns[] = {
    {"volume_id", "VOLUME", OUTPUT_TEXT},      {"outcome", "OUTCOME", OUTPUT_TEXT},
    {"from_version", "FROM", OUTPUT_TEXT},     {"to_version", "TO", OUTPUT_TEXT},
    {"stalled_ms", "STALLED MS", OUTPUT_TEXT}, {"generation", NULL, OUTPUT_TEXT},
};

static int upgrade_one(struct cli *cli, const char *volume_id, bool force, json_t *rows, struct error *err)
{
    Mooring__Node__V1__UpgradeDeviceRequest request = MOORING__NODE__V1__UPGRADE_DEVICE_REQUEST__INIT;
    ProtobufCMessage *message = NULL;

    request.volume_id = (char *)volume_id;
    request.force = force;
    int r = csi_call_node_service(cli, &mooring__node__v1__devices__descriptor, "UpgradeDevice",
                                  &request.base, &message, err);
    if (r != E_OK) {
        json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:s, s:i, s:i}", "volume_id", volume_id,
                                              "outcome", err ? error_text(err) : "failed", "from_version", "",
                                              "to_version", "", "stalled_ms", 0, "generation", 0));
        return r;
    }
    const Mooring__Node__V1__UpgradeDeviceResponse *answer =
        (const Mooring__Node__V1__UpgradeDeviceResponse *)message;
    json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I}", "volume_id", volume_id, "outcome",
                                          answer->replaced ? "replaced" : answer->reason, "from_version",
                                          answer->from_version, "to_version", answer->to_version,
                                          "stalled_ms", (json_int_t)answer->stalled_ms, "generation",
                                          (json_int_t)answer->generation));
    protobuf_c_message_free_unpacked(message, NULL);
    return E_OK;
}

static int upgrade_list(struct cli *cli, ProtobufCMessage **ret, struct error *err)
{
    Mooring__Node__V1__ListDevicesRequest request = MOORING__NODE__V1__LIST_DEVICES_REQUEST__INIT;

    return csi_call_node_service(cli, &mooring__node__v1__devices__descriptor, "ListDevices", &request.base,
                                 ret, err);
}

static bool upgrade_is_ready(const Mooring__Node__V1__ListDevicesResponse *list, const char *volume_id)
{
    for (size_t i = 0; i < list->n_devices; i++) {
        if (str_equal(list->devices[i]->volume_id, volume_id))
            return str_equal(list->devices[i]->state, "ready");
    }
    return true; /* it was unstaged meanwhile */
}

/* Whether a device that served before the failed replacement does not serve now. */
static bool upgrade_broke(struct cli *cli, const Mooring__Node__V1__ListDevicesResponse *before,
                          const char *volume_id)
{
    ProtobufCMessage *message = NULL;

    if (!upgrade_is_ready(before, volume_id))
        return false;
    if (upgrade_list(cli, &message, NULL) != E_OK)
        return true;
    bool ready = upgrade_is_ready((const Mooring__Node__V1__ListDevicesResponse *)message, volume_id);
    protobuf_c_message_free_unpacked(message, NULL);
    return !ready;
}

/* What went wrong so far. */
struct upgrade_failures {
    int code; /* of the first */
    char *names, *why;
    size_t count;
};

static void upgrade_failed(struct upgrade_failures *failures, const char *volume_id, int r,
                           const struct error *err)
{
    char *names =
        str_format("%s%s%s", failures->count ? failures->names : "", failures->count ? ", " : "", volume_id);

    if (!failures->count++) {
        failures->code = r;
        failures->why = strdup(error_text(err));
    }
    free(failures->names);
    failures->names = names ? names : strdup("");
}

static int upgrade_explain(struct upgrade_failures *failures, size_t tried, size_t left, struct error *err)
{
    const char *names = failures->names ? failures->names : "", *why = failures->why ? failures->why : "";
    int r = failures->code;

    if (failures->count && left)
        error_set(err, r,
                  "%zu of %zu volumes failed (%s), the first of them: %s; the last one that failed served "
                  "before and does not now, so %zu more are left as they are",
                  failures->count, tried, names, why, left);
    else if (failures->count)
        error_set(err, r, "%zu of %zu volumes failed (%s), the first of them: %s", failures->count, tried,
                  names, why);
    free(failures->names);
    free(failures->why);
    return r;
}

/* One that fails keeps no other from being replaced, unless the new program itself seems to be what is wrong.
 */
static int upgrade_all(struct cli *cli, const char *only, bool force, json_t *rows, struct error *err)
{
    ProtobufCMessage *message = NULL;
    struct upgrade_failures failures = {0};
    bool broke = false;
    size_t tried = 0, left = 0;

    int r = upgrade_list(cli, &message, err);
    if (r != E_OK)
        return r;
    const Mooring__Node__V1__ListDevicesResponse *list =
        (const Mooring__Node__V1__ListDevicesResponse *)message;
    for (size_t i = 0; i < list->n_devices; i++) {
        const char *volume_id = list->devices[i]->volume_id;
        _cleanup_error_ struct error why = {0};

        if (only && !str_equal(only, volume_id))
            continue;
        if (broke) {
            left++;
            continue;
        }
        tried++;
        r = upgrade_one(cli, volume_id, force, rows, &why);
        if (r != E_OK) {
            upgrade_failed(&failures, volume_id, r, &why);
            broke = upgrade_broke(cli, list, volume_id);
        }
    }
    r = upgrade_explain(&failures, tried, left, err);
    if (r == E_OK && only && !tried)
        r = error_set(err, E_NOT_FOUND, "volume %s is not staged on this node", only);
    protobuf_c_message_free_unpacked(message, NULL);
    return r;
}

int node_upgrade(struct cli *cli, int argc, char **argv, struct error *err)
{
    bool force = false;
    const struct option_spec options[] = {
        {.name = "node-socket", .argument = "ENDPOINT", .help = "of mooring-node", .value = &cli->node},
        {.name = "force", .help = "also those that the installed program serves already", .flag = &force},
    };
    const struct cli_usage usage = {"mooring node upgrade",
                                    "Replace this host's device processes by the installed mooring-device, "
                                    "one volume after the other, while their\n"
                                    "volumes are in use: I/O waits for the time that is printed. One that "
                                    "fails keeps no other from being\n"
                                    "replaced, unless it served before and does not now. The holders stay.",
                                    "[VOLUME]",
                                    options,
                                    ARRAY_SIZE(options),
                                    0,
                                    1};
    _cleanup_error_ struct error why = {0};
    _cleanup_json_ json_t *rows = json_array();
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r != E_OK)
        return r;
    int upgraded = upgrade_all(cli, argv[operand], force, rows, &why);
    if (upgraded == E_OK || json_array_size(rows))
        r = output_rows(cli, stdout, rows, columns, ARRAY_SIZE(columns), err);
    if (r == E_OK && upgraded != E_OK) {
        error_move(err, &why);
        return upgraded;
    }
    return r;
}
