/* mooring volume …, over the controller's CSI socket; details and clear-failed come from the volume's storage
 * server. Run by main(). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/csi.h"
#include "cli/output.h"
#include "cli/servers.h"
#include "common/cleanup.h"
#include "common/id.h"
#include "common/options.h"
#include "common/record.h"
#include "common/size.h"
#include "common/strings.h"
#include "proto/context.h"
#include "proto/map.h"

static const struct output_column volume_columns[] = {
    {"volume_id", "VOLUME", OUTPUT_TEXT}, {"name", "NAME", OUTPUT_TEXT},
    {"size_bytes", "SIZE", OUTPUT_SIZE},  {"nodes", "NODES", OUTPUT_TEXT},
    {"state", "STATE", OUTPUT_TEXT},      {"context", NULL, OUTPUT_TEXT},
    {"topology", NULL, OUTPUT_TEXT},
};

static const struct output_column detail_columns[] = {
    {"volume_id", "volume", OUTPUT_TEXT},
    {"name", "name", OUTPUT_TEXT},
    {"size_bytes", "size", OUTPUT_SIZE},
    {"used_bytes", "used", OUTPUT_SIZE},
    {"shared_bytes", "shared", OUTPUT_SIZE},
    {"exclusive_bytes", "exclusive", OUTPUT_SIZE},
    {"nodes", "attached to", OUTPUT_TEXT},
    {"content", "content", OUTPUT_TEXT},
    {"write_failed", "write-failed", OUTPUT_BOOL},
    {"thick", "thick", OUTPUT_BOOL},
    {"block_size_bytes", "block size", OUTPUT_TEXT},
    {"created_unix_s", "created", OUTPUT_TIME},
    {"source", "made of", OUTPUT_TEXT},
    {"iops_limit", "operations a second", OUTPUT_TEXT},
    {"bandwidth_limit", "bytes a second", OUTPUT_SIZE},
    {"burst_s", "burst in seconds", OUTPUT_TEXT},
    {"scrubbed_unix_s", "last scrubbed", OUTPUT_TIME},
    {"health", "health", OUTPUT_TEXT},
    {"context", "parameters", OUTPUT_TEXT},
    {"topology", "reached from", OUTPUT_TEXT},
    {"attachments", "attachments", OUTPUT_TEXT},
};

static json_t *topology_to_json(const Csi__V1__Volume *volume)
{
    json_t *array = json_array();

    for (size_t i = 0; i < volume->n_accessible_topology; i++)
        json_array_append_new(array, csi_map_to_json(volume->accessible_topology[i]->segments,
                                                     volume->accessible_topology[i]->n_segments));
    return array;
}

static json_t *nodes_to_json(char *const *nodes, size_t count)
{
    json_t *array = json_array();

    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_string(nodes[i]));
    return array;
}

static json_t *volume_to_json(const Csi__V1__Volume *volume, json_t *nodes)
{
    const char *name = map_get(volume->volume_context, volume->n_volume_context, CONTEXT_NAME);
    bool unreadable = map_get(volume->volume_context, volume->n_volume_context, CONTEXT_UNREADABLE);

    return json_pack("{s:s, s:s, s:I, s:o, s:s, s:o, s:o}", "volume_id", volume->volume_id, "name",
                     name ? name : "", "size_bytes", (json_int_t)volume->capacity_bytes, "nodes", nodes,
                     "state", unreadable ? "unreadable" : "ok", "context",
                     csi_map_to_json(volume->volume_context, volume->n_volume_context), "topology",
                     topology_to_json(volume));
}

/* ---- create ---- */

static int call_create(struct cli *cli, const Csi__V1__CreateVolumeRequest *request, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    ProtobufCMessage *message = NULL;
    int r = csi_call_controller(cli, "CreateVolume", &request->base, &message, err);

    if (r != E_OK)
        return r;
    object = volume_to_json(((Csi__V1__CreateVolumeResponse *)message)->volume, json_array());
    protobuf_c_message_free_unpacked(message, NULL);
    return output_object(cli, stdout, object, detail_columns, ARRAY_SIZE(detail_columns), err);
}

static int parse_range(const char *size, const char *limit, Csi__V1__CapacityRange *range, struct error *err)
{
    uint64_t size_bytes = 0, limit_bytes = 0;
    int r = size_parse(size, &size_bytes, err);

    if (r == E_OK && limit)
        r = size_parse(limit, &limit_bytes, err);
    if (r == E_OK && (size_bytes > INT64_MAX || limit_bytes > INT64_MAX))
        r = error_set(err, E_INVALID_ARGUMENT, "a size beyond 8 EiB");
    csi__v1__capacity_range__init(range);
    range->required_bytes = (int64_t)size_bytes;
    range->limit_bytes = (int64_t)limit_bytes;
    return r;
}

struct create_source {
    Csi__V1__VolumeContentSource message;
    Csi__V1__VolumeContentSource__VolumeSource volume;
    Csi__V1__VolumeContentSource__SnapshotSource snapshot;
};

/* Fills in place: do not copy. */
static int create_source_init(struct create_source *source, const char *id, struct error *err)
{
    csi__v1__volume_content_source__init(&source->message);
    csi__v1__volume_content_source__volume_source__init(&source->volume);
    csi__v1__volume_content_source__snapshot_source__init(&source->snapshot);
    if (id_snapshot_valid(id)) {
        source->message.type_case = CSI__V1__VOLUME_CONTENT_SOURCE__TYPE_SNAPSHOT;
        source->message.snapshot = &source->snapshot;
        source->snapshot.snapshot_id = (char *)id;
        return E_OK;
    }
    if (!id_volume_valid(id))
        return error_set(err, E_INVALID_ARGUMENT, "--from \"%s\" is neither a volume's nor a snapshot's id",
                         id);
    source->message.type_case = CSI__V1__VOLUME_CONTENT_SOURCE__TYPE_VOLUME;
    source->message.volume = &source->volume;
    source->volume.volume_id = (char *)id;
    return E_OK;
}

int volume_create(struct cli *cli, int argc, char **argv, struct error *err)
{
    const char *size = NULL, *limit = NULL, *fs_type = NULL, *access_mode = NULL, *from = NULL;
    bool block = false;
    const struct option_spec options[] = {
        {.name = "size", .argument = "SIZE", .help = "at least this size: 10GiB", .value = &size},
        {.name = "from",
         .argument = "VOLUME|SNAPSHOT",
         .help = "with the data of this one, by id, and at least its size",
         .value = &from},
        {.name = "limit", .argument = "SIZE", .help = "at most this size", .value = &limit},
        {.name = "block", .help = "for use as a block device", .flag = &block},
        {.name = "fs-type", .argument = "TYPE", .help = "ext4 or xfs", .value = &fs_type},
        {.name = "access-mode", .argument = "MODE", .help = CSI_ACCESS_MODES, .value = &access_mode},
    };
    const struct cli_usage usage = {
        "mooring volume create",
        "Make a volume, or show the one of this name if it is what is asked for. Parameters are those of a\n"
        "StorageClass: attach, bandwidthLimit, blockSize, burstSeconds, fsType, iopsLimit, lease, "
        "mkfsOptions,\n"
        "mountOptions, pathTimeout, provisioning, sessions, zone.",
        "NAME [PARAMETER=VALUE…]",
        options,
        ARRAY_SIZE(options),
        1,
        64};
    Csi__V1__CreateVolumeRequest request = CSI__V1__CREATE_VOLUME_REQUEST__INIT;
    struct csi_capability capability;
    Csi__V1__VolumeCapability *capabilities = &capability.message;
    Csi__V1__CapacityRange range;
    struct create_source source;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK && !size && !from)
        r = error_set(err, E_INVALID_ARGUMENT, "--size is required without --from");
    if (r == E_OK && from)
        r = create_source_init(&source, from, err);
    if (r == E_OK)
        r = csi_capability_init(&capability, access_mode, block, fs_type, err);
    if (r == E_OK)
        r = parse_range(size ? size : "0", limit, &range, err);
    if (r == E_OK)
        r = csi_map_fill(&request.parameters, &request.n_parameters,
                         &csi__v1__create_volume_request__parameters_entry__descriptor, argc - operand - 1,
                         argv + operand + 1, err);
    if (r == E_OK) {
        request.name = argv[operand];
        request.capacity_range = size || limit ? &range : NULL;
        request.volume_content_source = from ? &source.message : NULL;
        request.volume_capabilities = &capabilities;
        request.n_volume_capabilities = 1;
        r = call_create(cli, &request, err);
    }
    csi_map_free(request.parameters, request.n_parameters);
    return r;
}

/* ---- list, show, delete ---- */

static int add_row(const Csi__V1__ListVolumesResponse__Entry *entry, void *rows, struct error *err)
{
    const Csi__V1__ListVolumesResponse__VolumeStatus *status = entry->status;
    json_t *nodes =
        status ? nodes_to_json(status->published_node_ids, status->n_published_node_ids) : json_array();
    const char *unreadable =
        map_get(entry->volume->volume_context, entry->volume->n_volume_context, CONTEXT_UNREADABLE);

    if (json_array_append_new(rows, volume_to_json(entry->volume, nodes)) != 0)
        return error_errno(err, ENOMEM, "the list");
    if (unreadable)
        fprintf(stderr, "mooring: volume %s is unreadable: %s\n", entry->volume->volume_id, unreadable);
    return E_OK;
}

/* A row as add_row() makes it, of what the storage server says: it does not know from where it is reached. */
static int add_server_row(const Mooring__Storage__V1__Volume *volume, json_t *rows, struct error *err)
{
    json_t *nodes = json_array(), *row;

    for (size_t i = 0; i < volume->n_attachments; i++)
        json_array_append_new(nodes, json_string(volume->attachments[i]->node_id));
    row = json_pack("{s:s, s:s, s:I, s:o, s:s, s:{s:s}, s:[]}", "volume_id", volume->volume_id, "name",
                    volume->name, "size_bytes", (json_int_t)volume->size_bytes, "nodes", nodes, "state",
                    *volume->unreadable != '\0' ? "unreadable" : "ok", "context", CONTEXT_NAME, volume->name,
                    "topology");
    if (json_array_append_new(rows, row) != 0)
        return error_errno(err, ENOMEM, "the list");
    if (*volume->unreadable != '\0')
        fprintf(stderr, "mooring: volume %s is unreadable: %s\n", volume->volume_id, volume->unreadable);
    return E_OK;
}

/* One server's first page, and from it the rest. A page that is missing makes the server one that failed. */
static void add_server(struct cli *cli, struct server_answer *answer, json_t *rows)
{
    while (answer->message) {
        Mooring__Storage__V1__ListVolumesResponse *page =
            (Mooring__Storage__V1__ListVolumesResponse *)answer->message;
        Mooring__Storage__V1__ListVolumesRequest request = MOORING__STORAGE__V1__LIST_VOLUMES_REQUEST__INIT;
        ProtobufCMessage *next = NULL;
        int r = E_OK;

        for (size_t i = 0; r == E_OK && i < page->n_volumes; i++)
            r = add_server_row(page->volumes[i], rows, &answer->err);
        if (r == E_OK && (!page->more || page->n_volumes == 0))
            return;
        if (r == E_OK) {
            request.after_volume_id = page->volumes[page->n_volumes - 1]->volume_id;
            servers_ask_volume(cli, request.after_volume_id, "ListVolumes", &request.base, &next,
                               &answer->err);
        }
        protobuf_c_message_free_unpacked(answer->message, NULL);
        answer->message = next;
    }
}

/* The controller cannot tell everything, so it tells nothing (invariant 9: a list without an entry is a
 * claim). An operator is better served with what there is, and the names of the servers that are missing. */
static int list_servers(struct cli *cli, const struct error *why, json_t *rows, struct error *err)
{
    Mooring__Storage__V1__ListVolumesRequest request = MOORING__STORAGE__V1__LIST_VOLUMES_REQUEST__INIT;
    struct server_answers answers;
    int r = servers_ask(cli, "ListVolumes", &request.base, &answers, err);

    if (r != E_OK)
        return r;
    answers.failed = 0;
    for (size_t i = 0; i < answers.count; i++) {
        add_server(cli, &answers.items[i], rows);
        answers.failed += !answers.items[i].message;
    }
    if (answers.failed == 0)
        fprintf(stderr, "mooring: as the storage servers tell it: %s\n", error_text(why));
    r = output_rows(cli, stdout, rows, volume_columns, ARRAY_SIZE(volume_columns), err);
    if (r == E_OK)
        r = servers_outcome(&answers, "no answer", err);
    servers_done(&answers);
    return r;
}

int volume_list(struct cli *cli, int argc, char **argv, struct error *err)
{
    const struct cli_usage usage = {
        "mooring volume list", "List volumes and where they are attached.", NULL, NULL, 0, 0, 0};
    _cleanup_json_ json_t *rows = json_array();
    _cleanup_error_ struct error why = {0};
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = csi_each_volume(cli, add_row, rows, &why);
    if (r == E_UNAVAILABLE && why.code == r && cli->servers.count > 0) {
        json_array_clear(rows);
        return list_servers(cli, &why, rows, err);
    }
    if (why.code != E_OK)
        error_move(err, &why);
    if (r == E_OK)
        r = output_rows(cli, stdout, rows, volume_columns, ARRAY_SIZE(volume_columns), err);
    return r;
}

static const char *content_name(Mooring__Storage__V1__Content content)
{
    static const char *const names[] = {"unknown", "blank", "formatting", "data"};

    return (size_t)content < ARRAY_SIZE(names) ? names[content] : names[0];
}

static json_t *attachments_to_json(const Mooring__Storage__V1__Volume *volume)
{
    json_t *array = json_array();

    for (size_t i = 0; i < volume->n_attachments; i++) {
        const Mooring__Storage__V1__Attachment *one = volume->attachments[i];

        json_array_append_new(
            array, json_pack("{s:s, s:I, s:I, s:i, s:b, s:b}", "node_id", one->node_id, "epoch",
                             (json_int_t)one->epoch, "generation", (json_int_t)one->generation, "access_mode",
                             (int)one->access_mode, "readonly", one->readonly, "removing", one->removing));
    }
    return array;
}

/* A limit of 0 is none: null, as where the volume has no limits at all. */
static json_t *limit_to_json(uint64_t value)
{
    return value > 0 ? json_integer((json_int_t)value) : json_null();
}

static void add_limits(const Mooring__Storage__V1__Limits *limits, json_t *object)
{
    json_object_set_new(object, "iops_limit", limit_to_json(limits ? limits->iops : 0));
    json_object_set_new(object, "bandwidth_limit", limit_to_json(limits ? limits->bytes_per_s : 0));
    json_object_set_new(object, "burst_s", limit_to_json(limits ? limits->burst_s : 0));
}

static void add_origin_and_health(const Mooring__Storage__V1__Volume *volume, json_t *object)
{
    const char *source = *volume->source_volume_id ? volume->source_volume_id : volume->source_snapshot_id;
    json_t *health = json_array();

    for (size_t i = 0; i < volume->n_health; i++)
        json_array_append_new(health, json_string(volume->health[i]->message));
    json_object_set_new(object, "source", json_string(source));
    json_object_set_new(object, "health", health);
    json_object_set_new(object, "scrubbed_unix_s", json_integer((json_int_t)volume->scrubbed_unix_s));
}

/* Asked for by itself: it takes a walk over the volume's extents, which is a wait on a disk. */
static void add_space(struct cli *cli, const char *volume_id, json_t *object)
{
    _cleanup_error_ struct error err = {0};
    Mooring__Storage__V1__GetVolumeRequest request = MOORING__STORAGE__V1__GET_VOLUME_REQUEST__INIT;
    const Mooring__Storage__V1__Volume *volume;
    ProtobufCMessage *message = NULL;

    request.volume_id = (char *)volume_id;
    request.want_exclusive = true;
    if (servers_ask_volume(cli, volume_id, "GetVolume", &request.base, &message, &err) != E_OK) {
        fprintf(stderr, "mooring: without what is shared: %s\n", error_text(&err));
        return;
    }
    volume = ((Mooring__Storage__V1__GetVolumeResponse *)message)->volume;
    if (volume)
        output_add_space(object, volume->used_bytes, volume->exclusive_bytes);
    protobuf_c_message_free_unpacked(message, NULL);
}

/* What only the storage server knows. Without it the rest is still worth showing. */
static void add_details(struct cli *cli, const char *volume_id, json_t *object)
{
    _cleanup_error_ struct error err = {0};
    Mooring__Storage__V1__GetVolumeRequest request = MOORING__STORAGE__V1__GET_VOLUME_REQUEST__INIT;
    const Mooring__Storage__V1__Volume *volume;
    ProtobufCMessage *message = NULL;
    json_t *details;

    if (cli->servers.count == 0)
        return;
    request.volume_id = (char *)volume_id;
    if (servers_ask_volume(cli, volume_id, "GetVolume", &request.base, &message, &err) != E_OK) {
        fprintf(stderr, "mooring: without details: %s\n", error_text(&err));
        return;
    }
    volume = ((Mooring__Storage__V1__GetVolumeResponse *)message)->volume;
    details = volume
                  ? json_pack("{s:I, s:s, s:b, s:b, s:I, s:I, s:o}", "used_bytes",
                              (json_int_t)volume->used_bytes, "content", content_name(volume->content),
                              "write_failed", volume->write_failed, "thick", volume->thick,
                              "block_size_bytes", (json_int_t)volume->block_size_bytes, "created_unix_s",
                              (json_int_t)volume->created_unix_s, "attachments", attachments_to_json(volume))
                  : NULL;
    json_object_update(object, details);
    json_decref(details);
    if (volume) {
        add_limits(volume->limits, object);
        add_origin_and_health(volume, object);
        add_space(cli, volume_id, object);
    }
    protobuf_c_message_free_unpacked(message, NULL);
}

int volume_show(struct cli *cli, int argc, char **argv, struct error *err)
{
    const struct cli_usage usage = {"mooring volume show", "Show one volume.", "VOLUME|NAME", NULL, 0, 1, 1};
    Csi__V1__ControllerGetVolumeResponse *found = NULL;
    _cleanup_json_ json_t *object = NULL;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK)
        r = csi_find_volume(cli, argv[operand], &found, err);
    if (r != E_OK)
        return r;
    object = volume_to_json(
        found->volume, nodes_to_json(found->status->published_node_ids, found->status->n_published_node_ids));
    add_details(cli, found->volume->volume_id, object);
    protobuf_c_message_free_unpacked(&found->base, NULL);
    return output_object(cli, stdout, object, detail_columns, ARRAY_SIZE(detail_columns), err);
}

int volume_delete(struct cli *cli, int argc, char **argv, struct error *err)
{
    const struct cli_usage usage = {"mooring volume delete",
                                    "Delete a volume and its data. OK when it is not there.",
                                    "VOLUME",
                                    NULL,
                                    0,
                                    1,
                                    1};
    Csi__V1__DeleteVolumeRequest request = CSI__V1__DELETE_VOLUME_REQUEST__INIT;
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r == E_OK && !id_volume_valid(argv[operand]))
        r = error_set(err, E_INVALID_ARGUMENT,
                      "\"%s\" is not a volume id; delete takes the id, which mooring volume list shows",
                      argv[operand]);
    if (r != E_OK)
        return r;
    request.volume_id = argv[operand];
    r = csi_call_controller(cli, "DeleteVolume", &request.base, NULL, err);
    if (r == E_PRECONDITION)
        error_wrap(err, "detach it first (mooring volume detach)");
    return r;
}
