/* mooring node devices: what serves the volumes that are staged on this host. Run by main(). */
#include <errno.h>
#include <stdio.h>

#include "cli/csi.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"
#include "proto/node.pb-c.h"

static json_t *device_to_json(const Mooring__Node__V1__Device *device)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:s, s:s}", "volume_id", device->volume_id, "attach",
                     device->attach, "block_device", device->block_device, "state",
                     *device->state ? device->state : "-", "generation", (json_int_t)device->generation,
                     "version", device->version, "error", device->error);
}

int node_devices(struct cli *cli, int argc, char **argv, struct error *err)
{
    static const struct output_column columns[] = {
        {"volume_id", "VOLUME", OUTPUT_TEXT},    {"attach", "ATTACH", OUTPUT_TEXT},
        {"block_device", "DEVICE", OUTPUT_TEXT}, {"state", "STATE", OUTPUT_TEXT},
        {"version", "VERSION", OUTPUT_TEXT},     {"generation", NULL, OUTPUT_TEXT},
        {"error", "ERROR", OUTPUT_TEXT},
    };
    const struct option_spec options[] = {
        {.name = "node-socket", .argument = "ENDPOINT", .help = "of mooring-node", .value = &cli->node},
    };
    const struct cli_usage usage = {
        "mooring node devices",
        "List the volumes that are staged on this host, and how their devices do.",
        NULL,
        options,
        ARRAY_SIZE(options),
        0,
        0};
    Mooring__Node__V1__ListDevicesRequest request = MOORING__NODE__V1__LIST_DEVICES_REQUEST__INIT;
    _cleanup_json_ json_t *rows = json_array();
    ProtobufCMessage *message = NULL;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = csi_call_node_service(cli, &mooring__node__v1__devices__descriptor, "ListDevices", &request.base,
                                  &message, err);
    if (r != E_OK)
        return r;
    const Mooring__Node__V1__ListDevicesResponse *list =
        (const Mooring__Node__V1__ListDevicesResponse *)message;
    for (size_t i = 0; i < list->n_devices; i++)
        json_array_append_new(rows, device_to_json(list->devices[i]));
    protobuf_c_message_free_unpacked(message, NULL);
    return output_rows(cli, stdout, rows, columns, ARRAY_SIZE(columns), err);
}
