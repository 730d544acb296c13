/*
 * CSI's SnapshotMetadata service: the ranges of a snapshot that hold data, or that differ from an older one
 * of the same volume, streamed as the storage server tells them. Owns nothing across calls; run by worker
 * threads of its own, at the pace of who reads.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "controller/request.h"
#include "controller/service.h"
#include "controller/service_parts.h"
#include "controller/snapshot.h"
#include "proto/field_limits.h"

#define METADATA_THREADS STORAGE_STREAMS_MAX
#define SLOW_READER_MS 300000       /* without taking a message */
#define MESSAGE_TUPLES 4096         /* of one message, where the caller does not ask for fewer */
#define DEADLINE_DEFAULT_MS 3600000 /* for a caller that set none */

/* Both calls' messages have one layout, number by number. */
struct metadata_response {
    ProtobufCMessage base;
    Csi__V1__BlockMetadataType type;
    int64_t capacity_bytes;
    size_t count;
    Csi__V1__BlockMetadata **tuples;
};
#define SAME_PLACE(field, common)                                                                            \
    _Static_assert(offsetof(Csi__V1__GetMetadataAllocatedResponse, field) ==                                 \
                           offsetof(struct metadata_response, common) &&                                     \
                       offsetof(Csi__V1__GetMetadataDeltaResponse, field) ==                                 \
                           offsetof(struct metadata_response, common),                                       \
                   #field)
SAME_PLACE(block_metadata_type, type);
SAME_PLACE(volume_capacity_bytes, capacity_bytes);
SAME_PLACE(n_block_metadata, count);
SAME_PLACE(block_metadata, tuples);

struct metadata {
    struct rpc_call *call;
    const ProtobufCMessageDescriptor *descriptor; /* of the response */
    const char *snapshot_id, *base_id;            /* base "": none */
    int64_t starting_offset;
    uint32_t max_results;
    uint64_t size_bytes;
    uint64_t end; /* of the last tuple that was sent */
    struct error err;
    Csi__V1__BlockMetadata *tuples; /* max_results of them, of the message that is being filled */
    Csi__V1__BlockMetadata **list;
};

static int check(const struct metadata *metadata, int32_t max_results, struct error *err)
{
    if (metadata->starting_offset < 0)
        return error_set(err, E_OUT_OF_RANGE, "starting_offset is negative");
    if (max_results < 0)
        return error_set(err, E_INVALID_ARGUMENT, "max_results is negative");
    return E_OK;
}

/* ---- one message ---- */

static int send_tuples(struct metadata *metadata, size_t count)
{
    union {
        struct metadata_response common;
        Csi__V1__GetMetadataAllocatedResponse allocated;
        Csi__V1__GetMetadataDeltaResponse delta;
    } message;

    protobuf_c_message_init(metadata->descriptor, &message);
    message.common.type = CSI__V1__BLOCK_METADATA_TYPE__VARIABLE_LENGTH;
    message.common.capacity_bytes = (int64_t)metadata->size_bytes;
    message.common.count = count;
    message.common.tuples = metadata->list;
    return rpc_call_send(metadata->call, &message.common.base, &metadata->err);
}

/* The server's extents are in order and apart; one that is not would be a miss further on. */
static int add_tuple(struct metadata *metadata, const Mooring__Storage__V1__Extent *extent, size_t *count)
{
    if (extent->length == 0 || extent->offset < metadata->end ||
        !size_range_fits(extent->offset, extent->length, metadata->size_bytes))
        return error_set(&metadata->err, -EPROTO,
                         "ListExtents of %s: %" PRIu64 " bytes at %" PRIu64
                         " are out of order, or beyond %" PRIu64,
                         metadata->snapshot_id, extent->length, extent->offset, metadata->size_bytes);
    metadata->end = extent->offset + extent->length;
    if (metadata->end <= (uint64_t)metadata->starting_offset)
        return E_OK;
    csi__v1__block_metadata__init(&metadata->tuples[*count]);
    metadata->tuples[*count].byte_offset = (int64_t)extent->offset;
    metadata->tuples[*count].size_bytes = (int64_t)extent->length;
    metadata->list[*count] = &metadata->tuples[*count];
    ++*count;
    return E_OK;
}

static int receive(const ProtobufCMessage *message, void *context)
{
    const Mooring__Storage__V1__ListExtentsResponse *response =
        (const Mooring__Storage__V1__ListExtentsResponse *)message;
    struct metadata *metadata = context;
    size_t count = 0;
    int r = E_OK;

    for (size_t i = 0; r == E_OK && i < response->n_extents; i++) {
        r = add_tuple(metadata, response->extents[i], &count);
        if (r == E_OK && count == metadata->max_results) {
            r = send_tuples(metadata, count);
            count = 0;
        }
    }
    if (r == E_OK && count > 0)
        r = send_tuples(metadata, count);
    return r;
}

/* ---- a call ---- */

/* The snapshot, which must be whole. */
static int look_at(struct controller *controller, const char *snapshot_id, uint64_t deadline_ms,
                   Mooring__Storage__V1__Snapshot **ret, struct error *err)
{
    int r = snapshot_find(controller, snapshot_id, deadline_ms, ret, err);

    if (r != E_OK || (*ret)->ready)
        return r;
    r = snapshot_check_lost(*ret, err);
    if (r != E_OK)
        return r;
    return error_set(err, E_PRECONDITION, "snapshot %s is not ready: %u %% of it is copied", snapshot_id,
                     (*ret)->progress_percent);
}

static int check_pair(const Mooring__Storage__V1__Snapshot *target,
                      const Mooring__Storage__V1__Snapshot *base, struct error *err)
{
    if (!str_equal(target->source_volume_id, base->source_volume_id))
        return error_set(err, E_INVALID_ARGUMENT, "snapshot %s is of volume %s, and %s of volume %s",
                         base->snapshot_id, base->source_volume_id, target->snapshot_id,
                         target->source_volume_id);
    if (str_equal(target->snapshot_id, base->snapshot_id))
        return error_set(err, E_INVALID_ARGUMENT, "base and target are one snapshot, %s", base->snapshot_id);
    return E_OK;
}

/* Are they there, and does the offset lie in the target? */
static int prepare(struct controller *controller, struct metadata *metadata, uint64_t deadline_ms,
                   struct error *err)
{
    bool delta = metadata->descriptor == &csi__v1__get_metadata_delta_response__descriptor;
    Mooring__Storage__V1__Snapshot *target = NULL, *base = NULL;
    int r = E_OK;

    if (delta)
        r = look_at(controller, metadata->base_id, deadline_ms, &base, err);
    if (r == E_OK)
        r = look_at(controller, metadata->snapshot_id, deadline_ms, &target, err);
    if (r == E_OK && delta)
        r = check_pair(target, base, err);
    if (r == E_OK)
        metadata->size_bytes = target->size_bytes;
    if (r == E_OK && (uint64_t)metadata->starting_offset > target->size_bytes)
        r = error_set(err, E_OUT_OF_RANGE,
                      "starting_offset %" PRId64 " is beyond the %" PRIu64 " bytes of %s",
                      metadata->starting_offset, target->size_bytes, metadata->snapshot_id);
    if (target)
        protobuf_c_message_free_unpacked(&target->base, NULL);
    if (base)
        protobuf_c_message_free_unpacked(&base->base, NULL);
    return r;
}

static uint64_t deadline_of(struct rpc_call *call)
{
    if (rpc_call_remaining_ms(call) == INT64_MAX)
        return time_now_ms() + DEADLINE_DEFAULT_MS;
    return service_deadline(call);
}

static int stream(struct storage_server *server, struct metadata *metadata, uint64_t deadline_ms,
                  struct error *err)
{
    Mooring__Storage__V1__ListExtentsRequest request = MOORING__STORAGE__V1__LIST_EXTENTS_REQUEST__INIT;
    int r;

    request.snapshot_id = (char *)metadata->snapshot_id;
    request.base_snapshot_id = (char *)metadata->base_id;
    request.from_offset = (uint64_t)metadata->starting_offset;
    request.max_entries = metadata->max_results;
    r = storage_stream(server, "ListExtents", &request.base, deadline_ms, receive, metadata, err);
    if (metadata->err.code != E_OK) {
        r = metadata->err.code;
        error_move(err, &metadata->err);
    }
    return r;
}

static int serve_placed(struct controller *controller, struct storage_server *server,
                        struct metadata *metadata, struct error *err)
{
    uint64_t deadline_ms = deadline_of(metadata->call);
    int r = prepare(controller, metadata, deadline_ms, err);

    if (r != E_OK)
        return r;
    metadata->tuples = calloc(metadata->max_results, sizeof(*metadata->tuples));
    metadata->list = calloc(metadata->max_results, sizeof(*metadata->list));
    if (metadata->tuples && metadata->list)
        r = stream(server, metadata, deadline_ms, err);
    else
        r = service_memory(-ENOMEM, err);
    free(metadata->tuples);
    free(metadata->list);
    return r;
}

/* All that is asked of the server comes after the place: it may hang in any of it. */
static int serve(struct controller *controller, struct metadata *metadata, int32_t max_results,
                 struct error *err)
{
    bool delta = metadata->descriptor == &csi__v1__get_metadata_delta_response__descriptor;
    struct storage_server *server = NULL;
    struct share_place place;
    int r = check(metadata, max_results, err);

    if (r == E_OK && delta)
        r = request_string("base_snapshot_id", metadata->base_id, err);
    if (r == E_OK)
        r = request_string(delta ? "target_snapshot_id" : "snapshot_id", metadata->snapshot_id, err);
    if (r == E_OK)
        r = storage_of_snapshot(controller->storage, metadata->snapshot_id, &server, err);
    if (r == E_OK)
        r = storage_stream_enter(server, delta ? "GetMetadataDelta" : "GetMetadataAllocated", &place, err);
    if (r != E_OK)
        return r;
    metadata->max_results = max_results > 0 ? MIN((uint32_t)max_results, MESSAGE_TUPLES) : MESSAGE_TUPLES;
    r = serve_placed(controller, server, metadata, err);
    share_leave(&place);
    return r;
}

static int service_allocated(struct rpc_call *call, const ProtobufCMessage *message,
                             ProtobufCMessage *response, void *context, struct error *err)
{
    const Csi__V1__GetMetadataAllocatedRequest *request =
        (const Csi__V1__GetMetadataAllocatedRequest *)message;
    struct metadata metadata = {.call = call,
                                .descriptor = &csi__v1__get_metadata_allocated_response__descriptor,
                                .snapshot_id = request->snapshot_id,
                                .base_id = "",
                                .starting_offset = request->starting_offset};

    (void)response;
    return serve(context, &metadata, request->max_results, err);
}

static int service_delta(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    const Csi__V1__GetMetadataDeltaRequest *request = (const Csi__V1__GetMetadataDeltaRequest *)message;
    struct metadata metadata = {.call = call,
                                .descriptor = &csi__v1__get_metadata_delta_response__descriptor,
                                .snapshot_id = request->target_snapshot_id,
                                .base_id = request->base_snapshot_id,
                                .starting_offset = request->starting_offset};

    (void)response;
    return serve(context, &metadata, request->max_results, err);
}

static const struct rpc_method methods[] = {
    {"GetMetadataAllocated", service_allocated, true},
    {"GetMetadataDelta", service_delta, true},
};

struct rpc_service service_metadata(struct controller *controller)
{
    return (struct rpc_service){
        .descriptor = &csi__v1__snapshot_metadata__descriptor,
        .methods = methods,
        .methods_count = ARRAY_SIZE(methods),
        .context = controller,
        .check = field_limits_check,
        .threads = METADATA_THREADS,
        .send_timeout_ms = SLOW_READER_MS,
    };
}
