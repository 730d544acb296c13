/*
 * Small records on disk: nodes/<id>.json and names/[snapshot-|group-]<sha256 of the name>.json (a name may
 * hold any character and be longer, escaped, than a file's name can be). Each is replaced all or nothing.
 * Blocks; one change of one record at a time (the store's locks).
 *
 * The claim of a volume's name is of format 1, as it was before there were other kinds.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"

#define NAME_RECORD_FORMAT_VOLUME 1
#define NAME_RECORD_FORMAT 2
#define RECORD_FILE_MAX 256
#define SUFFIX ".json"

/* ---- load ---- */

struct loading {
    struct backend *backend;
    int dir_fd;
    int format;
    const char *what;
    int (*file_of)(json_t *object, char ret_file[RECORD_FILE_MAX], struct error *err);
    pool_visit visit;
    void *context;
};

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);

    return length >= end_length && str_equal(text + length - end_length, end);
}

static int load_file(struct loading *loading, const char *file, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    char expected[RECORD_FILE_MAX];
    int r;

    r = record_load(loading->dir_fd, file, loading->format, &object, err);
    if (r == E_OK)
        r = loading->file_of(object, expected, err);
    if (r == E_OK && !str_equal(expected, file))
        r = error_set(err, E_CORRUPT, "the record belongs to a file of another name");
    return r == E_OK ? loading->visit(object, loading->context, err) : r;
}

static int load_entry(const char *file, void *context, struct error *err)
{
    struct loading *loading = context;
    int r;

    if (file[0] == '.' && ends_with(file, ".tmp")) {
        if (unlinkat(loading->dir_fd, file, 0) < 0 && errno != ENOENT)
            return pool_errno(err, errno, "remove half-made", file);
        return E_OK;
    }
    if (!ends_with(file, SUFFIX)) {
        log_warning("pool %s: %s/%s is not a record of Mooring: left alone", loading->backend->path,
                    loading->what, file);
        return E_OK;
    }
    r = load_file(loading, file, err);
    if (r != E_OK)
        error_wrap(err, "pool %s, record %s/%s", loading->backend->path, loading->what, file);
    return r;
}

/* ---- nodes ---- */

static int node_file_of(json_t *object, char ret_file[RECORD_FILE_MAX], struct error *err)
{
    const char *id = NULL;
    int r = record_get_string(object, "id", &id, err);

    if (r == E_OK)
        snprintf(ret_file, RECORD_FILE_MAX, "%.*s" SUFFIX, ID_NODE_MAX, id);
    return r;
}

int pool_load_nodes(struct backend *backend, pool_visit visit, void *context, struct error *err)
{
    struct loading loading = {.backend = backend,
                              .dir_fd = backend->nodes_fd,
                              .format = NODE_RECORD_FORMAT,
                              .what = "nodes",
                              .file_of = node_file_of,
                              .visit = visit,
                              .context = context};

    return pool_walk(loading.dir_fd, load_entry, &loading, err);
}

static int node_save_once(struct backend *backend, void *context, struct error *err)
{
    const struct node_record *record = context;
    _cleanup_json_ json_t *object = NULL;
    char file[RECORD_FILE_MAX];
    int r = node_record_to_json(record, &object);

    if (r < 0)
        return error_errno(err, -r, "cannot write the record of node %s", record->id);
    snprintf(file, sizeof(file), "%s" SUFFIX, record->id);
    return pool_record_save(backend->nodes_fd, file, NODE_RECORD_FORMAT, object, err);
}

int pool_node_save(struct backend *backend, const struct node_record *record, struct error *err)
{
    return pool_with_ballast(backend, node_save_once, (void *)(uintptr_t)record, err);
}

/* ---- names ---- */

static const char *const kind_words[] = {
    [NAME_VOLUME] = "volume", [NAME_SNAPSHOT] = "snapshot", [NAME_GROUP] = "group"};

static int name_file(enum name_kind kind, const char *name, char ret_file[RECORD_FILE_MAX], struct error *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    int at = 0;

    if (!EVP_Digest(name, strlen(name), digest, &length, EVP_sha256(), NULL))
        return error_errno(err, ENOMEM, "cannot hash a name");
    if (kind != NAME_VOLUME)
        at = snprintf(ret_file, RECORD_FILE_MAX, "%s-", kind_words[kind]);
    for (unsigned i = 0; i < length; i++)
        snprintf(ret_file + at + 2 * i, 3, "%02x", digest[i]);
    snprintf(ret_file + at + 2 * (size_t)length, sizeof(SUFFIX), SUFFIX);
    return E_OK;
}

static int name_kind_of(json_t *object, enum name_kind *ret, struct error *err)
{
    const char *word = kind_words[NAME_VOLUME];
    int r = record_get_optional_string(object, "kind", &word, err);

    if (r != E_OK)
        return r;
    for (size_t i = 0; i < ARRAY_SIZE(kind_words); i++) {
        if (str_equal(word, kind_words[i])) {
            *ret = (enum name_kind)i;
            return E_OK;
        }
    }
    return error_set(err, E_CORRUPT, "\"kind\" has a value that this build does not know");
}

static int name_file_of(json_t *object, char ret_file[RECORD_FILE_MAX], struct error *err)
{
    enum name_kind kind = NAME_VOLUME;
    const char *name = NULL;
    int r = record_get_string(object, "name", &name, err);

    if (r == E_OK)
        r = name_kind_of(object, &kind, err);
    return r == E_OK ? name_file(kind, name, ret_file, err) : r;
}

/* What load_names() is to hand on, whatever the format. */
struct name_visit {
    pool_visit visit;
    void *context;
};

static int name_visit(json_t *object, void *context, struct error *err)
{
    const struct name_visit *to = context;
    const char *name = NULL, *holder_id = NULL;
    enum name_kind kind = NAME_VOLUME;
    _cleanup_json_ json_t *claim = NULL;
    int r;

    if ((r = record_get_string(object, "name", &name, err)) != E_OK ||
        (r = name_kind_of(object, &kind, err)) != E_OK ||
        (r = record_get_string(object, kind == NAME_VOLUME ? "volume_id" : "holder_id", &holder_id, err)) !=
            E_OK)
        return r;
    claim = json_pack("{s:i, s:s, s:s}", "kind", (int)kind, "name", name, "holder_id", holder_id);
    if (!claim)
        return error_errno(err, ENOMEM, "cannot read the claim of name %s", name);
    return to->visit(claim, to->context, err);
}

int pool_load_names(struct backend *backend, pool_visit visit, void *context, struct error *err)
{
    struct name_visit to = {visit, context};
    struct loading loading = {.backend = backend,
                              .dir_fd = backend->names_fd,
                              .format = NAME_RECORD_FORMAT,
                              .what = "names",
                              .file_of = name_file_of,
                              .visit = name_visit,
                              .context = &to};

    return pool_walk(loading.dir_fd, load_entry, &loading, err);
}

static json_t *name_to_json(enum name_kind kind, const char *name, const char *holder_id)
{
    if (kind == NAME_VOLUME)
        return json_pack("{s:s, s:s}", "name", name, "volume_id", holder_id);
    return json_pack("{s:s, s:s, s:s}", "kind", kind_words[kind], "name", name, "holder_id", holder_id);
}

int pool_name_save(struct backend *backend, enum name_kind kind, const char *name, const char *holder_id,
                   struct error *err)
{
    _cleanup_json_ json_t *object = name_to_json(kind, name, holder_id);
    int format = kind == NAME_VOLUME ? NAME_RECORD_FORMAT_VOLUME : NAME_RECORD_FORMAT;
    char file[RECORD_FILE_MAX];
    int r = name_file(kind, name, file, err);

    if (r != E_OK)
        return r;
    if (!object)
        return error_errno(err, ENOMEM, "cannot write the claim of name %s", name);
    return pool_record_save(backend->names_fd, file, format, object, err);
}

int pool_name_delete(struct backend *backend, enum name_kind kind, const char *name, struct error *err)
{
    char file[RECORD_FILE_MAX];
    int r = name_file(kind, name, file, err);

    return r == E_OK ? io_remove_file(backend->names_fd, file, err) : r;
}
