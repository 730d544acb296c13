/* mooring session list. Run by main(). */
#include "cli/output.h"
#include "cli/servers.h"
#include "common/cleanup.h"
#include "common/options.h"
#include "common/record.h"

static void add_sessions(const struct server_answer *answer, json_t *rows)
{
    const Mooring__Storage__V1__ListSessionsResponse *response =
        (const Mooring__Storage__V1__ListSessionsResponse *)answer->message;

    for (size_t i = 0; response && i < response->n_sessions; i++) {
        const Mooring__Storage__V1__Session *one = response->sessions[i];

        json_array_append_new(
            rows,
            json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "server_id",
                      answer->config->id, "volume_id", one->volume_id, "node_id", one->node_id, "epoch",
                      (json_int_t)one->epoch, "generation", (json_int_t)one->generation, "initiator_name",
                      one->initiator_name, "peer_address", one->peer_address, "loop", (json_int_t)one->loop,
                      "commands", (json_int_t)one->commands, "read_bytes", (json_int_t)one->read_bytes,
                      "written_bytes", (json_int_t)one->written_bytes, "connected_unix_s",
                      (json_int_t)one->connected_unix_s, "outstanding", (json_int_t)one->outstanding));
    }
}

int session_list(struct cli *cli, int argc, char **argv, struct error *err)
{
    static const struct output_column columns[] = {
        {"volume_id", "VOLUME", OUTPUT_TEXT},
        {"node_id", "NODE", OUTPUT_TEXT},
        {"epoch", "EPOCH", OUTPUT_TEXT},
        {"generation", "GEN", OUTPUT_TEXT},
        {"peer_address", "PEER", OUTPUT_TEXT},
        {"loop", "LOOP", OUTPUT_TEXT},
        {"commands", "COMMANDS", OUTPUT_TEXT},
        {"read_bytes", "READ", OUTPUT_SIZE},
        {"written_bytes", "WRITTEN", OUTPUT_SIZE},
        {"outstanding", "BUSY", OUTPUT_TEXT},
        {"connected_unix_s", "SINCE", OUTPUT_TIME},
        {"server_id", NULL, OUTPUT_TEXT},
    };
    const char *volume = NULL;
    const struct option_spec options[] = {
        {.name = "volume", .argument = "VOLUME", .help = "of this volume only", .value = &volume},
    };
    const struct cli_usage usage = {"mooring session list",
                                    "List the iSCSI sessions of the storage servers.",
                                    NULL,
                                    options,
                                    ARRAY_SIZE(options),
                                    0,
                                    0};
    Mooring__Storage__V1__ListSessionsRequest request = MOORING__STORAGE__V1__LIST_SESSIONS_REQUEST__INIT;
    _cleanup_json_ json_t *rows = json_array();
    struct server_answers answers;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (volume)
        request.volume_id = (char *)volume;
    if (r == E_OK)
        r = servers_ask(cli, "ListSessions", &request.base, &answers, err);
    if (r != E_OK)
        return r;
    for (size_t i = 0; i < answers.count; i++)
        add_sessions(&answers.items[i], rows);
    r = output_rows(cli, stdout, rows, columns, ARRAY_SIZE(columns), err);
    if (r == E_OK)
        r = servers_outcome(&answers, "no answer", err);
    servers_done(&answers);
    return r;
}
