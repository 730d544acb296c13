/*
 * Any bytes as a request: NodePublishVolume's, which nests messages, maps and a oneof. What the check of
 * strings and protobuf-c both accept must come back whole: a string cut at a NUL would come back shorter.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "proto/csi.pb-c.h"
#include "rpc/wire.h"

#define REQUEST (&csi__v1__node_publish_volume_request__descriptor)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ProtobufCMessage *parse(const uint8_t *data, size_t size)
{
    return rpc_wire_check(REQUEST, data, size, NULL) ? NULL
                                                     : protobuf_c_message_unpack(REQUEST, NULL, size, data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ProtobufCMessage *message = parse(data, size), *again;
    _cleanup_free_ uint8_t *packed = NULL;
    size_t packed_size;

    if (!message)
        return 0;
    packed_size = protobuf_c_message_get_packed_size(message);
    packed = malloc(packed_size + 1);
    assert(packed && protobuf_c_message_pack(message, packed) == packed_size);
    again = parse(packed, packed_size);
    assert(again && protobuf_c_message_get_packed_size(again) == packed_size);
    protobuf_c_message_free_unpacked(again, NULL);
    protobuf_c_message_free_unpacked(message, NULL);
    return 0;
}
