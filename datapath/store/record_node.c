/*
 * Node records: copying, and JSON both ways, checked as volume records are. No state, no I/O; any thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/record.h"

void node_record_done(struct node_record *record)
{
    free(record->fenced_boot_ids);
    memset(record, 0, sizeof(*record));
}

int node_record_copy(struct node_record *dst, const struct node_record *src)
{
    struct node_record copy = *src;
    size_t size = src->fenced_boot_ids_count * sizeof(*src->fenced_boot_ids);

    copy.fenced_boot_ids = NULL;
    if (size > 0) {
        copy.fenced_boot_ids = malloc(size);
        if (!copy.fenced_boot_ids)
            return -ENOMEM;
        memcpy(copy.fenced_boot_ids, src->fenced_boot_ids, size);
    }
    *dst = copy;
    return 0;
}

int node_record_to_json(const struct node_record *record, json_t **ret_object)
{
    _cleanup_json_ json_t *boot_ids = json_array();
    json_t *object;

    for (size_t i = 0; i < record->fenced_boot_ids_count; i++) {
        if (json_array_append_new(boot_ids, json_string(record->fenced_boot_ids[i])) < 0)
            return -ENOMEM;
    }
    object = json_pack("{s:s, s:s, s:s, s:b, s:s, s:O}", "id", record->id, "boot_id", record->boot_id,
                       "address", record->address, "fenced", record->fenced, "fence_reason",
                       record->fence_reason, "fenced_boot_ids", boot_ids);
    if (!object)
        return -ENOMEM;
    if (record->volumes_max > 0 &&
        json_object_set_new(object, "volumes_max", json_integer(record->volumes_max)) < 0) {
        json_decref(object);
        return -ENOMEM;
    }
    *ret_object = object;
    return 0;
}

static int get_text(json_t *object, const char *member, char *dst, size_t size, struct error *err)
{
    const char *text;
    int r = record_get_string(object, member, &text, err);

    if (r != E_OK)
        return r;
    if (!str_copy(dst, size, text))
        return error_set(err, E_CORRUPT, "\"%s\" is too long", member);
    return E_OK;
}

static int boot_ids_from_json(json_t *object, struct node_record *record, struct error *err)
{
    json_t *array = NULL;
    size_t count;
    int r = record_get_array(object, "fenced_boot_ids", &array, err);

    if (r != E_OK)
        return r;
    count = json_array_size(array);
    if (count > NODE_BOOT_IDS_MAX)
        return error_set(err, E_CORRUPT, "\"fenced_boot_ids\" has more than %d items", NODE_BOOT_IDS_MAX);
    if (count == 0)
        return E_OK;
    record->fenced_boot_ids = calloc(count, sizeof(*record->fenced_boot_ids));
    if (!record->fenced_boot_ids)
        return error_errno(err, ENOMEM, "cannot read a record");
    for (size_t i = 0; i < count; i++) {
        const char *boot_id = json_string_value(json_array_get(array, i));

        if (!boot_id || !id_boot_valid(boot_id))
            return error_set(err, E_CORRUPT, "\"fenced_boot_ids\" has an item that is not a boot id");
        memcpy(record->fenced_boot_ids[i], boot_id, ID_BOOT_LENGTH + 1);
    }
    record->fenced_boot_ids_count = count;
    return E_OK;
}

static int members_from_json(json_t *object, struct node_record *record, struct error *err)
{
    uint64_t volumes_max = 0;
    int r;

    if ((r = get_text(object, "id", record->id, sizeof(record->id), err)) != E_OK ||
        (r = get_text(object, "boot_id", record->boot_id, sizeof(record->boot_id), err)) != E_OK ||
        (r = get_text(object, "address", record->address, sizeof(record->address), err)) != E_OK ||
        (r = record_get_bool(object, "fenced", &record->fenced, err)) != E_OK ||
        (r = get_text(object, "fence_reason", record->fence_reason, sizeof(record->fence_reason), err)) !=
            E_OK ||
        (r = record_get_optional_uint64(object, "volumes_max", &volumes_max, err)) != E_OK)
        return r;
    if (volumes_max > UINT32_MAX)
        return error_set(err, E_CORRUPT, "\"volumes_max\" is larger than it can be");
    record->volumes_max = (uint32_t)volumes_max;
    if (!id_node_valid(record->id))
        return error_set(err, E_CORRUPT, "\"id\" is not a node id");
    if (record->boot_id[0] != '\0' && !id_boot_valid(record->boot_id))
        return error_set(err, E_CORRUPT, "\"boot_id\" is not a boot id");
    return E_OK;
}

int node_record_from_json(json_t *object, struct node_record *ret_record, struct error *err)
{
    struct node_record record = {0};
    int r;

    r = members_from_json(object, &record, err);
    if (r == E_OK)
        r = boot_ids_from_json(object, &record, err);
    if (r != E_OK) {
        node_record_done(&record);
        return r;
    }
    *ret_record = record;
    return E_OK;
}
