/*
 * Configuration files: JSON, each key checked against the program's table. Owns nothing: the object is the
 * caller's, and strings point into it. Called by main() before threads start.
 */
#include "common/config.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "common/size.h"
#include "common/strings.h"

#define CONFIG_LIMIT_BYTES MIB

int config_load(const char *path, json_t **ret_object, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    _cleanup_free_ char *text = NULL;
    json_error_t problem;
    size_t length;
    int r;

    r = io_read_file(path, CONFIG_LIMIT_BYTES, &text, &length, err);
    if (r != E_OK)
        return r;
    object = json_loadb(text, length, JSON_REJECT_DUPLICATES, &problem);
    if (!object)
        return error_set(err, E_INVALID_ARGUMENT, "%s:%d:%d: not JSON: %s", path, problem.line,
                         problem.column, problem.text);
    if (!json_is_object(object))
        return error_set(err, E_INVALID_ARGUMENT, "%s: the whole is not a JSON object in { }", path);
    *ret_object = TAKE_PTR(object);
    return E_OK;
}

static const struct config_key *find_key(const char *name, const struct config_key *keys, size_t keys_count)
{
    for (size_t i = 0; i < keys_count; i++) {
        if (str_equal(keys[i].name, name))
            return &keys[i];
    }
    return NULL;
}

static int unknown_key(const char *where, const char *name, const struct config_key *keys, size_t keys_count,
                       struct error *err)
{
    char known[512] = "";
    size_t used = 0;

    for (size_t i = 0; i < keys_count && used < sizeof(known); i++)
        used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "", keys[i].name);
    return error_set(err, E_INVALID_ARGUMENT, "%s: unknown key \"%s\"; the keys here are: %s", where, name,
                     known);
}

static int check_uint(json_t *value, const char *where, const struct config_key *key, struct error *err)
{
    json_int_t number = json_integer_value(value);
    uint64_t max = key->max > 0 ? key->max : INT64_MAX;

    if (json_is_integer(value) && number >= 0 && (uint64_t)number >= key->min && (uint64_t)number <= max)
        return E_OK;
    return error_set(err, E_INVALID_ARGUMENT,
                     "%s: \"%s\" must be a whole number from %" PRIu64 " to %" PRIu64, where, key->name,
                     key->min, max);
}

static bool is_text(json_t *value)
{
    return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}

static int check_value(json_t *value, const char *where, const struct config_key *key, struct error *err)
{
    const char *expected = NULL;
    bool fits = false;

    switch (key->type) {
    case CONFIG_UINT:
        return check_uint(value, where, key, err);
    case CONFIG_STRING:
        fits = is_text(value);
        expected = "a string";
        break;
    case CONFIG_BOOL:
        fits = json_is_boolean(value);
        expected = "true or false";
        break;
    case CONFIG_OBJECT:
        fits = json_is_object(value);
        expected = "an object in { }";
        break;
    case CONFIG_ARRAY:
        fits = json_is_array(value);
        expected = "an array in [ ]";
        break;
    }
    if (fits)
        return E_OK;
    return error_set(err, E_INVALID_ARGUMENT, "%s: \"%s\" must be %s", where, key->name, expected);
}

static void fill_value(json_t *value, const struct config_key *key)
{
    switch (key->type) {
    case CONFIG_STRING:
        *(const char **)key->value = json_string_value(value);
        return;
    case CONFIG_UINT:
        *(uint64_t *)key->value = (uint64_t)json_integer_value(value);
        return;
    case CONFIG_BOOL:
        *(bool *)key->value = json_is_true(value);
        return;
    case CONFIG_OBJECT:
    case CONFIG_ARRAY:
        *(json_t **)key->value = value;
        return;
    }
}

/* All checks come before the first value is filled, so that a refused file changes nothing. */
static int check_object(json_t *object, const char *where, const struct config_key *keys, size_t keys_count,
                        struct error *err)
{
    const char *name;
    json_t *value;

    json_object_foreach(object, name, value)
    {
        const struct config_key *key = find_key(name, keys, keys_count);
        int r = key ? check_value(value, where, key, err) : unknown_key(where, name, keys, keys_count, err);

        if (r != E_OK)
            return r;
    }
    for (size_t i = 0; i < keys_count; i++) {
        if (keys[i].required && !json_object_get(object, keys[i].name))
            return error_set(err, E_INVALID_ARGUMENT, "%s: \"%s\" is missing", where, keys[i].name);
    }
    return E_OK;
}

int config_read(json_t *object, const char *where, const struct config_key *keys, size_t keys_count,
                struct error *err)
{
    int r;

    if (!json_is_object(object))
        return error_set(err, E_INVALID_ARGUMENT, "%s: must be an object in { }", where);
    r = check_object(object, where, keys, keys_count, err);
    if (r != E_OK)
        return r;
    for (size_t i = 0; i < keys_count; i++) {
        json_t *value = json_object_get(object, keys[i].name);

        if (value)
            fill_value(value, &keys[i]);
    }
    return E_OK;
}
