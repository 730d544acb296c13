/*
 * Durable JSON records: what the store, the node and the device keep about themselves. Each is one object in
 * one file with a member "format": its version. A newer one is refused (E_CORRUPT), never guessed. Written by
 * io_replace_file(): all or nothing. The typed getters refuse a member that is missing or of the wrong type
 * (E_CORRUPT), naming it; the caller, who knows the file, puts its name before that by error_wrap().
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

/* Read dir_fd/name. E_NOT_FOUND when absent; E_CORRUPT when it does not parse, or "format" is above format.
 */
int record_load(int dir_fd, const char *name, int format, json_t **ret_object, struct error *err);

/* Add "format" and replace dir_fd/name durably. object is borrowed. Mode 0600 where it holds secrets. */
int record_save(int dir_fd, const char *name, int format, json_t *object, mode_t mode, struct error *err);

/* What record_save() writes, NUL-terminated for nobody: *ret_length bytes. The caller frees; NULL when memory
 * ran out. */
char *record_text(json_t *object, int format, size_t *ret_length);

/* Members. The string is borrowed from the object. Optional ones leave *ret as it is when the member is
 * absent. */
int record_get_string(json_t *object, const char *member, const char **ret, struct error *err);
int record_get_uint64(json_t *object, const char *member, uint64_t *ret, struct error *err);
int record_get_bool(json_t *object, const char *member, bool *ret, struct error *err);
int record_get_array(json_t *object, const char *member, json_t **ret, struct error *err);
int record_get_optional_string(json_t *object, const char *member, const char **ret, struct error *err);
int record_get_optional_uint64(json_t *object, const char *member, uint64_t *ret, struct error *err);
int record_get_optional_bool(json_t *object, const char *member, bool *ret, struct error *err);

static inline void cleanup_json(json_t **object)
{
    json_decref(*object);
}

#define _cleanup_json_ __attribute__((cleanup(cleanup_json)))
