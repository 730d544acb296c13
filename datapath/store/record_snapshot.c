/* Snapshot records as JSON, both ways, checked as volume records are. No state, no I/O; any thread. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/record.h"

int snapshot_record_format(const struct snapshot_record *record)
{
    return record->lost[0] != '\0' ? SNAPSHOT_RECORD_FORMAT : 1;
}

int snapshot_record_to_json(const struct snapshot_record *record, json_t **ret_object)
{
    json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:I, s:i, s:I, s:I, s:b, s:b}", "id", record->id, "name",
                               record->name, "source_volume_id", record->source_volume_id, "group_id",
                               record->group_id, "size_bytes", (json_int_t)record->size_bytes,
                               "block_size_bytes", (int)record->block_size_bytes, "created_unix_ns",
                               (json_int_t)record->created_unix_ns, "sequence", (json_int_t)record->sequence,
                               "held", record->held, "provisional", record->provisional);

    if (object && record->lost[0] != '\0' &&
        json_object_set_new(object, "lost", json_string(record->lost)) < 0) {
        json_decref(object);
        object = NULL;
    }
    if (!object)
        return -ENOMEM;
    *ret_object = object;
    return 0;
}

static int wrong(struct error *err, const char *member, const char *words)
{
    return error_set(err, E_CORRUPT, "\"%s\" %s", member, words);
}

static int get_text(json_t *object, const char *member, char *dst, size_t size, struct error *err)
{
    const char *text;
    int r = record_get_string(object, member, &text, err);

    if (r != E_OK)
        return r;
    return str_copy(dst, size, text) ? E_OK : wrong(err, member, "is too long");
}

static int get_lost(json_t *object, struct snapshot_record *record, struct error *err)
{
    const char *text = NULL;
    int r = record_get_optional_string(object, "lost", &text, err);

    if (r != E_OK || !text)
        return r;
    if (*text == '\0')
        return wrong(err, "lost", "is empty");
    return str_copy(record->lost, sizeof(record->lost), text) ? E_OK : wrong(err, "lost", "is too long");
}

static int members_check(const struct snapshot_record *record, struct error *err)
{
    if (!id_snapshot_valid(record->id))
        return wrong(err, "id", "is not a snapshot id");
    if (!id_volume_valid(record->source_volume_id))
        return wrong(err, "source_volume_id", "is not a volume id");
    if (record->group_id[0] != '\0' && !id_group_valid(record->group_id))
        return wrong(err, "group_id", "is not a group id");
    if (record->name[0] == '\0' && record->group_id[0] == '\0')
        return wrong(err, "name", "is empty, though it is of no group");
    if (record->block_size_bytes != 512 && record->block_size_bytes != 4096)
        return wrong(err, "block_size_bytes", "is neither 512 nor 4096");
    if (record->size_bytes == 0 || record->size_bytes % record->block_size_bytes != 0)
        return wrong(err, "size_bytes", "is 0 or no multiple of \"block_size_bytes\"");
    return E_OK;
}

int snapshot_record_from_json(json_t *object, struct snapshot_record *ret_record, struct error *err)
{
    struct snapshot_record record = {0};
    uint64_t block_size_bytes = 0, created = 0;
    int r;

    if ((r = get_text(object, "id", record.id, sizeof(record.id), err)) != E_OK ||
        (r = get_text(object, "name", record.name, sizeof(record.name), err)) != E_OK ||
        (r = get_text(object, "source_volume_id", record.source_volume_id, sizeof(record.source_volume_id),
                      err)) != E_OK ||
        (r = get_text(object, "group_id", record.group_id, sizeof(record.group_id), err)) != E_OK ||
        (r = record_get_uint64(object, "size_bytes", &record.size_bytes, err)) != E_OK ||
        (r = record_get_uint64(object, "block_size_bytes", &block_size_bytes, err)) != E_OK ||
        (r = record_get_uint64(object, "created_unix_ns", &created, err)) != E_OK ||
        (r = record_get_uint64(object, "sequence", &record.sequence, err)) != E_OK ||
        (r = record_get_bool(object, "held", &record.held, err)) != E_OK ||
        (r = record_get_bool(object, "provisional", &record.provisional, err)) != E_OK ||
        (r = get_lost(object, &record, err)) != E_OK)
        return r;
    record.block_size_bytes = block_size_bytes <= 4096 ? (uint32_t)block_size_bytes : 0;
    record.created_unix_ns = (int64_t)created;
    r = members_check(&record, err);
    if (r == E_OK)
        *ret_record = record;
    return r;
}
