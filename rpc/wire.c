/*
 * Messages on the wire. protobuf-c keeps no length of a string, so what it unpacks can no longer tell a NUL
 * from an end: strings are checked in the wire form, before it sees them. Stateless; any thread.
 */
#include "rpc/wire.h"

#include <errno.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <stdbool.h>
#include <string.h>

#define WIRE_DEPTH_MAX 32 /* messages within messages; ours go to 6 */

struct wire_reader {
    const uint8_t *at, *end;
};

static bool wire_read_varint(struct wire_reader *reader, uint64_t *ret_value)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64 && reader->at < reader->end; shift += 7) {
        uint8_t byte = *reader->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

static bool wire_skip(struct wire_reader *reader, uint64_t length)
{
    if (length > (uint64_t)(reader->end - reader->at))
        return false;
    reader->at += length;
    return true;
}

/* The length of the UTF-8 sequence at the start of text, 0 when it is none (RFC 3629: no surrogates, no
 * overlong forms). */
static size_t wire_utf8_length(const uint8_t *text, size_t length)
{
    static const struct {
        uint8_t first_min, first_max, second_min, second_max, length;
    } forms[] = {
        {0x01, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };

    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (text[0] < forms[i].first_min || text[0] > forms[i].first_max || forms[i].length > length)
            continue;
        if (forms[i].length > 1 && (text[1] < forms[i].second_min || text[1] > forms[i].second_max))
            return 0;
        for (size_t k = 2; k < forms[i].length; k++)
            if ((text[k] & 0xc0) != 0x80)
                return 0;
        return forms[i].length;
    }
    return 0;
}

static int wire_check_string(const ProtobufCFieldDescriptor *field, const uint8_t *text, size_t length,
                             struct error *err)
{
    while (length) {
        size_t step = wire_utf8_length(text, length);
        if (!step)
            return error_set(err, E_INVALID_ARGUMENT, "%s: %s", field->name,
                             *text ? "not UTF-8" : "a string must not contain a NUL");
        text += step;
        length -= step;
    }
    return 0;
}

static int wire_check_message(const ProtobufCMessageDescriptor *descriptor, struct wire_reader reader,
                              unsigned depth, struct error *err);

static int wire_check_chunk(const ProtobufCFieldDescriptor *field, const uint8_t *data, size_t length,
                            unsigned depth, struct error *err)
{
    if (field && field->type == PROTOBUF_C_TYPE_STRING)
        return wire_check_string(field, data, length, err);
    if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
        return wire_check_message(field->descriptor, (struct wire_reader){data, data + length}, depth + 1,
                                  err);
    return 0;
}

static int wire_check_message(const ProtobufCMessageDescriptor *descriptor, struct wire_reader reader,
                              unsigned depth, struct error *err)
{
    uint64_t tag, value;
    int code = 0;

    if (depth > WIRE_DEPTH_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "%s: messages nested too deeply", descriptor->name);
    while (!code && reader.at < reader.end) {
        /* protobuf-c drops the bits of a tag above 32, and so would see another field here than this check.
         */
        bool whole = wire_read_varint(&reader, &tag) && tag <= UINT32_MAX && tag >> 3;
        if (whole && (tag & 7) == PROTOBUF_C_WIRE_TYPE_VARINT) {
            whole = wire_read_varint(&reader, &value);
        } else if (whole && (tag & 7) == PROTOBUF_C_WIRE_TYPE_64BIT) {
            whole = wire_skip(&reader, 8);
        } else if (whole && (tag & 7) == PROTOBUF_C_WIRE_TYPE_32BIT) {
            whole = wire_skip(&reader, 4);
        } else if (whole && (tag & 7) == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) {
            const ProtobufCFieldDescriptor *field = NULL;
            whole = wire_read_varint(&reader, &value) && value <= (uint64_t)(reader.end - reader.at);
            if (whole)
                field = protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag >> 3));
            if (whole)
                code = wire_check_chunk(field, reader.at, (size_t)value, depth, err);
            whole = whole && wire_skip(&reader, value);
        } else {
            whole = false; /* groups are not proto3 */
        }
        if (!whole)
            return error_set(err, E_INVALID_ARGUMENT, "not a %s message", descriptor->name);
    }
    return code;
}

int rpc_wire_check(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t length,
                   struct error *err)
{
    return wire_check_message(descriptor, (struct wire_reader){data, data + length}, 0, err);
}

int rpc_wire_parse(const ProtobufCMessageDescriptor *descriptor, grpc_byte_buffer *buffer,
                   ProtobufCMessage **ret_message, struct error *err)
{
    grpc_byte_buffer_reader reader;
    ProtobufCMessage *message = NULL;
    grpc_slice whole;
    int code;

    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return error_set(err, E_INVALID_ARGUMENT, "not a %s message", descriptor->name);
    whole = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    code = rpc_wire_check(descriptor, GRPC_SLICE_START_PTR(whole), GRPC_SLICE_LENGTH(whole), err);
    if (!code) {
        message = protobuf_c_message_unpack(descriptor, NULL, GRPC_SLICE_LENGTH(whole),
                                            GRPC_SLICE_START_PTR(whole));
        if (!message)
            code = error_set(err, E_INVALID_ARGUMENT, "not a %s message", descriptor->name);
    }
    grpc_slice_unref(whole);
    if (!code)
        *ret_message = message;
    return code;
}

int rpc_wire_pack(const ProtobufCMessage *message, size_t max_bytes, grpc_byte_buffer **ret_buffer,
                  struct error *err)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    grpc_slice slice;

    if (size > max_bytes)
        return error_set(err, E_EXHAUSTED, "a %s of %zu bytes is larger than the limit of %zu bytes",
                         message->descriptor->name, size, max_bytes);
    slice = grpc_slice_malloc(size);
    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    *ret_buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return 0;
}
