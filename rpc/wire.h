/* gRPC's byte buffers ⇄ protobuf-c's messages, with the checks of proto3 that protobuf-c leaves out. */
#pragma once

#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/*
 * Parse a message. E_INVALID_ARGUMENT when it is not one of this type, or carries a string with a NUL, where
 * protobuf-c would cut it, or that is not UTF-8. The caller frees with protobuf_c_message_free_unpacked(…,
 * NULL).
 */
int rpc_wire_parse(const ProtobufCMessageDescriptor *descriptor, grpc_byte_buffer *buffer,
                   ProtobufCMessage **ret_message, struct error *err);

/* Pack a message. E_EXHAUSTED when it is larger than max_bytes. The caller destroys the buffer. */
int rpc_wire_pack(const ProtobufCMessage *message, size_t max_bytes, grpc_byte_buffer **ret_buffer,
                  struct error *err);

/* The check of strings alone, on the wire form; exported for its tests. */
int rpc_wire_check(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t length,
                   struct error *err);
