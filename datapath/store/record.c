/*
 * Volume records: copying, and JSON both ways. What is read is checked member by member, since a pool may
 * come from another host or a person's editor; members that are unknown are passed over. No state, no I/O;
 * any thread.
 */
#include "datapath/store/record.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/record.h"
#include "common/secret.h"
#include "common/strings.h"
#include "datapath/store/attach.h"

static const char *const content_names[] = {"blank", "formatting", "data"};
static const char *const mode_names[] = {
    "UNKNOWN",
    "SINGLE_NODE_WRITER",
    "SINGLE_NODE_READER_ONLY",
    "MULTI_NODE_READER_ONLY",
    "MULTI_NODE_SINGLE_WRITER",
    "MULTI_NODE_MULTI_WRITER",
    "SINGLE_NODE_SINGLE_WRITER",
    "SINGLE_NODE_MULTI_WRITER",
};
#define MODES_COUNT (sizeof(mode_names) / sizeof(mode_names[0]))

const char *access_mode_name(enum access_mode mode)
{
    return (unsigned)mode < MODES_COUNT ? mode_names[mode] : mode_names[ACCESS_UNKNOWN];
}

/* ---- memory ---- */

static void parameters_free(struct volume_parameter *parameters, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(parameters[i].key);
        free(parameters[i].value);
    }
    free(parameters);
}

void volume_record_done(struct volume_record *record)
{
    parameters_free(record->parameters, record->parameters_count);
    if (record->attachments)
        secret_wipe(record->attachments, record->attachments_count * sizeof(*record->attachments));
    free(record->attachments);
    memset(record, 0, sizeof(*record));
}

static int parameters_copy(struct volume_record *dst, const struct volume_record *src)
{
    if (src->parameters_count == 0)
        return 0;
    dst->parameters = calloc(src->parameters_count, sizeof(*dst->parameters));
    if (!dst->parameters)
        return -ENOMEM;
    for (size_t i = 0; i < src->parameters_count; i++) {
        dst->parameters_count = i + 1;
        dst->parameters[i].key = strdup(src->parameters[i].key);
        dst->parameters[i].value = strdup(src->parameters[i].value);
        if (!dst->parameters[i].key || !dst->parameters[i].value)
            return -ENOMEM;
    }
    return 0;
}

static int attachments_copy(struct volume_record *dst, const struct volume_record *src)
{
    size_t size = src->attachments_count * sizeof(*src->attachments);

    if (size == 0)
        return 0;
    dst->attachments = malloc(size);
    if (!dst->attachments)
        return -ENOMEM;
    memcpy(dst->attachments, src->attachments, size);
    dst->attachments_count = src->attachments_count;
    return 0;
}

int volume_record_copy(struct volume_record *dst, const struct volume_record *src)
{
    struct volume_record copy = *src;

    copy.parameters = NULL;
    copy.parameters_count = 0;
    copy.attachments = NULL;
    copy.attachments_count = 0;
    if (parameters_copy(&copy, src) < 0 || attachments_copy(&copy, src) < 0) {
        volume_record_done(&copy);
        return -ENOMEM;
    }
    *dst = copy;
    return 0;
}

/* ---- looking ---- */

struct attachment *volume_record_attachment(struct volume_record *record, const char *node_id)
{
    for (size_t i = 0; i < record->attachments_count; i++) {
        if (str_equal(record->attachments[i].node_id, node_id))
            return &record->attachments[i];
    }
    return NULL;
}

struct attachment *volume_record_epoch(struct volume_record *record, uint64_t epoch)
{
    for (size_t i = 0; i < record->attachments_count; i++) {
        if (record->attachments[i].epoch == epoch)
            return &record->attachments[i];
    }
    return NULL;
}

bool volume_record_shared_writers(const struct volume_record *record)
{
    size_t writers = 0;

    for (size_t i = 0; i < record->attachments_count; i++) {
        const struct attachment *attachment = &record->attachments[i];

        if (!attach_may_write(attachment->access_mode, attachment->readonly))
            continue;
        if (attachment->access_mode == ACCESS_MULTI_NODE_MULTI_WRITER || ++writers > 1)
            return true;
    }
    return false;
}

/* ---- to JSON ---- */

static json_t *attachment_to_json(const struct attachment *attachment)
{
    return json_pack("{s:s, s:I, s:s, s:b, s:b, s:I, s:b, s:s, s:s}", "node", attachment->node_id, "epoch",
                     (json_int_t)attachment->epoch, "access_mode", access_mode_name(attachment->access_mode),
                     "readonly", attachment->readonly, "removing", attachment->removing, "generation",
                     (json_int_t)attachment->generation, "write_through", attachment->write_through, "secret",
                     attachment->secret, "generation_secret", attachment->generation_secret);
}

static json_t *attachments_to_json(const struct volume_record *record)
{
    _cleanup_json_ json_t *array = json_array();

    for (size_t i = 0; i < record->attachments_count; i++) {
        if (json_array_append_new(array, attachment_to_json(&record->attachments[i])) < 0)
            return NULL;
    }
    return json_incref(array);
}

static json_t *parameters_to_json(const struct volume_record *record)
{
    _cleanup_json_ json_t *object = json_object();

    for (size_t i = 0; i < record->parameters_count; i++) {
        const struct volume_parameter *parameter = &record->parameters[i];

        if (json_object_set_new(object, parameter->key, json_string(parameter->value)) < 0)
            return NULL;
    }
    return json_incref(object);
}

static bool limits_set(const struct volume_limits *limits)
{
    return limits->iops != 0 || limits->bytes_per_s != 0 || limits->burst_s != 0;
}

int volume_record_format(const struct volume_record *record)
{
    for (size_t i = 0; i < record->attachments_count; i++) {
        if (record->attachments[i].write_through)
            return 2;
    }
    return limits_set(&record->limits) || record->source_id[0] != '\0' ? 2 : 1;
}

/* What only some volumes have. */
static int optional_to_json(const struct volume_record *record, json_t *object)
{
    const struct volume_limits *limits = &record->limits;

    if (limits_set(limits) &&
        json_object_set_new(object, "limits",
                            json_pack("{s:I, s:I, s:I}", "iops", (json_int_t)limits->iops, "bytes_per_s",
                                      (json_int_t)limits->bytes_per_s, "burst_s",
                                      (json_int_t)limits->burst_s)) < 0)
        return -ENOMEM;
    if (record->source_id[0] != '\0' &&
        json_object_set_new(object, "source_id", json_string(record->source_id)) < 0)
        return -ENOMEM;
    return 0;
}

int volume_record_to_json(const struct volume_record *record, json_t **ret_object)
{
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:i, s:b, s:I, s:I, s:I, s:s, s:I, s:I, s:b, s:o, s:o}", "id", record->id, "name",
        record->name, "size_bytes", (json_int_t)record->size_bytes, "block_size_bytes",
        (int)record->block_size_bytes, "thick", record->thick, "created_unix_s",
        (json_int_t)record->created_unix_s, "record_generation", (json_int_t)record->record_generation,
        "epoch_last", (json_int_t)record->epoch_last, "content", content_names[record->content],
        "formatting_epoch", (json_int_t)record->formatting_epoch, "formatting_generation",
        (json_int_t)record->formatting_generation, "write_failed", record->write_failed, "parameters",
        parameters_to_json(record), "attachments", attachments_to_json(record));

    if (!object || optional_to_json(record, object) < 0) {
        json_decref(object);
        return -ENOMEM;
    }
    *ret_object = object;
    return 0;
}

/* ---- from JSON ---- */

static int wrong(struct error *err, const char *member, const char *words)
{
    return error_set(err, E_CORRUPT, "\"%s\" %s", member, words);
}

/* A string of at most size - 1 bytes into dst. */
static int get_text(json_t *object, const char *member, char *dst, size_t size, struct error *err)
{
    const char *text;
    int r = record_get_string(object, member, &text, err);

    if (r != E_OK)
        return r;
    return str_copy(dst, size, text) ? E_OK : wrong(err, member, "is too long");
}

static int get_choice(json_t *object, const char *member, const char *const *names, size_t count,
                      unsigned *ret, struct error *err)
{
    const char *text;
    int r = record_get_string(object, member, &text, err);

    if (r != E_OK)
        return r;
    for (size_t i = 0; i < count; i++) {
        if (str_equal(names[i], text)) {
            *ret = (unsigned)i;
            return E_OK;
        }
    }
    return wrong(err, member, "has a value that this build does not know");
}

static int get_secret(json_t *object, const char *member, bool needed, char ret[ID_SECRET_LENGTH + 1],
                      struct error *err)
{
    int r = get_text(object, member, ret, ID_SECRET_LENGTH + 1, err);
    size_t length = r == E_OK ? strspn(ret, "0123456789abcdef") : 0;

    if (r != E_OK)
        return r;
    if (ret[length] != '\0' || length != (needed ? ID_SECRET_LENGTH : 0))
        return wrong(err, member, needed ? "is not 32 hex digits" : "is set, though nothing was granted");
    return E_OK;
}

static int attachment_from_json(json_t *object, struct attachment *ret, struct error *err)
{
    unsigned mode = ACCESS_UNKNOWN;
    int r;

    if (!json_is_object(object))
        return wrong(err, "attachments", "has an item that is not an object");
    if ((r = get_text(object, "node", ret->node_id, sizeof(ret->node_id), err)) != E_OK ||
        (r = record_get_uint64(object, "epoch", &ret->epoch, err)) != E_OK ||
        (r = get_choice(object, "access_mode", mode_names, MODES_COUNT, &mode, err)) != E_OK ||
        (r = record_get_bool(object, "readonly", &ret->readonly, err)) != E_OK ||
        (r = record_get_bool(object, "removing", &ret->removing, err)) != E_OK ||
        (r = record_get_uint64(object, "generation", &ret->generation, err)) != E_OK ||
        (r = record_get_optional_bool(object, "write_through", &ret->write_through, err)) != E_OK ||
        (r = get_secret(object, "secret", true, ret->secret, err)) != E_OK ||
        (r = get_secret(object, "generation_secret", ret->generation > 0, ret->generation_secret, err)) !=
            E_OK)
        return r;
    if (!id_node_valid(ret->node_id))
        return wrong(err, "node", "is not a node id");
    if (mode == ACCESS_UNKNOWN)
        return wrong(err, "access_mode", "is not one that an attachment can have");
    ret->access_mode = (enum access_mode)mode;
    return E_OK;
}

static int attachment_check(struct volume_record *record, const struct attachment *attachment,
                            struct error *err)
{
    if (attachment->epoch == 0 || attachment->epoch > record->epoch_last)
        return wrong(err, "epoch", "of an attachment is not between 1 and \"epoch_last\"");
    if (volume_record_attachment(record, attachment->node_id))
        return wrong(err, "attachments", "has one node twice");
    if (volume_record_epoch(record, attachment->epoch))
        return wrong(err, "attachments", "has one epoch twice");
    return E_OK;
}

static int attachments_from_json(json_t *object, struct volume_record *record, struct error *err)
{
    json_t *array = NULL;
    size_t count;
    int r = record_get_array(object, "attachments", &array, err);

    if (r != E_OK)
        return r;
    count = json_array_size(array);
    if (count > VOLUME_ATTACHMENTS_MAX)
        return wrong(err, "attachments", "has more items than a volume can have");
    if (count == 0)
        return E_OK;
    record->attachments = calloc(count, sizeof(*record->attachments));
    if (!record->attachments)
        return error_errno(err, ENOMEM, "cannot read a record");
    for (size_t i = 0; i < count; i++) {
        struct attachment *attachment = &record->attachments[i];

        r = attachment_from_json(json_array_get(array, i), attachment, err);
        if (r == E_OK)
            r = attachment_check(record, attachment, err);
        if (r != E_OK)
            return r;
        record->attachments_count = i + 1; /* only what was checked is compared with */
    }
    return E_OK;
}

static int parameter_compare(const void *a, const void *b)
{
    return strcmp(((const struct volume_parameter *)a)->key, ((const struct volume_parameter *)b)->key);
}

static int parameters_from_json(json_t *object, struct volume_record *record, struct error *err)
{
    json_t *parameters = json_object_get(object, "parameters"), *value;
    const char *key;

    if (!json_is_object(parameters))
        return wrong(err, "parameters", "is missing or not an object");
    if (json_object_size(parameters) > VOLUME_PARAMETERS_MAX)
        return wrong(err, "parameters", "has more members than a volume can have");
    if (json_object_size(parameters) == 0)
        return E_OK;
    record->parameters = calloc(json_object_size(parameters), sizeof(*record->parameters));
    if (!record->parameters)
        return error_errno(err, ENOMEM, "cannot read a record");
    json_object_foreach(parameters, key, value)
    {
        struct volume_parameter *parameter = &record->parameters[record->parameters_count];

        if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
            return wrong(err, "parameters", "has a value that is not a string");
        record->parameters_count++;
        parameter->key = strdup(key);
        parameter->value = strdup(json_string_value(value));
        if (!parameter->key || !parameter->value)
            return error_errno(err, ENOMEM, "cannot read a record");
    }
    qsort(record->parameters, record->parameters_count, sizeof(*record->parameters), parameter_compare);
    return E_OK;
}

static int members_from_json(json_t *object, struct volume_record *record, struct error *err)
{
    uint64_t block_size_bytes = 0, created = 0;
    unsigned content = 0;
    int r;

    if ((r = get_text(object, "id", record->id, sizeof(record->id), err)) != E_OK ||
        (r = get_text(object, "name", record->name, sizeof(record->name), err)) != E_OK ||
        (r = record_get_uint64(object, "size_bytes", &record->size_bytes, err)) != E_OK ||
        (r = record_get_uint64(object, "block_size_bytes", &block_size_bytes, err)) != E_OK ||
        (r = record_get_bool(object, "thick", &record->thick, err)) != E_OK ||
        (r = record_get_uint64(object, "created_unix_s", &created, err)) != E_OK ||
        (r = record_get_uint64(object, "record_generation", &record->record_generation, err)) != E_OK ||
        (r = record_get_uint64(object, "epoch_last", &record->epoch_last, err)) != E_OK ||
        (r = get_choice(object, "content", content_names, 3, &content, err)) != E_OK ||
        (r = record_get_uint64(object, "formatting_epoch", &record->formatting_epoch, err)) != E_OK ||
        (r = record_get_uint64(object, "formatting_generation", &record->formatting_generation, err)) !=
            E_OK ||
        (r = record_get_bool(object, "write_failed", &record->write_failed, err)) != E_OK)
        return r;
    if (block_size_bytes != 512 && block_size_bytes != 4096)
        return wrong(err, "block_size_bytes", "is neither 512 nor 4096");
    record->block_size_bytes = (uint32_t)block_size_bytes;
    record->created_unix_s = (int64_t)created;
    record->content = (enum volume_content)content;
    return E_OK;
}

static int limits_from_json(json_t *object, struct volume_limits *ret, struct error *err)
{
    json_t *limits = json_object_get(object, "limits");
    uint64_t burst_s = 0;
    int r;

    if (!limits)
        return E_OK;
    if (!json_is_object(limits))
        return wrong(err, "limits", "is not an object");
    if ((r = record_get_uint64(limits, "iops", &ret->iops, err)) != E_OK ||
        (r = record_get_uint64(limits, "bytes_per_s", &ret->bytes_per_s, err)) != E_OK ||
        (r = record_get_uint64(limits, "burst_s", &burst_s, err)) != E_OK)
        return r;
    if (burst_s > UINT32_MAX)
        return wrong(err, "burst_s", "is too large");
    ret->burst_s = (uint32_t)burst_s;
    return E_OK;
}

static int source_from_json(json_t *object, char ret_id[ID_SNAPSHOT_MAX + 1], struct error *err)
{
    int r = json_object_get(object, "source_id")
                ? get_text(object, "source_id", ret_id, ID_SNAPSHOT_MAX + 1, err)
                : E_OK;

    if (r == E_OK && ret_id[0] != '\0' && !id_volume_valid(ret_id) && !id_snapshot_valid(ret_id))
        return wrong(err, "source_id", "is neither a volume id nor a snapshot id");
    return r;
}

static int members_check(const struct volume_record *record, struct error *err)
{
    if (!id_volume_valid(record->id))
        return wrong(err, "id", "is not a volume id");
    if (record->name[0] == '\0')
        return wrong(err, "name", "is empty");
    if (record->size_bytes == 0 || record->size_bytes % record->block_size_bytes != 0)
        return wrong(err, "size_bytes", "is 0 or no multiple of \"block_size_bytes\"");
    if (record->formatting_epoch > record->epoch_last)
        return wrong(err, "formatting_epoch", "is above \"epoch_last\"");
    if (record->content == VOLUME_FORMATTING &&
        (record->formatting_epoch == 0 || record->formatting_generation == 0))
        return wrong(err, "formatting_epoch", "or its generation is 0, though the content is \"formatting\"");
    return E_OK;
}

int volume_record_from_json(json_t *object, struct volume_record *ret_record, struct error *err)
{
    struct volume_record record = {0};
    int r;

    r = members_from_json(object, &record, err);
    if (r == E_OK)
        r = limits_from_json(object, &record.limits, err);
    if (r == E_OK)
        r = source_from_json(object, record.source_id, err);
    if (r == E_OK)
        r = members_check(&record, err);
    if (r == E_OK)
        r = attachments_from_json(object, &record, err);
    if (r == E_OK)
        r = parameters_from_json(object, &record, err);
    if (r != E_OK) {
        volume_record_done(&record);
        return r;
    }
    *ret_record = record;
    return E_OK;
}
