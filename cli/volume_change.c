/* mooring volume expand and modify, over the controller's CSI socket: what changes while a volume is in use.
 * Run by main(). */
#include <stdlib.h>
#include <string.h>

#include "cli/csi.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/id.h"
#include "common/options.h"
#include "common/record.h"
#include "common/size.h"
#include "common/strings.h"

/* The id of the volume that the operator names, by id or by name. */
static int find_id(struct cli *cli, const char *id_or_name, char ret_id[ID_VOLUME_MAX + 1], struct error *err)
{
    Csi__V1__ControllerGetVolumeResponse *found = NULL;
    int r = csi_find_volume(cli, id_or_name, &found, err);

    if (r != E_OK)
        return r;
    str_copy(ret_id, ID_VOLUME_MAX + 1, found->volume->volume_id);
    protobuf_c_message_free_unpacked(&found->base, NULL);
    return E_OK;
}

/* ---- expand ---- */

static int print_expanded(struct cli *cli, const char *volume_id,
                          const Csi__V1__ControllerExpandVolumeResponse *response, struct error *err)
{
    static const struct output_column columns[] = {
        {"volume_id", "volume", OUTPUT_TEXT},
        {"size_bytes", "size", OUTPUT_SIZE},
        {"node_expansion_required", NULL, OUTPUT_BOOL},
    };
    _cleanup_json_ json_t *object = json_pack("{s:s, s:I, s:b}", "volume_id", volume_id, "size_bytes",
                                              (json_int_t)response->capacity_bytes, "node_expansion_required",
                                              response->node_expansion_required);

    return output_object(cli, stdout, object, columns, ARRAY_SIZE(columns), err);
}

static int expand_here(struct cli *cli, const char *volume_id, const char *target, struct error *err)
{
    Csi__V1__NodeExpandVolumeRequest request = CSI__V1__NODE_EXPAND_VOLUME_REQUEST__INIT;

    request.volume_id = (char *)volume_id;
    request.volume_path = (char *)target;
    return csi_call_node(cli, "NodeExpandVolume", &request.base, NULL, err);
}

int volume_expand(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *target = NULL;
    const struct option_spec options[] = {
        {.name = "target",
         .argument = "PATH",
         .help = "where it is mounted on this node: its file system grows too",
         .value = &target},
        {.name = "node-socket", .argument = "ENDPOINT", .help = "of mooring-node", .value = &cli->node},
    };
    const struct cli_usage usage = {
        "mooring volume expand",
        "Grow a volume, in use or not. The device and the file system on a node grow when the node is asked\n"
        "(--target), or at the next mount.",
        "VOLUME|NAME SIZE",
        options,
        ARRAY_SIZE(options),
        2,
        2};
    Csi__V1__ControllerExpandVolumeRequest request = CSI__V1__CONTROLLER_EXPAND_VOLUME_REQUEST__INIT;
    Csi__V1__CapacityRange range = CSI__V1__CAPACITY_RANGE__INIT;
    char id[ID_VOLUME_MAX + 1];
    ProtobufCMessage *message = NULL;
    uint64_t size_bytes = 0;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = size_parse(argv[operand + 1], &size_bytes, err);
    if (r == E_OK && size_bytes > INT64_MAX)
        r = error_set(err, E_INVALID_ARGUMENT, "a size beyond 8 EiB");
    if (r == E_OK)
        r = find_id(cli, argv[operand], id, err);
    if (r != E_OK)
        return r;
    range.required_bytes = (int64_t)size_bytes;
    request.volume_id = id;
    request.capacity_range = &range;
    r = csi_call_controller(cli, "ControllerExpandVolume", &request.base, &message, err);
    if (r != E_OK)
        return r;
    if (target)
        r = expand_here(cli, id, target, err);
    if (r == E_OK)
        r = print_expanded(cli, id, (Csi__V1__ControllerExpandVolumeResponse *)message, err);
    protobuf_c_message_free_unpacked(message, NULL);
    return r;
}

/* ---- modify ---- */

int volume_modify(struct cli *cli, int argc, char **argv, struct error *err)
{
    const struct cli_usage usage = {
        "mooring volume modify",
        "Change what may change while a volume is in use: iopsLimit, bandwidthLimit, burstSeconds; 0 for no\n"
        "limit.",
        "VOLUME|NAME PARAMETER=VALUE…",
        NULL,
        0,
        2,
        16};
    Csi__V1__ControllerModifyVolumeRequest request = CSI__V1__CONTROLLER_MODIFY_VOLUME_REQUEST__INIT;
    char id[ID_VOLUME_MAX + 1];
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = find_id(cli, argv[operand], id, err);
    if (r == E_OK)
        r = csi_map_fill(&request.mutable_parameters, &request.n_mutable_parameters,
                         &csi__v1__controller_modify_volume_request__mutable_parameters_entry__descriptor,
                         argc - operand - 1, argv + operand + 1, err);
    if (r == E_OK) {
        request.volume_id = id;
        r = csi_call_controller(cli, "ControllerModifyVolume", &request.base, NULL, err);
    }
    csi_map_free(request.mutable_parameters, request.n_mutable_parameters);
    return r;
}
