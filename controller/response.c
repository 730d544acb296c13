/* Answers in CSI's words. Owns nothing; run by worker threads, called by service.c. */
#include "controller/response.h"

#include <inttypes.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "proto/context.h"
#include "proto/map.h"

static int fill_context(const Mooring__Storage__V1__Volume *volume, Csi__V1__Volume *ret)
{
    int r = map_add(&ret->volume_context, &ret->n_volume_context,
                    &csi__v1__volume__volume_context_entry__descriptor, CONTEXT_NAME, volume->name);

    if (r == E_OK && *volume->unreadable != '\0')
        r = map_add(&ret->volume_context, &ret->n_volume_context,
                    &csi__v1__volume__volume_context_entry__descriptor, CONTEXT_UNREADABLE,
                    volume->unreadable);
    for (size_t i = 0; r == E_OK && i < volume->n_parameters; i++) {
        if (parameter_for_node(volume->parameters[i]->key))
            r = map_add(&ret->volume_context, &ret->n_volume_context,
                        &csi__v1__volume__volume_context_entry__descriptor, volume->parameters[i]->key,
                        volume->parameters[i]->value);
    }
    return r;
}

static int fill_topology(json_t *topology, Csi__V1__Topology ***ret, size_t *ret_count)
{
    Csi__V1__Topology *place;
    const char *key;
    json_t *value;
    int r = E_OK;

    if (json_object_size(topology) == 0)
        return E_OK;
    *ret = calloc(1, sizeof(**ret));
    place = malloc(sizeof(*place));
    if (!*ret || !place) {
        free(place);
        return -ENOMEM;
    }
    csi__v1__topology__init(place);
    (*ret)[(*ret_count)++] = place;
    json_object_foreach(topology, key, value)
    {
        if (r == E_OK)
            r = map_add(&place->segments, &place->n_segments, &csi__v1__topology__segments_entry__descriptor,
                        key, json_string_value(value));
    }
    return r;
}

static int fill_source(const Mooring__Storage__V1__Volume *volume, Csi__V1__Volume *ret)
{
    Csi__V1__VolumeContentSource *source;
    char *id;

    if (*volume->source_volume_id == '\0' && *volume->source_snapshot_id == '\0')
        return E_OK;
    source = malloc(sizeof(*source));
    if (!source)
        return -ENOMEM;
    csi__v1__volume_content_source__init(source);
    ret->content_source = source;
    id = strdup(*volume->source_volume_id != '\0' ? volume->source_volume_id : volume->source_snapshot_id);
    if (*volume->source_volume_id != '\0') {
        source->volume = malloc(sizeof(*source->volume));
        if (!id || !source->volume) {
            free(id);
            return -ENOMEM;
        }
        csi__v1__volume_content_source__volume_source__init(source->volume);
        source->volume->volume_id = id;
        source->type_case = CSI__V1__VOLUME_CONTENT_SOURCE__TYPE_VOLUME;
        return E_OK;
    }
    source->snapshot = malloc(sizeof(*source->snapshot));
    if (!id || !source->snapshot) {
        free(id);
        return -ENOMEM;
    }
    csi__v1__volume_content_source__snapshot_source__init(source->snapshot);
    source->snapshot->snapshot_id = id;
    source->type_case = CSI__V1__VOLUME_CONTENT_SOURCE__TYPE_SNAPSHOT;
    return E_OK;
}

int response_volume(const Mooring__Storage__V1__Volume *volume, json_t *topology, Csi__V1__Volume **ret)
{
    Csi__V1__Volume *result = malloc(sizeof(*result));
    char *id = strdup(volume->volume_id);
    int r;

    if (!result || !id) {
        free(result);
        free(id);
        return -ENOMEM;
    }
    csi__v1__volume__init(result);
    result->capacity_bytes = (int64_t)volume->size_bytes;
    result->volume_id = id;
    r = fill_context(volume, result);
    if (r == E_OK)
        r = fill_topology(topology, &result->accessible_topology, &result->n_accessible_topology);
    if (r == E_OK)
        r = fill_source(volume, result);
    *ret = result;
    return r;
}

Google__Protobuf__Timestamp *response_time(int64_t unix_ns)
{
    Google__Protobuf__Timestamp *time = malloc(sizeof(*time));

    if (!time)
        return NULL;
    google__protobuf__timestamp__init(time);
    time->seconds = unix_ns / 1000000000;
    time->nanos = (int32_t)(unix_ns % 1000000000);
    return time;
}

int response_snapshot(const Mooring__Storage__V1__Snapshot *snapshot, json_t *topology,
                      Csi__V1__Snapshot **ret)
{
    Csi__V1__Snapshot *result = malloc(sizeof(*result));

    if (!result)
        return -ENOMEM;
    csi__v1__snapshot__init(result);
    *ret = result;
    result->size_bytes = (int64_t)snapshot->size_bytes;
    result->snapshot_id = strdup(snapshot->snapshot_id);
    result->source_volume_id = strdup(snapshot->source_volume_id);
    result->group_snapshot_id = strdup(snapshot->group_id);
    result->creation_time = response_time(snapshot->created_unix_ns);
    result->ready_to_use = snapshot->ready;
    if (!result->snapshot_id || !result->source_volume_id || !result->group_snapshot_id ||
        !result->creation_time)
        return -ENOMEM;
    return fill_topology(topology, &result->accessible_topology, &result->n_accessible_topology);
}

int response_nodes(const Mooring__Storage__V1__Volume *volume, char ***ret_node_ids, size_t *ret_count)
{
    char **nodes;

    if (volume->n_attachments == 0)
        return E_OK;
    nodes = calloc(volume->n_attachments, sizeof(*nodes));
    if (!nodes)
        return -ENOMEM;
    *ret_node_ids = nodes;
    for (size_t i = 0; i < volume->n_attachments; i++) {
        nodes[i] = strdup(volume->attachments[i]->node_id);
        if (!nodes[i])
            return -ENOMEM;
        *ret_count = i + 1;
    }
    return E_OK;
}

static char *join_portals(const Mooring__Storage__V1__AttachVolumeResponse *attached)
{
    char *joined = strdup("");

    for (size_t i = 0; joined && i < attached->n_portals; i++) {
        char *longer = str_format("%s%s%s", joined, i > 0 ? "," : "", attached->portals[i]);

        free(joined);
        joined = longer;
    }
    return joined;
}

static int add_context(Csi__V1__ControllerPublishVolumeResponse *response, const char *key, const char *value)
{
    return map_add(&response->publish_context, &response->n_publish_context,
                   &csi__v1__controller_publish_volume_response__publish_context_entry__descriptor, key,
                   value);
}

static int add_number(Csi__V1__ControllerPublishVolumeResponse *response, const char *key, uint64_t number)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, number);
    return add_context(response, key, text);
}

int response_publish_context(const Mooring__Storage__V1__AttachVolumeResponse *attached,
                             const struct server_config *server,
                             Csi__V1__ControllerPublishVolumeResponse *response)
{
    _cleanup_free_ char *portals = join_portals(attached);

    if (!portals || add_context(response, CONTEXT_PORTALS, portals) != E_OK ||
        add_context(response, CONTEXT_IQN, attached->target_name) != E_OK ||
        add_number(response, CONTEXT_LUN, attached->lun) != E_OK ||
        add_number(response, CONTEXT_EPOCH, attached->attachment->epoch) != E_OK ||
        add_context(response, CONTEXT_SERVER, server->id) != E_OK ||
        add_context(response, CONTEXT_SERVER_ADDRESS, server->address) != E_OK ||
        add_context(response, CONTEXT_POOL_UUID, server->pool_uuid) != E_OK ||
        add_number(response, CONTEXT_SIZE_BYTES, attached->volume->size_bytes) != E_OK ||
        add_number(response, CONTEXT_BLOCK_SIZE, attached->volume->block_size_bytes) != E_OK ||
        add_context(response, CONTEXT_READONLY, attached->attachment->readonly ? "true" : "false") != E_OK)
        return -ENOMEM;
    return E_OK;
}

ProtobufCMessage *response_copy(const ProtobufCMessage *message)
{
    _cleanup_free_ uint8_t *packed = malloc(protobuf_c_message_get_packed_size(message) + 1);
    size_t length;

    if (!packed)
        return NULL;
    length = protobuf_c_message_pack(message, packed);
    return protobuf_c_message_unpack(message->descriptor, NULL, length, packed);
}

int response_entry(const Mooring__Storage__V1__Volume *volume, json_t *topology,
                   Csi__V1__ListVolumesResponse__Entry **ret)
{
    Csi__V1__ListVolumesResponse__Entry *entry = malloc(sizeof(*entry));
    int r;

    if (!entry)
        return -ENOMEM;
    csi__v1__list_volumes_response__entry__init(entry);
    *ret = entry;
    entry->status = malloc(sizeof(*entry->status));
    if (!entry->status)
        return -ENOMEM;
    csi__v1__list_volumes_response__volume_status__init(entry->status);
    r = response_volume(volume, topology, &entry->volume);
    if (r == E_OK)
        r = response_nodes(volume, &entry->status->published_node_ids, &entry->status->n_published_node_ids);
    return r;
}
