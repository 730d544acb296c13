/*
 * ListExtents: the ranges of a snapshot that may hold data, or differ from an older one's, as a stream of
 * messages of bounded size. Worker threads of its own group, since each goes at the pace of who reads it.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/store/snapshot.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

#define EXTENTS_MAX 4096u /* of one message */

struct extent_stream {
    struct rpc_call *call;
    Mooring__Storage__V1__ListExtentsResponse message;
    Mooring__Storage__V1__Extent *extents;
    size_t max;
    bool sent;
    struct error *err;
};

static int extent_stream_send(struct extent_stream *stream)
{
    int code = rpc_call_send(stream->call, &stream->message.base, stream->err);
    stream->message.n_extents = 0;
    stream->sent = true;
    return code;
}

static int extent_stream_visit(uint64_t offset, uint64_t length, void *context)
{
    struct extent_stream *stream = context;
    if (stream->message.n_extents == stream->max) {
        int code = extent_stream_send(stream);
        if (code)
            return code;
    }
    Mooring__Storage__V1__Extent *extent = stream->message.extents[stream->message.n_extents++];
    extent->offset = offset;
    extent->length = length;
    return 0;
}

static int extent_stream_init(struct extent_stream *stream, uint32_t max_entries, struct error *err)
{
    stream->max = max_entries ? MIN(max_entries, EXTENTS_MAX) : EXTENTS_MAX;
    stream->err = err;
    mooring__storage__v1__list_extents_response__init(&stream->message);
    stream->extents = calloc(stream->max, sizeof(*stream->extents));
    stream->message.extents = calloc(stream->max, sizeof(*stream->message.extents));
    if (!stream->extents || !stream->message.extents)
        return error_errno(err, ENOMEM, "extents");
    for (size_t i = 0; i < stream->max; i++) {
        mooring__storage__v1__extent__init(&stream->extents[i]);
        stream->message.extents[i] = &stream->extents[i];
    }
    return 0;
}

static void extent_stream_done(struct extent_stream *stream)
{
    free(stream->extents);
    free(stream->message.extents);
}

/* There is one message at least: it tells the size. */
static int service_stream_extents(struct rpc_call *call, struct snapshot *snapshot, struct snapshot *base,
                                  const Mooring__Storage__V1__ListExtentsRequest *list, struct error *err)
{
    struct extent_stream stream = {.call = call};
    struct snapshot_record record;
    int code = snapshot_copy_record(snapshot, &record);
    if (code)
        return error_errno(err, -code, "snapshot %s", list->snapshot_id);
    if (list->from_offset > record.size_bytes)
        return error_set(err, E_OUT_OF_RANGE, "snapshot %s has %lu bytes, and %lu were to be skipped",
                         record.id, (unsigned long)record.size_bytes, (unsigned long)list->from_offset);
    code = extent_stream_init(&stream, list->max_entries, err);
    stream.message.size_bytes = record.size_bytes;
    if (code == 0)
        code = snapshot_extents(snapshot, base, list->from_offset, extent_stream_visit, &stream, err);
    if (code == 0 && (stream.message.n_extents > 0 || !stream.sent))
        code = extent_stream_send(&stream);
    extent_stream_done(&stream);
    return code;
}

int service_list_extents(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    const Mooring__Storage__V1__ListExtentsRequest *list =
        (const Mooring__Storage__V1__ListExtentsRequest *)request;
    struct snapshot *snapshot = NULL, *base = NULL;
    (void)response;
    int code = service_find_snapshot(context, list->snapshot_id, &snapshot, err);
    if (code == 0 && list->base_snapshot_id[0])
        code = service_find_snapshot(context, list->base_snapshot_id, &base, err);
    if (code == 0)
        code = service_stream_extents(call, snapshot, base, list, err);
    snapshot_unref(base);
    snapshot_unref(snapshot);
    return code;
}
