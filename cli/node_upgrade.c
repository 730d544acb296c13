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

/* The first that fails ends it: what is wrong with it would be wrong with the next. */
static int upgrade_all(struct cli *cli, const char *only, bool force, json_t *rows, struct error *err)
{
    Mooring__Node__V1__ListDevicesRequest request = MOORING__NODE__V1__LIST_DEVICES_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    bool found = false;

    int r = csi_call_node_service(cli, &mooring__node__v1__devices__descriptor, "ListDevices", &request.base,
                                  &message, err);
    if (r != E_OK)
        return r;
    const Mooring__Node__V1__ListDevicesResponse *list =
        (const Mooring__Node__V1__ListDevicesResponse *)message;
    size_t i;
    for (i = 0; i < list->n_devices && r == E_OK; i++) {
        if (only && !str_equal(only, list->devices[i]->volume_id))
            continue;
        found = true;
        r = upgrade_one(cli, list->devices[i]->volume_id, force, rows, err);
    }
    if (r != E_OK)
        error_wrap(err, "stopped after %zu of %zu volumes", i, list->n_devices);
    else if (only && !found)
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
                                    "volumes are in use: I/O waits for the time that is printed. Stops at "
                                    "the first that fails. The holders stay.",
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
