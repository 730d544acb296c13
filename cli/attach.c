/* mooring volume attach, detach and clear-failed. Run by main(). */
#include <stdio.h>
#include <string.h>

#include "cli/csi.h"
#include "cli/output.h"
#include "cli/servers.h"
#include "common/cleanup.h"
#include "common/id.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"
#include "proto/context.h"

/* What a node needs to reach the volume; never a secret. Frees the message. */
static int print_context(struct cli *cli, ProtobufCMessage *message, struct error *err)
{
    static const struct output_column columns[] = {
        {CONTEXT_IQN, "target name", OUTPUT_TEXT},
        {CONTEXT_PORTALS, "portals", OUTPUT_TEXT},
        {CONTEXT_LUN, "lun", OUTPUT_TEXT},
        {CONTEXT_EPOCH, "epoch", OUTPUT_TEXT},
        {CONTEXT_SERVER, "server", OUTPUT_TEXT},
        {CONTEXT_SERVER_ADDRESS, "server address", OUTPUT_TEXT},
        {CONTEXT_READONLY, "read-only", OUTPUT_TEXT},
    };
    const Csi__V1__ControllerPublishVolumeResponse *response =
        (const Csi__V1__ControllerPublishVolumeResponse *)message;
    _cleanup_json_ json_t *object = csi_map_to_json(response->publish_context, response->n_publish_context);

    protobuf_c_message_free_unpacked(message, NULL);
    return output_object(cli, stdout, object, columns, ARRAY_SIZE(columns), err);
}

int volume_attach(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *node = NULL, *access_mode = NULL;
    bool readonly = false, block = false;
    const struct option_spec options[] = {
        {.name = "node", .argument = "ID", .help = "the node", .value = &node, .required = true},
        {.name = "access-mode", .argument = "MODE", .help = CSI_ACCESS_MODES, .value = &access_mode},
        {.name = "block", .help = "for use as a block device", .flag = &block},
        {.name = "read-only", .help = "the storage server refuses writes", .flag = &readonly},
    };
    const struct cli_usage usage = {"mooring volume attach",
                                    "Attach a volume to a node and print its publish context.",
                                    "VOLUME|NAME",
                                    options,
                                    ARRAY_SIZE(options),
                                    1,
                                    1};
    Csi__V1__ControllerPublishVolumeRequest request = CSI__V1__CONTROLLER_PUBLISH_VOLUME_REQUEST__INIT;
    Csi__V1__ControllerGetVolumeResponse *found = NULL;
    struct csi_capability capability;
    ProtobufCMessage *message = NULL;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = csi_capability_init(&capability, access_mode, block, NULL, err);
    if (r == E_OK)
        r = csi_find_volume(cli, argv[operand], &found, err);
    if (r != E_OK)
        return r;
    request.volume_id = found->volume->volume_id;
    request.node_id = (char *)node;
    request.volume_capability = &capability.message;
    request.readonly = readonly;
    r = csi_call_controller(cli, "ControllerPublishVolume", &request.base, &message, err);
    protobuf_c_message_free_unpacked(&found->base, NULL);
    return r == E_OK ? print_context(cli, message, err) : r;
}

int volume_detach(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *node = NULL;
    bool all = false;
    const struct option_spec options[] = {
        {.name = "node", .argument = "ID", .help = "from this node", .value = &node},
        {.name = "all", .help = "from every node", .flag = &all},
    };
    const struct cli_usage usage = {"mooring volume detach",
                                    "Detach a volume. Returns when the storage server has seen the last "
                                    "command of that node end: from then\n"
                                    "on it can write no more. OK when it is not attached.",
                                    "VOLUME",
                                    options,
                                    ARRAY_SIZE(options),
                                    1,
                                    1};
    Csi__V1__ControllerUnpublishVolumeRequest request = CSI__V1__CONTROLLER_UNPUBLISH_VOLUME_REQUEST__INIT;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK && !node == !all)
        r = error_set(err, E_INVALID_ARGUMENT, "say either --node=ID or --all");
    if (r == E_OK && !id_volume_valid(argv[operand]))
        r = error_set(err, E_INVALID_ARGUMENT,
                      "\"%s\" is not a volume id; detach takes the id, which mooring volume list shows",
                      argv[operand]);
    if (r != E_OK)
        return r;
    request.volume_id = argv[operand];
    if (node)
        request.node_id = (char *)node;
    return csi_call_controller(cli, "ControllerUnpublishVolume", &request.base, NULL, err);
}

int volume_clear_failed(struct cli *cli, int argc, char **argv, struct error *err)
{
    const struct cli_usage usage = {"mooring volume clear-failed",
                                    "Let a volume be written again after a flush of it failed. Writes that "
                                    "were answered before the failure\n"
                                    "may be lost: check the file system and the database first.",
                                    "VOLUME",
                                    NULL,
                                    0,
                                    1,
                                    1};
    Mooring__Storage__V1__ClearWriteFailedRequest request =
        MOORING__STORAGE__V1__CLEAR_WRITE_FAILED_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r != E_OK)
        return r;
    request.volume_id = argv[operand];
    r = servers_ask_volume(cli, argv[operand], "ClearWriteFailed", &request.base, &message, err);
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
    return r;
}
