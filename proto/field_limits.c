/* Size limits, read off the messages' descriptors: a field that a later call brings is held to them too. */
#include "proto/field_limits.h"

#include <limits.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "proto/map.h"

#define LIMITS_STRING 128
#define LIMITS_NODE_ID 256
#define LIMITS_MAP 4096

static const struct {
    const char *field;
    size_t max;
} exceptions[] = {
    {"mount_flags", LIMITS_MAP}, {"node_id", LIMITS_NODE_ID}, {"staging_target_path", PATH_MAX},
    {"target_path", PATH_MAX},   {"volume_path", PATH_MAX},   {"volume_publish_path", PATH_MAX},
};

static int field_limits_check_message(const ProtobufCMessage *message, struct error *err);

static size_t field_limits_of_string(const ProtobufCFieldDescriptor *field)
{
    for (size_t i = 0; i < ARRAY_SIZE(exceptions); i++) {
        if (str_equal(field->name, exceptions[i].field))
            return exceptions[i].max;
    }
    return LIMITS_STRING;
}

static int field_limits_refuse(const ProtobufCFieldDescriptor *field, size_t max, struct error *err)
{
    return error_set(err, E_INVALID_ARGUMENT, "%s has more than %zu bytes", field->name, max);
}

/* protobuf-c has no mark for a map: its entries are messages of a string "key" and a string "value". */
static bool field_limits_is_map(const ProtobufCFieldDescriptor *field)
{
    const ProtobufCMessageDescriptor *entry = field->descriptor;

    return field->type == PROTOBUF_C_TYPE_MESSAGE && field->label == PROTOBUF_C_LABEL_REPEATED &&
           entry->n_fields == 2 && str_equal(entry->fields[0].name, "key") &&
           str_equal(entry->fields[1].name, "value") && entry->sizeof_message == sizeof(struct map_entry);
}

/* Strings of their own limit each, but for mount_flags, which are limited in all; a map's keys and values
 * are, too. */
static int field_limits_check_repeated(const ProtobufCFieldDescriptor *field, void *const *items,
                                       size_t count, struct error *err)
{
    size_t max = field_limits_is_map(field) ? LIMITS_MAP : field_limits_of_string(field), total = 0;
    bool whole = field_limits_is_map(field) || str_equal(field->name, "mount_flags");
    int r = 0;

    for (size_t i = 0; r == 0 && i < count; i++) {
        size_t length = 0;

        if (field_limits_is_map(field)) {
            const struct map_entry *entry = items[i];
            length = strlen(entry->key) + strlen(entry->value);
        } else if (field->type == PROTOBUF_C_TYPE_STRING) {
            length = strlen(items[i]);
        } else if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
            r = field_limits_check_message(items[i], err);
        }
        total += length;
        if (r == 0 && (whole ? total : length) > max)
            r = field_limits_refuse(field, max, err);
    }
    return r;
}

static int field_limits_check_field(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                                    struct error *err)
{
    const uint8_t *base = (const uint8_t *)message;
    void *value;

    if (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE)
        return 0;
    memcpy(&value, base + field->offset, sizeof(value));
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t count;

        memcpy(&count, base + field->quantifier_offset, sizeof(count));
        return field_limits_check_repeated(field, value, count, err);
    }
    if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
        uint32_t which;

        memcpy(&which, base + field->quantifier_offset, sizeof(which));
        if (which != field->id)
            return 0;
    }
    if (!value)
        return 0;
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        return field_limits_check_message(value, err);
    return strlen(value) <= field_limits_of_string(field)
               ? 0
               : field_limits_refuse(field, field_limits_of_string(field), err);
}

static int field_limits_check_message(const ProtobufCMessage *message, struct error *err)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < message->descriptor->n_fields; i++)
        r = field_limits_check_field(message, &message->descriptor->fields[i], err);
    return r;
}

int field_limits_check(const ProtobufCMessage *request, struct error *err)
{
    return field_limits_check_message(request, err);
}
