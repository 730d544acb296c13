/* mooring snapshot …: made and deleted over the controller's CSI socket; listed and shown as the storage
 * servers tell it, for CSI's answer has no names. Run by main(). */
#include <stdlib.h>

#include "cli/csi.h"
#include "cli/output.h"
#include "cli/servers.h"
#include "common/cleanup.h"
#include "common/id.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"

static const struct output_column list_columns[] = {
    {"snapshot_id", "SNAPSHOT", OUTPUT_TEXT}, {"name", "NAME", OUTPUT_TEXT},
    {"source_volume_id", "OF", OUTPUT_TEXT},  {"size_bytes", "SIZE", OUTPUT_SIZE},
    {"created_unix_s", "MADE", OUTPUT_TIME},  {"state", "STATE", OUTPUT_TEXT},
    {"group_id", NULL, OUTPUT_TEXT},          {"used_bytes", NULL, OUTPUT_SIZE},
};

static const struct output_column detail_columns[] = {
    {"snapshot_id", "snapshot", OUTPUT_TEXT},
    {"name", "name", OUTPUT_TEXT},
    {"source_volume_id", "of", OUTPUT_TEXT},
    {"group_id", "group", OUTPUT_TEXT},
    {"size_bytes", "size", OUTPUT_SIZE},
    {"used_bytes", "used", OUTPUT_SIZE},
    {"shared_bytes", "shared", OUTPUT_SIZE},
    {"exclusive_bytes", "exclusive", OUTPUT_SIZE},
    {"created_unix_s", "made", OUTPUT_TIME},
    {"state", "state", OUTPUT_TEXT},
    {"lost", "why", OUTPUT_TEXT},
};

static json_t *state_to_json(const Mooring__Storage__V1__Snapshot *snapshot)
{
    if (*snapshot->unreadable != '\0')
        return json_string("unreadable");
    if (*snapshot->lost != '\0')
        return json_string("lost");
    return snapshot->ready ? json_string("ready") : json_sprintf("%u %% done", snapshot->progress_percent);
}

static json_t *snapshot_to_json(const Mooring__Storage__V1__Snapshot *snapshot)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:o}", "snapshot_id", snapshot->snapshot_id, "name",
                     snapshot->name, "source_volume_id", snapshot->source_volume_id, "group_id",
                     snapshot->group_id, "size_bytes", (json_int_t)snapshot->size_bytes, "used_bytes",
                     (json_int_t)snapshot->used_bytes, "created_unix_s",
                     (json_int_t)(snapshot->created_unix_ns / 1000000000), "state", state_to_json(snapshot));
}

static int check_id(const char *id, struct error *err)
{
    if (id_snapshot_valid(id))
        return E_OK;
    return error_set(err, E_INVALID_ARGUMENT,
                     "\"%s\" is not a snapshot id, which mooring snapshot list shows", id);
}

/* ---- create, delete ---- */

static int print_created(struct cli *cli, const Csi__V1__Snapshot *snapshot, const char *name,
                         struct error *err)
{
    int64_t created_unix_s = snapshot->creation_time ? snapshot->creation_time->seconds : 0;
    _cleanup_json_ json_t *object = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:s}", "snapshot_id", snapshot->snapshot_id, "name", name,
        "source_volume_id", snapshot->source_volume_id, "size_bytes", (json_int_t)snapshot->size_bytes,
        "created_unix_s", (json_int_t)created_unix_s, "state", snapshot->ready_to_use ? "ready" : "copying");

    return output_object(cli, stdout, object, detail_columns, ARRAY_SIZE(detail_columns), err);
}

int snapshot_create(struct cli *cli, int argc, char **argv, struct error *err)
{
    const struct cli_usage usage = {
        "mooring snapshot create",
        "Keep the bytes that a volume has at this moment, or show the snapshot of this name if it is of "
        "that\n"
        "volume. Writes to the volume go on. A file system in it is as after a power cut; freeze it first\n"
        "(fsfreeze) where that is not enough.",
        "VOLUME|VOLUME-NAME NAME",
        NULL,
        0,
        2,
        2};
    Csi__V1__CreateSnapshotRequest request = CSI__V1__CREATE_SNAPSHOT_REQUEST__INIT;
    Csi__V1__ControllerGetVolumeResponse *found = NULL;
    ProtobufCMessage *message = NULL;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = csi_find_volume(cli, argv[operand], &found, err);
    if (r != E_OK)
        return r;
    request.source_volume_id = found->volume->volume_id;
    request.name = argv[operand + 1];
    r = csi_call_controller(cli, "CreateSnapshot", &request.base, &message, err);
    protobuf_c_message_free_unpacked(&found->base, NULL);
    if (r != E_OK)
        return r;
    r = print_created(cli, ((Csi__V1__CreateSnapshotResponse *)message)->snapshot, argv[operand + 1], err);
    protobuf_c_message_free_unpacked(message, NULL);
    return r;
}

int snapshot_delete(struct cli *cli, int argc, char **argv, struct error *err)
{
    const struct cli_usage usage = {"mooring snapshot delete",
                                    "Delete a snapshot. OK when it is not there. Volumes made of it stay.",
                                    "SNAPSHOT",
                                    NULL,
                                    0,
                                    1,
                                    1};
    Csi__V1__DeleteSnapshotRequest request = CSI__V1__DELETE_SNAPSHOT_REQUEST__INIT;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = check_id(argv[operand], err);
    if (r != E_OK)
        return r;
    request.snapshot_id = argv[operand];
    return csi_call_controller(cli, "DeleteSnapshot", &request.base, NULL, err);
}

/* ---- list, show ---- */

/* One server's first page, and from it the rest. A page that is missing makes the server one that failed. */
static void add_server(struct cli *cli, struct server_answer *answer, const char *volume_id, json_t *rows)
{
    while (answer->message) {
        Mooring__Storage__V1__ListSnapshotsResponse *page =
            (Mooring__Storage__V1__ListSnapshotsResponse *)answer->message;
        Mooring__Storage__V1__ListSnapshotsRequest request =
            MOORING__STORAGE__V1__LIST_SNAPSHOTS_REQUEST__INIT;
        ProtobufCMessage *next = NULL;

        for (size_t i = 0; i < page->n_snapshots; i++) {
            json_array_append_new(rows, snapshot_to_json(page->snapshots[i]));
            if (*page->snapshots[i]->unreadable != '\0')
                fprintf(stderr, "mooring: snapshot %s is unreadable: %s\n", page->snapshots[i]->snapshot_id,
                        page->snapshots[i]->unreadable);
            if (*page->snapshots[i]->lost != '\0')
                fprintf(stderr, "mooring: %s\n", page->snapshots[i]->lost);
        }
        if (!page->more || page->n_snapshots == 0)
            return;
        request.after_snapshot_id = page->snapshots[page->n_snapshots - 1]->snapshot_id;
        request.source_volume_id = (char *)volume_id;
        servers_ask_one(cli, answer->config->id, "ListSnapshots", &request.base, &next, &answer->err);
        protobuf_c_message_free_unpacked(answer->message, NULL);
        answer->message = next;
    }
}

int snapshot_list(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *volume = "";
    const struct option_spec options[] = {
        {.name = "volume", .argument = "VOLUME", .help = "of this volume only", .value = &volume},
    };
    const struct cli_usage usage = {
        "mooring snapshot list", "List snapshots.", NULL, options, ARRAY_SIZE(options), 0, 0};
    Mooring__Storage__V1__ListSnapshotsRequest request = MOORING__STORAGE__V1__LIST_SNAPSHOTS_REQUEST__INIT;
    _cleanup_json_ json_t *rows = json_array();
    struct server_answers answers;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    request.source_volume_id = (char *)volume;
    if (r == E_OK)
        r = servers_ask(cli, "ListSnapshots", &request.base, &answers, err);
    if (r != E_OK)
        return r;
    answers.failed = 0;
    for (size_t i = 0; i < answers.count; i++) {
        add_server(cli, &answers.items[i], volume, rows);
        answers.failed += !answers.items[i].message;
    }
    r = output_rows(cli, stdout, rows, list_columns, ARRAY_SIZE(list_columns), err);
    if (r == E_OK)
        r = servers_outcome(&answers, "no answer", err);
    servers_done(&answers);
    return r;
}

int snapshot_show(struct cli *cli, int argc, char **argv, struct error *err)
{
    const struct cli_usage usage = {"mooring snapshot show", "Show one snapshot.", "SNAPSHOT", NULL, 0, 1, 1};
    Mooring__Storage__V1__GetSnapshotRequest request = MOORING__STORAGE__V1__GET_SNAPSHOT_REQUEST__INIT;
    const Mooring__Storage__V1__Snapshot *snapshot;
    char server_id[ID_SERVER_MAX + 1];
    ProtobufCMessage *message = NULL;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = check_id(argv[operand], err);
    if (r == E_OK)
        r = id_snapshot_server(argv[operand], server_id, err);
    if (r != E_OK)
        return r;
    request.snapshot_id = argv[operand];
    request.want_exclusive = true;
    r = servers_ask_one(cli, server_id, "GetSnapshot", &request.base, &message, err);
    if (r != E_OK)
        return r;
    snapshot = ((Mooring__Storage__V1__GetSnapshotResponse *)message)->snapshot;
    _cleanup_json_ json_t *object = snapshot_to_json(snapshot);
    output_add_space(object, snapshot->used_bytes, snapshot->exclusive_bytes);
    if (*snapshot->lost != '\0')
        json_object_set_new(object, "lost", json_string(snapshot->lost));
    protobuf_c_message_free_unpacked(message, NULL);
    return output_object(cli, stdout, object, detail_columns, ARRAY_SIZE(detail_columns), err);
}
