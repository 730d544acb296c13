/*
 * map<string, string> in protobuf-c: each map field has an entry type of its own, and all of them have one
 * layout. These helpers read and build such fields, whatever their message.
 */
#pragma once

#include <errno.h>
#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>
#include <string.h>

struct map_entry {
    ProtobufCMessage base;
    char *key;
    char *value;
};

/* The value of key, or NULL. entries is the message's field, cast. */
static inline const char *map_get(const void *entries, size_t count, const char *key)
{
    struct map_entry *const *list = entries;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i]->key, key) == 0)
            return list[i]->value;
    }
    return NULL;
}

/*
 * Append a copy of key and value to a map field: entries is the field's address, cast; entry_descriptor the
 * field's entry type (…__parameters_entry__descriptor). What it allocates is the message's, for
 * protobuf_c_message_free_unpacked(). 0 or -ENOMEM, the field unchanged.
 */
static inline int map_add(void *entries, size_t *count, const ProtobufCMessageDescriptor *entry_descriptor,
                          const char *key, const char *value)
{
    struct map_entry ***list = entries;
    struct map_entry *entry = calloc(1, entry_descriptor->sizeof_message);
    char *key_copy = strdup(key);
    char *value_copy = strdup(value);
    struct map_entry **grown = realloc(*list, (*count + 1) * sizeof(**list));
    if (grown)
        *list = grown;
    if (!entry || !key_copy || !value_copy || !grown) {
        free(entry);
        free(key_copy);
        free(value_copy);
        return -ENOMEM;
    }
    protobuf_c_message_init(entry_descriptor, entry);
    entry->key = key_copy;
    entry->value = value_copy;
    (*list)[(*count)++] = entry;
    return 0;
}
