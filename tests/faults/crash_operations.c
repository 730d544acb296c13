/* The operations of the store whose crash points are tried: a table, and what each does. Called by
 * crash_points.c, in the process that is killed and in the one that looks. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/time.h"
#include "datapath/store/attach.h"
#include "datapath/store/content.h"
#include "datapath/store/fence.h"
#include "datapath/store/snapshot.h"
#include "datapath/store/store_internal.h"
#include "tests/faults/crash_points.h"
#include "tests/unit/store_gate.h"

#define SERVER "store-1"
#define VOLUME SERVER ".0000000000000001"
#define COPY SERVER ".0000000000000002"
#define SNAPSHOT SERVER ".s-0000000000000001"
#define GROUP "g-0000000000000001"
#define NAME "pvc-1"
#define NODE "n1"
#define BOOT "0123456789abcdef0123456789abcdef"
#define WAIT_MS 60000

/* ---- parts ---- */

static struct volume_record spec_of(const char *id)
{
    struct volume_record spec = {.size_bytes = MIB, .block_size_bytes = 4096};

    snprintf(spec.id, sizeof(spec.id), "%s", id);
    snprintf(spec.name, sizeof(spec.name), NAME);
    return spec;
}

static int create(struct store *store, bool thick, struct error *err)
{
    struct volume_record spec = spec_of(VOLUME);
    struct volume *volume = NULL;

    spec.thick = thick;
    int r = store_volume_create(store, &spec, &volume, err);
    if (volume)
        volume_unref(volume);
    return r;
}

static int edit_volume(struct store *store, volume_edit edit, struct error *err)
{
    struct volume *volume = store_volume_find(store, VOLUME);

    if (!volume)
        return error_set(err, E_NOT_FOUND, "the volume is not there");
    int r = volume_update(volume, edit, NULL, err);
    volume_unref(volume);
    return r;
}

/* What is so already needs no commit. */
static int unless(int r, int settled, struct error *err)
{
    if (r != settled)
        return r;
    error_done(err);
    return VOLUME_UNCHANGED;
}

/* With the record's generation, as who decides on it has it. */
static int with_volume(struct store *store,
                       int (*change)(struct store *store, struct volume *volume, uint64_t generation,
                                     struct error *err),
                       struct error *err)
{
    struct volume *volume = store_volume_find(store, VOLUME);
    struct volume_record record;

    if (!volume)
        return error_set(err, E_NOT_FOUND, "the volume is not there");
    int r = volume_snapshot_record(volume, &record);
    if (!r) {
        r = change(store, volume, record.record_generation, err);
        volume_record_done(&record);
    }
    volume_unref(volume);
    return r;
}

/* ---- volumes ---- */

static int run_create(struct store *store, struct error *err)
{
    return create(store, false, err);
}

static int run_create_thick(struct store *store, struct error *err)
{
    return create(store, true, err);
}

static int run_delete(struct store *store, struct error *err)
{
    return store_volume_delete(store, VOLUME, err);
}

static int expand(struct store *store, struct volume *volume, uint64_t generation, struct error *err)
{
    (void)store;
    return volume_expand(volume, 3 * MIB, generation, err);
}

static int run_expand(struct store *store, struct error *err)
{
    return with_volume(store, expand, err);
}

static int limit(struct store *store, struct volume *volume, uint64_t generation, struct error *err)
{
    const struct volume_limits limits = {.iops = 500, .burst_s = 2};

    (void)store;
    return volume_set_limits(volume, &limits, generation, err);
}

static int run_limit(struct store *store, struct error *err)
{
    return with_volume(store, limit, err);
}

static int mark_write_failed(struct store *store, struct volume *volume, uint64_t generation,
                             struct error *err)
{
    (void)store;
    (void)generation;
    return volume_write_failed(volume) ? E_OK : volume_mark_write_failed(volume, err);
}

static int run_write_failed(struct store *store, struct error *err)
{
    return with_volume(store, mark_write_failed, err);
}

static int clear_write_failed(struct volume_record *record, void *context, struct error *err)
{
    (void)context;
    (void)err;
    if (!record->write_failed)
        return VOLUME_UNCHANGED;
    record->write_failed = false;
    return E_OK;
}

static int run_clear_write_failed(struct store *store, struct error *err)
{
    return edit_volume(store, clear_write_failed, err);
}

static int mark_data(struct store *store, struct volume *volume, uint64_t generation, struct error *err)
{
    (void)store;
    (void)generation;
    return volume_mark_data(volume, 1, 0, err);
}

static int run_mark_data(struct store *store, struct error *err)
{
    return with_volume(store, mark_data, err);
}

/* ---- attachments and formats ---- */

static int attach(struct store *store, struct volume *volume, uint64_t generation, struct error *err)
{
    struct attachment attachment;

    return store_attach(store, volume, NODE, ACCESS_SINGLE_NODE_WRITER, false, generation, &attachment, err);
}

static int run_attach(struct store *store, struct error *err)
{
    return with_volume(store, attach, err);
}

static int remove_begin(struct volume_record *record, void *context, struct error *err)
{
    struct attachment *standing = volume_record_attachment(record, NODE);

    (void)context;
    return standing && standing->removing ? VOLUME_UNCHANGED : attach_remove_begin(record, NODE, 1, err);
}

static int run_remove_begin(struct store *store, struct error *err)
{
    return edit_volume(store, remove_begin, err);
}

static int remove_finish(struct volume_record *record, void *context, struct error *err)
{
    (void)context;
    return unless(attach_remove_finish(record, 1, err), E_NOT_FOUND, err);
}

static int run_remove_finish(struct store *store, struct error *err)
{
    return edit_volume(store, remove_finish, err);
}

static int grant(struct volume_record *record, void *context, struct error *err)
{
    struct attachment *attachment;

    (void)context;
    return unless(attach_grant(record, NODE, 1, 0, &attachment, err), E_STALE, err);
}

static int run_grant(struct store *store, struct error *err)
{
    return edit_volume(store, grant, err);
}

static int format_begin(struct volume_record *record, void *context, struct error *err)
{
    bool discard;

    (void)context;
    return record->content == VOLUME_FORMATTING ? VOLUME_UNCHANGED
                                                : content_format_begin(record, NODE, 1, 1, &discard, err);
}

static int run_format_begin(struct store *store, struct error *err)
{
    return edit_volume(store, format_begin, err);
}

static int format_end(struct volume_record *record, void *context, struct error *err)
{
    (void)context;
    return record->content == VOLUME_DATA ? VOLUME_UNCHANGED : content_format_end(record, NODE, 1, 1, err);
}

static int run_format_end(struct store *store, struct error *err)
{
    return edit_volume(store, format_end, err);
}

/* ---- nodes and names ---- */

static int register_node(struct node_record *record, void *context, struct error *err)
{
    bool changed = false;

    (void)context;
    int r = fence_register(record, BOOT, "192.0.2.1:7000", &changed, err);
    return r || changed ? r : VOLUME_UNCHANGED;
}

static int run_register(struct store *store, struct error *err)
{
    return store_node_update(store, NODE, register_node, NULL, err);
}

static int fence(struct node_record *record, void *context, struct error *err)
{
    (void)context;
    return record->fenced ? VOLUME_UNCHANGED : fence_set(record, "lost", NULL, 0, err);
}

static int run_fence(struct store *store, struct error *err)
{
    return store_node_update(store, NODE, fence, NULL, err);
}

static int unfence(struct node_record *record, void *context, struct error *err)
{
    (void)context;
    (void)err;
    if (!record->fenced)
        return VOLUME_UNCHANGED;
    fence_clear(record);
    return E_OK;
}

static int run_unfence(struct store *store, struct error *err)
{
    return store_node_update(store, NODE, unfence, NULL, err);
}

static int run_claim(struct store *store, struct error *err)
{
    char holder[STORE_HOLDER_MAX + 1];

    return store_name_claim(store, NAME_VOLUME, NAME, VOLUME, holder, err);
}

static int run_claim_snapshot(struct store *store, struct error *err)
{
    char holder[STORE_HOLDER_MAX + 1];

    return store_name_claim(store, NAME_SNAPSHOT, NAME, SNAPSHOT, holder, err);
}

static int run_release(struct store *store, struct error *err)
{
    return store_name_release(store, NAME_VOLUME, NAME, VOLUME, err);
}

/* ---- snapshots and copies ---- */

static int snapshot(struct store *store, const char *group_id, struct error *err)
{
    struct volume *volume = store_volume_find(store, VOLUME);
    struct snapshot_record spec = {.provisional = group_id[0] != '\0'};
    struct snapshot *made = NULL;

    snprintf(spec.id, sizeof(spec.id), SNAPSHOT);
    snprintf(spec.name, sizeof(spec.name), "%s", group_id[0] ? "" : NAME);
    snprintf(spec.group_id, sizeof(spec.group_id), "%s", group_id);
    int r = volume ? store_snapshot_create(store, volume, &spec, &made, err)
                   : error_set(err, E_NOT_FOUND, "the volume is not there");
    if (!r)
        r = snapshot_wait(made, time_now_ms() + WAIT_MS, err);
    if (made)
        snapshot_unref(made);
    if (volume)
        volume_unref(volume);
    return r;
}

static int run_snapshot(struct store *store, struct error *err)
{
    return snapshot(store, "", err);
}

static int run_snapshot_of_group(struct store *store, struct error *err)
{
    return snapshot(store, GROUP, err);
}

static const struct snapshot_record recorded = {.id = SNAPSHOT, .name = NAME};

static int run_recorded(struct store *store, struct error *err)
{
    return gate_snapshot(store, VOLUME, &recorded, err);
}

static int record_alone(struct store *store, struct error *err)
{
    return gate_record_alone(store, VOLUME, &recorded, err);
}

static int with_snapshot(struct store *store, int (*change)(struct snapshot *snapshot, struct error *err),
                         struct error *err)
{
    struct snapshot *made = store_snapshot_find(store, SNAPSHOT);

    if (!made)
        return error_set(err, E_NOT_FOUND, "the snapshot is not there");
    int r = change(made, err);
    snapshot_unref(made);
    return r;
}

static int run_held(struct store *store, struct error *err)
{
    return with_snapshot(store, snapshot_mark_held, err);
}

static int run_commit(struct store *store, struct error *err)
{
    return with_snapshot(store, snapshot_commit, err);
}

static int run_snapshot_delete(struct store *store, struct error *err)
{
    return store_snapshot_delete(store, SNAPSHOT, err);
}

static int copy_of(struct store *store, struct volume *volume, struct snapshot *source, uint64_t size_bytes,
                   struct error *err)
{
    struct volume_record spec = spec_of(COPY);
    struct copy *copy = NULL;

    spec.size_bytes = size_bytes;
    int r = volume || source ? store_copy_begin(store, &spec, volume, source, &copy, err)
                             : error_set(err, E_NOT_FOUND, "the source is not there");
    if (!r && copy)
        r = copy_wait(copy, time_now_ms() + WAIT_MS, err);
    copy_unref(copy);
    return r;
}

static int run_clone(struct store *store, struct error *err)
{
    struct volume *volume = store_volume_find(store, VOLUME);
    int r = copy_of(store, volume, NULL, MIB, err);

    if (volume)
        volume_unref(volume);
    return r;
}

static int run_restore_larger(struct store *store, struct error *err)
{
    struct snapshot *source = store_snapshot_find(store, SNAPSHOT);
    int r = copy_of(store, NULL, source, 2 * MIB, err);

    if (source)
        snapshot_unref(source);
    return r;
}

/* ---- what they begin with ---- */

static int nothing(struct store *store, struct error *err)
{
    (void)store;
    (void)err;
    return E_OK;
}

static int failed(struct store *store, struct error *err)
{
    int r = run_create(store, err);

    return r ? r : run_write_failed(store, err);
}

static int registered(struct store *store, struct error *err)
{
    int r = run_create(store, err);

    return r ? r : run_register(store, err);
}

static int attached(struct store *store, struct error *err)
{
    int r = registered(store, err);

    return r ? r : run_attach(store, err);
}

static int removing(struct store *store, struct error *err)
{
    int r = attached(store, err);

    return r ? r : run_remove_begin(store, err);
}

static int granted(struct store *store, struct error *err)
{
    int r = attached(store, err);

    return r ? r : run_grant(store, err);
}

static int formatting(struct store *store, struct error *err)
{
    int r = granted(store, err);

    return r ? r : run_format_begin(store, err);
}

static int fenced(struct store *store, struct error *err)
{
    int r = run_register(store, err);

    return r ? r : run_fence(store, err);
}

/* With some data at two places, and a hole between them. Not by the page cache: XFS gives nothing back that
 * it allocated ahead while it takes a file for dirty. */
static int written(struct store *store, struct error *err)
{
    static _Alignas(4096) char text[64 * KIB];
    char path[256];

    int r = run_create(store, err);
    if (r)
        return r;
    snprintf(path, sizeof(path), "%s/volumes/" VOLUME "/data", crash_pool_path);
    _cleanup_fd_ int fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        memset(text, 'a' + i, sizeof(text));
        if (fd < 0 || pwrite(fd, text, sizeof(text), i * (off_t)(512 * KIB)) != sizeof(text))
            return error_errno(err, errno, "cannot write to %s", path);
    }
    return fsync(fd) ? error_errno(err, errno, "cannot flush %s", path) : run_mark_data(store, err);
}

static int snapped(struct store *store, struct error *err)
{
    int r = written(store, err);

    return r ? r : run_snapshot(store, err);
}

static int lost(struct store *store, struct error *err)
{
    int r = written(store, err);

    return r ? r : record_alone(store, err);
}

static int grouped(struct store *store, struct error *err)
{
    int r = written(store, err);

    return r ? r : run_snapshot_of_group(store, err);
}

static int held(struct store *store, struct error *err)
{
    int r = grouped(store, err);

    return r ? r : run_held(store, err);
}

/* ---- litter: what operations that were cut off left, before this crash ---- */

static int put(const struct crash_pool *pool, const char *path)
{
    _cleanup_fd_ int fd = openat(pool->fd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    return fd < 0 || write(fd, "half", 4) != 4 ? -errno : 0;
}

static int half_made(const struct crash_pool *pool)
{
    static const char *const paths[] = {"trash/new." COPY "/data", "trash/new." COPY "/volume.json",
                                        "volumes/" VOLUME "/.volume.json.tmp", "nodes/." NODE ".json.tmp"};

    if (mkdirat(pool->fd, "trash/new." COPY, 0700) < 0)
        return -errno;
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        int r = put(pool, paths[i]);
        if (r)
            return r;
    }
    return 0;
}

/* ---- the table ---- */

const struct crash_operation crash_operations[] = {
    {.name = "create", .prepare = nothing, .run = run_create},
    {.name = "create-thick", .prepare = nothing, .run = run_create_thick},
    {.name = "delete", .prepare = written, .run = run_delete},
    {.name = "expand", .prepare = written, .run = run_expand},
    {.name = "expand-thick", .prepare = run_create_thick, .run = run_expand},
    {.name = "limits", .prepare = run_create, .run = run_limit},
    {.name = "mark-data", .prepare = run_create, .run = run_mark_data},
    {.name = "write-failed", .prepare = run_create, .run = run_write_failed},
    {.name = "clear-write-failed", .prepare = failed, .run = run_clear_write_failed},
    {.name = "attach", .prepare = registered, .run = run_attach},
    {.name = "detach-begin", .prepare = attached, .run = run_remove_begin},
    {.name = "detach-finish", .prepare = removing, .run = run_remove_finish},
    {.name = "grant", .prepare = attached, .run = run_grant},
    {.name = "format-begin", .prepare = granted, .run = run_format_begin},
    {.name = "format-end", .prepare = formatting, .run = run_format_end},
    {.name = "register", .prepare = nothing, .run = run_register},
    {.name = "fence", .prepare = run_register, .run = run_fence},
    {.name = "fence-unknown", .prepare = nothing, .run = run_fence},
    {.name = "unfence", .prepare = fenced, .run = run_unfence},
    {.name = "claim", .prepare = nothing, .run = run_claim},
    {.name = "claim-snapshot", .prepare = run_claim, .run = run_claim_snapshot},
    {.name = "release", .prepare = run_claim, .run = run_release},
    {.name = "snapshot", .prepare = written, .run = run_snapshot},
    {.name = "snapshot-recorded", .prepare = written, .run = run_recorded, .between = {record_alone}},
    {.name = "snapshot-of-group", .prepare = written, .run = run_snapshot_of_group},
    {.name = "group-held", .prepare = grouped, .run = run_held},
    {.name = "group-commit", .prepare = held, .run = run_commit},
    {.name = "snapshot-delete", .prepare = snapped, .run = run_snapshot_delete},
    {.name = "snapshot-lost-delete", .prepare = lost, .run = run_snapshot_delete},
    {.name = "clone", .prepare = written, .run = run_clone},
    {.name = "restore-larger", .prepare = snapped, .run = run_restore_larger},
    {.name = "open", .prepare = snapped, .run = nothing, .litter = half_made, .opening = true},
};
const size_t crash_operations_count = ARRAY_SIZE(crash_operations);

const struct crash_operation *crash_operation_find(const char *name)
{
    const struct crash_operation *operation = crash_operations;

    while (strcmp(operation->name, name) != 0)
        operation++;
    return operation;
}
