/* mooring pool scrub, over the storage servers: how far they are with reading all that is allocated, and what
 * could not be read. Run by main(). */
#include <errno.h>
#include <string.h>

#include "cli/output.h"
#include "cli/servers.h"
#include "common/cleanup.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"

static const struct output_column status_columns[] = {
    {"server_id", "SERVER", OUTPUT_TEXT},
    {"state", "STATE", OUTPUT_TEXT},
    {"began_unix_s", "BEGAN", OUTPUT_TIME},
    {"read_bytes", "READ", OUTPUT_SIZE},
    {"last_ended_unix_s", "LAST ENDED", OUTPUT_TIME},
    {"last_read_bytes", "LAST READ", OUTPUT_SIZE},
    {"next_unix_s", "NEXT", OUTPUT_TIME},
    {"errors_count", "ERRORS", OUTPUT_TEXT},
};

static const struct output_column error_columns[] = {
    {"server_id", "SERVER", OUTPUT_TEXT}, {"id", "VOLUME OR SNAPSHOT", OUTPUT_TEXT},
    {"offset", "OFFSET", OUTPUT_TEXT},    {"length", "LENGTH", OUTPUT_TEXT},
    {"error", "ERROR", OUTPUT_TEXT},      {"since_unix_s", "SINCE", OUTPUT_TIME},
};

static json_t *error_to_json(const char *server_id, const Mooring__Storage__V1__ScrubError *one)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:s, s:I}", "server_id", server_id, "id", one->id, "offset",
                     (json_int_t)one->offset, "length", (json_int_t)one->length, "error", one->error,
                     "since_unix_s", (json_int_t)one->since_unix_s);
}

static json_t *errors_to_json(const char *server_id, const Mooring__Storage__V1__GetScrubResponse *scrub)
{
    json_t *array = json_array();

    for (size_t i = 0; i < scrub->n_errors; i++)
        json_array_append_new(array, error_to_json(server_id, scrub->errors[i]));
    return array;
}

/* Members of the round, with a prefix. */
static void add_round(json_t *row, const char *prefix, const Mooring__Storage__V1__ScrubRound *round)
{
    const struct {
        const char *name;
        json_int_t value;
    } members[] = {
        {"began_unix_s", round->began_unix_s},
        {"ended_unix_s", round->ended_unix_s},
        {"read_bytes", (json_int_t)round->read_bytes},
        {"shared_bytes", (json_int_t)round->shared_bytes},
        {"unreadable_bytes", (json_int_t)round->unreadable_bytes},
        {"files_count", (json_int_t)round->files_count},
    };

    for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
        _cleanup_free_ char *key = str_format("%s%s", prefix, members[i].name);

        if (key)
            json_object_set_new(row, key, json_integer(members[i].value));
    }
}

static json_t *status_to_json(const char *server_id, const Mooring__Storage__V1__GetScrubResponse *scrub)
{
    char state[32];
    json_t *row;

    if (scrub->bytes_per_s == 0)
        str_copy(state, sizeof(state), "off");
    else if (!scrub->round)
        str_copy(state, sizeof(state), "waiting");
    else
        snprintf(state, sizeof(state), "reading %u %%", scrub->progress_percent);
    row = json_pack("{s:s, s:s, s:I, s:I, s:I, s:o}", "server_id", server_id, "state", state, "bytes_per_s",
                    (json_int_t)scrub->bytes_per_s, "next_unix_s", (json_int_t)scrub->next_unix_s,
                    "errors_count", (json_int_t)scrub->errors_count, "errors",
                    errors_to_json(server_id, scrub));
    if (row && scrub->round)
        add_round(row, "", scrub->round);
    if (row && scrub->last)
        add_round(row, "last_", scrub->last);
    return row;
}

static json_t *rows_of(const struct server_answers *answers, bool errors)
{
    json_t *rows = json_array();

    for (size_t i = 0; i < answers->count; i++) {
        const struct server_answer *answer = &answers->items[i];
        const Mooring__Storage__V1__GetScrubResponse *scrub =
            (const Mooring__Storage__V1__GetScrubResponse *)answer->message;
        json_t *found;

        if (!scrub && !errors)
            json_array_append_new(rows, json_pack("{s:s, s:s, s:s}", "server_id", answer->config->id, "state",
                                                  "unavailable", "error", error_text(&answer->err)));
        if (!scrub)
            continue;
        found =
            errors ? errors_to_json(answer->config->id, scrub) : status_to_json(answer->config->id, scrub);
        if (!errors)
            json_array_append(rows, found);
        else
            json_array_extend(rows, found);
        json_decref(found);
    }
    return rows;
}

/* On one server, or on all. */
static int start(const struct cli *cli, const char *server_id, struct error *err)
{
    Mooring__Storage__V1__StartScrubRequest request = MOORING__STORAGE__V1__START_SCRUB_REQUEST__INIT;
    struct server_answers answers;
    ProtobufCMessage *message = NULL;
    int r;

    if (server_id) {
        r = servers_ask_one(cli, server_id, "StartScrub", &request.base, &message, err);
        if (message)
            protobuf_c_message_free_unpacked(message, NULL);
        return r;
    }
    r = servers_ask(cli, "StartScrub", &request.base, &answers, err);
    if (r != E_OK)
        return r;
    r = servers_outcome(&answers, "not begun", err);
    servers_done(&answers);
    return r;
}

static int show(const struct cli *cli, bool errors, struct error *err)
{
    Mooring__Storage__V1__GetScrubRequest request = MOORING__STORAGE__V1__GET_SCRUB_REQUEST__INIT;
    const struct output_column *columns = errors ? error_columns : status_columns;
    size_t columns_count = errors ? ARRAY_SIZE(error_columns) : ARRAY_SIZE(status_columns);
    _cleanup_json_ json_t *rows = NULL;
    struct server_answers answers;
    int r = servers_ask(cli, "GetScrub", &request.base, &answers, err);

    if (r != E_OK)
        return r;
    rows = rows_of(&answers, errors);
    r = output_rows(cli, stdout, rows, columns, columns_count, err);
    if (r == E_OK)
        r = servers_outcome(&answers, "no answer", err);
    servers_done(&answers);
    return r;
}

int pool_scrub(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *server_id = NULL;
    bool begin = false, errors = false;
    const struct option_spec options[] = {
        {.name = "start", .help = "begin a round now, where none runs", .flag = &begin},
        {.name = "server",
         .argument = "ID",
         .help = "with --start: on this server alone",
         .value = &server_id},
        {.name = "errors", .help = "list what could not be read", .flag = &errors},
    };
    const struct cli_usage usage = {
        "mooring pool scrub",
        "Say how far each storage server is with reading all that is allocated in its pool, and how much of\n"
        "it could not be read.",
        NULL,
        options,
        ARRAY_SIZE(options),
        0,
        0};
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK && server_id && !begin)
        r = error_set(err, E_INVALID_ARGUMENT, "--server goes with --start");
    if (r == E_OK && begin)
        r = start(cli, server_id, err);
    return r == E_OK ? show(cli, errors, err) : r;
}
