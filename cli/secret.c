/*
 * mooring volume secret: what an initiator that is not mooring-device (a virtual machine's) needs to log in.
 * Asks the storage server as an operator; the secret goes to stdout and nowhere else. Run by main().
 */
#include <string.h>

#include "cli/output.h"
#include "cli/servers.h"
#include "common/cleanup.h"
#include "common/options.h"
#include "common/record.h"
#include "common/secret.h"

static json_t *secret_portals(const Mooring__Storage__V1__GetAttachmentResponse *response)
{
    json_t *portals = json_array();

    for (size_t i = 0; i < response->n_portals; i++)
        json_array_append_new(portals, json_string(response->portals[i]));
    return portals;
}

static int secret_print(struct cli *cli, const Mooring__Storage__V1__GetAttachmentResponse *response,
                        struct error *err)
{
    static const struct output_column columns[] = {
        {"target_name", "target name", OUTPUT_TEXT},
        {"portals", "portals", OUTPUT_TEXT},
        {"lun", "lun", OUTPUT_TEXT},
        {"chap_name", "CHAP name", OUTPUT_TEXT},
        {"chap_secret", "CHAP secret", OUTPUT_TEXT},
    };
    _cleanup_json_ json_t *object =
        json_pack("{s:s, s:o, s:i, s:s, s:s}", "target_name", response->target_name, "portals",
                  secret_portals(response), "lun", (int)response->lun, "chap_name", response->chap_name,
                  "chap_secret", response->chap_secret);

    return output_object(cli, stdout, object, columns, ARRAY_SIZE(columns), err);
}

int volume_secret(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *node = NULL;
    const struct option_spec options[] = {
        {.name = "node",
         .argument = "ID",
         .help = "that it is attached to",
         .value = &node,
         .required = true},
    };
    const struct cli_usage usage = {
        "mooring volume secret",
        "Print the CHAP name and secret by which an initiator other than mooring-device logs in, for a\n"
        "virtual machine. They end with the attachment; whoever has them can write to the volume.",
        "VOLUME",
        options,
        ARRAY_SIZE(options),
        1,
        1};
    Mooring__Storage__V1__GetAttachmentRequest request = MOORING__STORAGE__V1__GET_ATTACHMENT_REQUEST__INIT;
    Mooring__Storage__V1__GetAttachmentResponse *response;
    ProtobufCMessage *message = NULL;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r != E_OK)
        return r;
    request.volume_id = argv[operand];
    request.node_id = (char *)node;
    r = servers_ask_volume(cli, argv[operand], "GetAttachment", &request.base, &message, err);
    if (r != E_OK)
        return r;
    response = (Mooring__Storage__V1__GetAttachmentResponse *)message;
    r = secret_print(cli, response, err);
    secret_wipe(response->chap_secret, strlen(response->chap_secret));
    protobuf_c_message_free_unpacked(message, NULL);
    return r;
}
