/* mooring node list, fence and unfence: over all storage servers at once. Run by main(). */
#include "cli/node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/output.h"
#include "common/cleanup.h"
#include "common/id.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"

/* ---- merging ---- */

static void add_once(json_t *array, const char *text)
{
    json_t *item;
    size_t i;

    if (*text == '\0')
        return;
    json_array_foreach(array, i, item)
    {
        if (str_equal(json_string_value(item), text))
            return;
    }
    json_array_append_new(array, json_string(text));
}

/* The row of a node, made in its place when it is not there yet. */
static json_t *row_of(json_t *rows, const char *node_id)
{
    json_t *row;
    size_t i;

    json_array_foreach(rows, i, row)
    {
        int order = strcmp(json_string_value(json_object_get(row, "node_id")), node_id);

        if (order == 0)
            return row;
        if (order > 0)
            break;
    }
    row =
        json_pack("{s:s, s:s, s:b, s:s, s:i, s:[], s:[], s:[]}", "node_id", node_id, "address", "", "fenced",
                  0, "fence_reason", "", "last_seen_unix_s", 0, "boot_ids", "servers", "fenced_on");
    json_array_insert_new(rows, i, row);
    return row;
}

static void merge_node(json_t *rows, const char *server_id, const Mooring__Storage__V1__Node *node)
{
    json_t *row = row_of(rows, node->node_id);
    json_t *boot_ids = json_object_get(row, "boot_ids");

    add_once(json_object_get(row, "servers"), server_id);
    add_once(boot_ids, node->boot_id);
    for (size_t i = 0; i < node->n_boot_ids; i++)
        add_once(boot_ids, node->boot_ids[i]);
    if (node->last_seen_unix_s >= json_integer_value(json_object_get(row, "last_seen_unix_s"))) {
        json_object_set_new(row, "last_seen_unix_s", json_integer(node->last_seen_unix_s));
        json_object_set_new(row, "address", json_string(node->address));
    }
    if (!node->fenced)
        return;
    json_object_set_new(row, "fenced", json_true());
    json_object_set_new(row, "fence_reason", json_string(node->fence_reason));
    add_once(json_object_get(row, "fenced_on"), server_id);
}

json_t *node_merge(const struct server_answers *answers)
{
    json_t *rows = json_array();

    for (size_t i = 0; i < answers->count; i++) {
        const Mooring__Storage__V1__ListNodesResponse *response =
            (const Mooring__Storage__V1__ListNodesResponse *)answers->items[i].message;

        for (size_t j = 0; response && j < response->n_nodes; j++)
            merge_node(rows, answers->items[i].config->id, response->nodes[j]);
    }
    return rows;
}

/* ---- list ---- */

int node_list(struct cli *cli, int argc, char **argv, struct error *err)
{
    static const struct output_column columns[] = {
        {"node_id", "NODE", OUTPUT_TEXT},        {"address", "ADDRESS", OUTPUT_TEXT},
        {"fenced", "FENCED", OUTPUT_BOOL},       {"last_seen_unix_s", "SEEN", OUTPUT_TIME},
        {"servers", "KNOWN TO", OUTPUT_TEXT},    {"fenced_on", "FENCED ON", OUTPUT_TEXT},
        {"fence_reason", "REASON", OUTPUT_TEXT}, {"boot_ids", NULL, OUTPUT_TEXT},
    };
    const struct cli_usage usage = {
        "mooring node list", "List the compute nodes that registered or are fenced.", NULL, NULL, 0, 0, 0};
    Mooring__Storage__V1__ListNodesRequest request = MOORING__STORAGE__V1__LIST_NODES_REQUEST__INIT;
    _cleanup_json_ json_t *rows = NULL;
    struct server_answers answers;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = servers_ask(cli, "ListNodes", &request.base, &answers, err);
    if (r != E_OK)
        return r;
    rows = node_merge(&answers);
    r = output_rows(cli, stdout, rows, columns, ARRAY_SIZE(columns), err);
    if (r == E_OK)
        r = servers_outcome(&answers, "no answer", err);
    servers_done(&answers);
    return r;
}

/* ---- fence, unfence ---- */

static int check_node_id(const char *node_id, struct error *err)
{
    if (id_node_valid(node_id))
        return E_OK;
    return error_set(err, E_INVALID_ARGUMENT, "\"%s\" is not a node id; see mooring node list", node_id);
}

/* All boot ids that any server knows of the node: each server refuses those that only another one knew. */
static int collect_boot_ids(struct cli *cli, const char *node_id, json_t **ret, struct error *err)
{
    Mooring__Storage__V1__ListNodesRequest request = MOORING__STORAGE__V1__LIST_NODES_REQUEST__INIT;
    struct server_answers answers;
    json_t *rows, *row;
    size_t i;
    int r = servers_ask(cli, "ListNodes", &request.base, &answers, err);

    if (r != E_OK)
        return r;
    rows = node_merge(&answers);
    servers_done(&answers);
    *ret = NULL;
    json_array_foreach(rows, i, row)
    {
        if (str_equal(json_string_value(json_object_get(row, "node_id")), node_id))
            *ret = json_incref(json_object_get(row, "boot_ids"));
    }
    json_decref(rows);
    if (!*ret)
        *ret = json_array();
    return E_OK;
}

static json_t *fenced_to_json(const struct server_answer *answer)
{
    const Mooring__Storage__V1__FenceNodeResponse *response =
        (const Mooring__Storage__V1__FenceNodeResponse *)answer->message;
    json_t *detached = json_array();

    for (size_t i = 0; response && i < response->n_detached_volume_ids; i++)
        json_array_append_new(detached, json_string(response->detached_volume_ids[i]));
    return json_pack("{s:s, s:b, s:o, s:s}", "server_id", answer->config->id, "fenced", response != NULL,
                     "detached_volume_ids", detached, "error", response ? "" : error_text(&answer->err));
}

static int fence_all(struct cli *cli, const char *node_id, const char *reason, json_t *boot_ids,
                     struct error *err)
{
    static const struct output_column columns[] = {
        {"server_id", "SERVER", OUTPUT_TEXT},
        {"fenced", "FENCED", OUTPUT_BOOL},
        {"detached_volume_ids", "DETACHED", OUTPUT_TEXT},
        {"error", "ERROR", OUTPUT_TEXT},
    };
    Mooring__Storage__V1__FenceNodeRequest request = MOORING__STORAGE__V1__FENCE_NODE_REQUEST__INIT;
    _cleanup_free_ char **ids = calloc(json_array_size(boot_ids) + 1, sizeof(*ids));
    _cleanup_json_ json_t *rows = json_array();
    struct server_answers answers;
    int r;

    if (!ids)
        return error_errno(err, ENOMEM, "the fence");
    for (size_t i = 0; i < json_array_size(boot_ids); i++)
        ids[i] = (char *)json_string_value(json_array_get(boot_ids, i));
    request.node_id = (char *)node_id;
    request.reason = (char *)reason;
    request.boot_ids = ids;
    request.n_boot_ids = json_array_size(boot_ids);
    r = servers_ask(cli, "FenceNode", &request.base, &answers, err);
    if (r != E_OK)
        return r;
    for (size_t i = 0; i < answers.count; i++)
        json_array_append_new(rows, fenced_to_json(&answers.items[i]));
    r = output_rows(cli, stdout, rows, columns, ARRAY_SIZE(columns), err);
    bool nowhere = answers.failed == answers.count;
    if (r == E_OK)
        r = servers_outcome(
            &answers,
            nowhere ? "no storage server has recorded the fence: the node may go on writing. Not fenced"
                    : "the fence holds where it is recorded; to volumes of the others the node may go "
                      "on writing: repeat the command for them, or declare a lost server gone. Not fenced",
            err);
    servers_done(&answers);
    return r;
}

int node_fence(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *reason = "fenced by an operator";
    const struct option_spec options[] = {
        {.name = "reason", .argument = "TEXT", .help = "kept with the fence", .value = &reason},
    };
    const struct cli_usage usage = {
        "mooring node fence",
        "Keep a lost node from all storage servers: its attachments are removed, and it gets no new ones "
        "until it\n"
        "is unfenced or has rebooted. Returns when its last write has ended on every server.",
        "NODE",
        options,
        ARRAY_SIZE(options),
        1,
        1};
    _cleanup_json_ json_t *boot_ids = NULL;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = check_node_id(argv[operand], err);
    if (r == E_OK)
        r = collect_boot_ids(cli, argv[operand], &boot_ids, err);
    if (r == E_OK)
        r = fence_all(cli, argv[operand], reason, boot_ids, err);
    return r;
}

/* A server that does not know the node holds no fence of it: as good as done, where another one knew it. */
static int unfence_outcome(struct server_answers *answers, const char *node_id, struct error *err)
{
    size_t unknown = 0;

    for (size_t i = 0; i < answers->count; i++)
        unknown += answers->items[i].err.code == E_NOT_FOUND;
    if (unknown == answers->count)
        return error_set(err, E_NOT_FOUND, "no storage server knows node %s; see mooring node list", node_id);
    if (unknown == answers->failed)
        return E_OK;
    return servers_outcome(answers, "not known to be unfenced", err);
}

int node_unfence(struct cli *cli, int argc, char **argv, struct error *err)
{
    const struct cli_usage usage = {
        "mooring node unfence", "Let a fenced node attach volumes again.", "NODE", NULL, 0, 1, 1};
    Mooring__Storage__V1__UnfenceNodeRequest request = MOORING__STORAGE__V1__UNFENCE_NODE_REQUEST__INIT;
    struct server_answers answers;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = check_node_id(argv[operand], err);
    if (r != E_OK)
        return r;
    request.node_id = argv[operand];
    r = servers_ask(cli, "UnfenceNode", &request.base, &answers, err);
    if (r != E_OK)
        return r;
    r = unfence_outcome(&answers, argv[operand], err);
    servers_done(&answers);
    return r;
}
