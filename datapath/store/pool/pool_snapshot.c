/*
 * Snapshots on disk: snapshots/<id>/{snapshot.json,data}. pool_copy.c makes them; in the place of a record
 * without data, where the cut was recorded before. Blocks; one change of one snapshot at a time (the store's
 * locks).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "datapath/store/pool/pool_internal.h"

int pool_snapshot_record_put(int dir_fd, const struct snapshot_record *record, pool_record_put put,
                             struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    int r = snapshot_record_to_json(record, &object);

    if (r < 0)
        return error_errno(err, -r, "cannot write the record of snapshot %s", record->id);
    return put(dir_fd, POOL_SNAPSHOT_FILE, snapshot_record_format(record), object, err);
}

static int save_once(struct backend *backend, void *context, struct error *err)
{
    const struct snapshot_record *record = context;
    _cleanup_fd_ int dir_fd = openat(backend->snapshots_fd, record->id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir_fd < 0)
        return pool_errno(err, errno, "open the directory of snapshot", record->id);
    return pool_snapshot_record_put(dir_fd, record, pool_record_save, err);
}

int pool_snapshot_save(struct backend *backend, const struct snapshot_record *record, struct error *err)
{
    return pool_with_ballast(backend, save_once, (void *)(uintptr_t)record, err);
}

static int record_cut_once(struct backend *backend, void *context, struct error *err)
{
    const struct snapshot_record *record = context;
    char aside[POOL_TRASH_NAME_MAX];
    _cleanup_fd_ int dir_fd = -1;
    int r;

    snprintf(aside, sizeof(aside), "cut.%s", record->id); /* beside its copy, which is made meanwhile */
    r = pool_aside_make(backend, aside, &dir_fd, err);
    if (r == E_OK)
        r = pool_snapshot_record_put(dir_fd, record, pool_record_make, err);
    if (r == E_OK)
        r = pool_aside_commit(backend, aside, backend->snapshots_fd, "snapshots", record->id, err);
    if (r != E_OK)
        pool_aside_discard(backend, aside);
    return r;
}

int pool_snapshot_record_cut(struct backend *backend, const struct snapshot_record *record, struct error *err)
{
    return pool_with_ballast(backend, record_cut_once, (void *)(uintptr_t)record, err);
}

int pool_snapshot_delete(struct backend *backend, const char *snapshot_id, struct error *err)
{
    return pool_entry_delete(backend, backend->snapshots_fd, "snapshots", snapshot_id, err);
}
