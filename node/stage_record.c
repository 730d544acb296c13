/* stage.json: reading, writing, listing. Called with the volume's lock held, except for the listing. */
#include "node/stage_record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "common/strings.h"

void stage_record_done(struct stage_record *record)
{
    for (size_t i = 0; i < record->publishes_count; i++)
        free(record->publishes[i].target_path);
    free(record->publishes);
    free(record->staging_path);
    free(record->fs_type);
    free(record->mount_options);
    *record = (struct stage_record){0};
}

char *stage_record_path(const char *state_dir, const char *volume_id, const char *name)
{
    return name ? str_format("%s/volumes/%s/%s", state_dir, volume_id, name)
                : str_format("%s/volumes/%s", state_dir, volume_id);
}

static int stage_record_open_dir(const char *state_dir, const char *volume_id, int *ret_fd, struct error *err)
{
    _cleanup_free_ char *path = stage_record_path(state_dir, volume_id, NULL);

    if (!path)
        return error_errno(err, ENOMEM, "cannot open the folder of volume %s", volume_id);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return error_set(err, E_NOT_FOUND, "volume %s is not staged on this node", volume_id);
    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", path);
    *ret_fd = fd;
    return 0;
}

bool stage_record_has_path(const struct stage_record *record, const char *path)
{
    bool found = str_equal(record->staging_path, path);

    for (size_t i = 0; !found && i < record->publishes_count; i++)
        found = str_equal(record->publishes[i].target_path, path);
    return found;
}

int stage_record_add_publish(struct stage_record *record, const char *target_path, bool readonly)
{
    if (record->publishes_count == STAGE_PUBLISHES_MAX)
        return E_EXHAUSTED;
    size_t size = (record->publishes_count + 1) * sizeof(*record->publishes);
    struct stage_publish *grown = realloc(record->publishes, size);
    if (!grown)
        return -ENOMEM;
    record->publishes = grown;
    char *path = strdup(target_path);
    if (!path)
        return -ENOMEM;
    record->publishes[record->publishes_count++] = (struct stage_publish){path, readonly};
    return 0;
}

void stage_record_remove_publish(struct stage_record *record, const char *target_path)
{
    for (size_t i = 0; i < record->publishes_count; i++) {
        if (!str_equal(record->publishes[i].target_path, target_path))
            continue;
        free(record->publishes[i].target_path);
        record->publishes[i] = record->publishes[--record->publishes_count];
        return;
    }
}

/* ---- JSON ---- */

static int stage_record_read_publishes(json_t *array, struct stage_record *record, struct error *err)
{
    json_t *item;
    size_t i;

    json_array_foreach(array, i, item)
    {
        const char *path;
        bool readonly = false;
        int r = record_get_string(item, "target_path", &path, err);
        if (!r)
            r = record_get_bool(item, "readonly", &readonly, err);
        if (!r && stage_record_add_publish(record, path, readonly))
            r = error_set(err, E_CORRUPT, "stage.json: more than %d publishes", STAGE_PUBLISHES_MAX);
        if (r)
            return r;
    }
    return 0;
}

/* What records of before these members stand for. */
static int stage_record_read_attach(json_t *object, struct stage_record *record, struct error *err)
{
    const char *attach = "fuse";
    int r;

    record->sessions = 1;
    if ((r = record_get_optional_string(object, "attach", &attach, err)) ||
        (r = record_get_optional_uint64(object, "path_timeout_ms", &record->path_timeout_ms, err)) ||
        (r = record_get_optional_uint64(object, "lease_ms", &record->lease_ms, err)) ||
        (r = record_get_optional_uint64(object, "access_mode", &record->access_mode, err)) ||
        (r = record_get_optional_uint64(object, "sessions", &record->sessions, err)))
        return r;
    if (!str_copy(record->attach, sizeof(record->attach), attach))
        return error_set(err, E_CORRUPT, "stage.json: attach \"%s\" is of no way that this build knows",
                         attach);
    return 0;
}

static int stage_record_read(json_t *object, struct stage_record *record, struct error *err)
{
    const char *id, *boot_id, *staging, *fs_type, *options;
    json_t *publishes;
    int r;

    if ((r = record_get_string(object, "volume_id", &id, err)) ||
        (r = record_get_string(object, "boot_id", &boot_id, err)) ||
        (r = record_get_uint64(object, "epoch", &record->epoch, err)) ||
        (r = record_get_bool(object, "block", &record->block, err)) ||
        (r = record_get_bool(object, "readonly", &record->readonly, err)) ||
        (r = record_get_bool(object, "single", &record->single, err)) ||
        (r = record_get_bool(object, "complete", &record->complete, err)) ||
        (r = record_get_string(object, "staging_path", &staging, err)) ||
        (r = record_get_string(object, "fs_type", &fs_type, err)) ||
        (r = record_get_string(object, "mount_options", &options, err)) ||
        (r = record_get_array(object, "publishes", &publishes, err)))
        return r;
    if (!id_volume_valid(id) || !str_copy(record->volume_id, sizeof(record->volume_id), id) ||
        !str_copy(record->boot_id, sizeof(record->boot_id), boot_id))
        return error_set(err, E_CORRUPT, "stage.json: volume_id or boot_id is not one");
    if ((r = stage_record_read_attach(object, record, err)))
        return r;
    record->staging_path = strdup(staging);
    record->fs_type = strdup(fs_type);
    record->mount_options = strdup(options);
    if (!record->staging_path || !record->fs_type || !record->mount_options)
        return error_errno(err, ENOMEM, "cannot keep stage.json");
    return stage_record_read_publishes(publishes, record, err);
}

int stage_record_load(const char *state_dir, const char *volume_id, struct stage_record *ret,
                      struct error *err)
{
    _cleanup_fd_ int dir_fd = -1;
    _cleanup_json_ json_t *object = NULL;
    struct stage_record record = {0};

    int r = stage_record_open_dir(state_dir, volume_id, &dir_fd, err);
    if (r)
        return r;
    r = record_load(dir_fd, "stage.json", STAGE_RECORD_FORMAT, &object, err);
    if (r)
        return r;
    r = stage_record_read(object, &record, err);
    if (r) {
        stage_record_done(&record);
        return error_wrap(err, "volume %s", volume_id);
    }
    *ret = record;
    return 0;
}

int stage_record_save(const char *state_dir, const struct stage_record *record, struct error *err)
{
    _cleanup_free_ char *path = stage_record_path(state_dir, record->volume_id, NULL);
    _cleanup_json_ json_t *object = NULL;
    _cleanup_fd_ int dir_fd = -1;
    json_t *publishes = json_array();

    if (!path || !publishes)
        return error_errno(err, ENOMEM, "cannot keep volume %s", record->volume_id);
    for (size_t i = 0; i < record->publishes_count; i++)
        json_array_append_new(publishes,
                              json_pack("{s:s, s:b}", "target_path", record->publishes[i].target_path,
                                        "readonly", record->publishes[i].readonly));
    object = json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:I, s:b, s:b, s:b, s:I, s:b, s:s, s:s, s:s, s:o}",
                       "volume_id", record->volume_id, "attach", record->attach, "path_timeout_ms",
                       (json_int_t)record->path_timeout_ms, "lease_ms", (json_int_t)record->lease_ms,
                       "sessions", (json_int_t)record->sessions, "boot_id", record->boot_id, "epoch",
                       (json_int_t)record->epoch, "block", record->block, "readonly", record->readonly,
                       "single", record->single, "access_mode", (json_int_t)record->access_mode, "complete",
                       record->complete, "staging_path", record->staging_path, "fs_type", record->fs_type,
                       "mount_options", record->mount_options, "publishes", publishes);
    if (!object)
        return error_set(err, E_INVALID_ARGUMENT, "volume %s: a path or option is not UTF-8",
                         record->volume_id);
    int r = io_make_dirs(path, 0700, err);
    if (!r)
        r = stage_record_open_dir(state_dir, record->volume_id, &dir_fd, err);
    return r ? r : record_save(dir_fd, "stage.json", STAGE_RECORD_FORMAT, object, 0600, err);
}

/* ---- removing and listing ---- */

/* Everything below dir_fd but `keep`; one level of folders (device/, and the empty mount point in it). */
static int stage_record_empty_dir(int dir_fd, const char *keep, unsigned depth, struct error *err)
{
    int list_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_dir_ DIR *dir = list_fd < 0 ? NULL : fdopendir(list_fd);
    struct dirent *entry;

    if (!dir)
        return error_errno(err, errno, "cannot list a volume's folder");
    while ((entry = readdir(dir))) {
        const char *name = entry->d_name;
        if (str_equal(name, ".") || str_equal(name, "..") || (keep && str_equal(name, keep)))
            continue;
        if (unlinkat(dir_fd, name, 0) == 0)
            continue;
        if (errno != EISDIR && errno != EPERM)
            return error_errno(err, errno, "cannot remove %s from a volume's folder", name);
        _cleanup_fd_ int child_fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (child_fd >= 0 && depth) {
            int r = stage_record_empty_dir(child_fd, NULL, depth - 1, err);
            if (r)
                return r;
        }
        if (unlinkat(dir_fd, name, AT_REMOVEDIR) < 0)
            return error_errno(err, errno, "cannot remove the folder %s of a volume (is it a mount?)", name);
    }
    return 0;
}

int stage_record_remove(const char *state_dir, const char *volume_id, struct error *err)
{
    _cleanup_free_ char *path = stage_record_path(state_dir, volume_id, NULL);
    _cleanup_fd_ int dir_fd = -1;

    int r = stage_record_open_dir(state_dir, volume_id, &dir_fd, NULL);
    if (r == E_NOT_FOUND)
        return 0;
    if (r || !path)
        return error_set(err, r ? r : -ENOMEM, "cannot open the folder of volume %s", volume_id);
    r = stage_record_empty_dir(dir_fd, "stage.json", 2, err);
    if (!r)
        r = io_remove_file(dir_fd, "stage.json", err);
    if (r)
        return error_wrap(err, "volume %s", volume_id);
    if (rmdir(path) < 0 && errno != ENOENT)
        return error_errno(err, errno, "cannot remove %s", path);
    return 0;
}

int stage_record_each(const char *state_dir, void (*visit)(const char *volume_id, void *context),
                      void *context, struct error *err)
{
    _cleanup_free_ char *path = str_format("%s/volumes", state_dir);
    struct dirent *entry;

    if (!path)
        return error_errno(err, ENOMEM, "cannot list %s", state_dir);
    _cleanup_dir_ DIR *dir = opendir(path);
    if (!dir)
        return error_errno(err, errno, "cannot list %s", path);
    while ((entry = readdir(dir))) {
        if (id_volume_valid(entry->d_name))
            visit(entry->d_name, context);
    }
    return 0;
}
