/*
 * Durable JSON records and their typed members. Owns nothing: objects belong to the caller. Called by the
 * store, the node and the device, in threads that may block.
 */
#include "common/record.h"

#include <inttypes.h>
#include <limits.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/size.h"
#include "common/strings.h"

#define RECORD_LIMIT_BYTES (16 * MIB)
#define RECORD_PATH_BYTES (PATH_MAX + NAME_MAX)

static int check_format(json_t *object, const char *path, int format, struct error *err)
{
    json_t *member = json_object_get(object, "format");
    json_int_t found;

    if (!json_is_integer(member))
        return error_set(err, E_CORRUPT,
                         "%s has no whole number as \"format\": it is not a record of Mooring", path);
    found = json_integer_value(member);
    if (found > format)
        return error_set(err, E_CORRUPT,
                         "%s has format %" JSON_INTEGER_FORMAT
                         ", newer than %d, the newest this build knows: "
                         "use the version that wrote it, or a later one",
                         path, found, format);
    if (found < 1)
        return error_set(err, E_CORRUPT, "%s has format %" JSON_INTEGER_FORMAT ", which never was one", path,
                         found);
    return E_OK;
}

int record_load(int dir_fd, const char *name, int format, json_t **ret_object, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    _cleanup_free_ char *text = NULL;
    char path[RECORD_PATH_BYTES];
    json_error_t problem;
    size_t length;
    int r;

    r = io_read_file_at(dir_fd, name, RECORD_LIMIT_BYTES, &text, &length, err);
    if (r != E_OK)
        return r;
    object = json_loadb(text, length, JSON_REJECT_DUPLICATES, &problem);
    explicit_bzero(text, length);
    if (json_is_object(object) && check_format(object, "", format, NULL) == E_OK) {
        *ret_object = TAKE_PTR(object);
        return E_OK;
    }
    io_path(dir_fd, name, path,
            sizeof(path)); /* for the words alone: it would be a large part of a store's start */
    if (!object)
        return error_set(err, E_CORRUPT, "%s does not parse: line %d: %s", path, problem.line, problem.text);
    if (!json_is_object(object))
        return error_set(err, E_CORRUPT, "%s does not hold a JSON object", path);
    return check_format(object, path, format, err);
}

/* A shallow copy of object with "format" as its first member; NULL when memory ran out. */
static json_t *with_format(json_t *object, int format)
{
    _cleanup_json_ json_t *record = json_object();

    if (!record || json_object_set_new(record, "format", json_integer(format)) < 0 ||
        json_object_update(record, object) < 0 ||
        json_object_set_new(record, "format", json_integer(format)) < 0)
        return NULL;
    return TAKE_PTR(record);
}

char *record_text(json_t *object, int format, size_t *ret_length)
{
    _cleanup_json_ json_t *record = with_format(object, format);
    char *text = record ? json_dumps(record, JSON_INDENT(2) | JSON_ENSURE_ASCII) : NULL;

    if (!text)
        return NULL;
    *ret_length = strlen(text) + 1;
    text[*ret_length - 1] = '\n'; /* in the NUL's place: the length says where it ends */
    return text;
}

int record_save(int dir_fd, const char *name, int format, json_t *object, mode_t mode, struct error *err)
{
    size_t length = 0;
    _cleanup_free_ char *text = record_text(object, format, &length);
    int r;

    if (!text)
        return error_errno(err, ENOMEM, "cannot write %s", name);
    r = io_replace_file(dir_fd, name, text, length, mode, err);
    explicit_bzero(text, length);
    return r;
}

static int wrong_member(struct error *err, const char *member, json_t *value, const char *expected)
{
    if (!value)
        return error_set(err, E_CORRUPT, "\"%s\" is missing: %s is needed", member, expected);
    return error_set(err, E_CORRUPT, "\"%s\" is not %s", member, expected);
}

int record_get_string(json_t *object, const char *member, const char **ret, struct error *err)
{
    json_t *value = json_object_get(object, member);

    /* A NUL within would be cut off by every reader of a C string. */
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
        return wrong_member(err, member, value, "a string without NUL");
    *ret = json_string_value(value);
    return E_OK;
}

int record_get_uint64(json_t *object, const char *member, uint64_t *ret, struct error *err)
{
    json_t *value = json_object_get(object, member);

    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return wrong_member(err, member, value, "a whole number from 0");
    *ret = (uint64_t)json_integer_value(value);
    return E_OK;
}

int record_get_bool(json_t *object, const char *member, bool *ret, struct error *err)
{
    json_t *value = json_object_get(object, member);

    if (!json_is_boolean(value))
        return wrong_member(err, member, value, "true or false");
    *ret = json_is_true(value);
    return E_OK;
}

int record_get_array(json_t *object, const char *member, json_t **ret, struct error *err)
{
    json_t *value = json_object_get(object, member);

    if (!json_is_array(value))
        return wrong_member(err, member, value, "an array");
    *ret = value;
    return E_OK;
}

int record_get_optional_string(json_t *object, const char *member, const char **ret, struct error *err)
{
    return json_object_get(object, member) ? record_get_string(object, member, ret, err) : E_OK;
}

int record_get_optional_uint64(json_t *object, const char *member, uint64_t *ret, struct error *err)
{
    return json_object_get(object, member) ? record_get_uint64(object, member, ret, err) : E_OK;
}

int record_get_optional_bool(json_t *object, const char *member, bool *ret, struct error *err)
{
    return json_object_get(object, member) ? record_get_bool(object, member, ret, err) : E_OK;
}
