/*
 * At start, before any session or call: a snapshot of a group whose hold did not stand until its release is
 * deleted, since no hold outlives the process, and nobody can commit it any more. And an attachment that is
 * "removing", or whose node is fenced, is removed now. Its commands have ended: the pool's lock, which this
 * process holds, was kept by every I/O of the one before (invariant 4). What cannot be recorded now, on a
 * pool that is full or fails, is logged and stays as it is: "removing", or its node's fence, refuses its
 * logins, and a repeated detach or fence finishes it. Main thread.
 */
#include "datapath/target/recovery.h"

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/store/snapshot.h"
#include "datapath/target/server.h"

static bool recovery_is_fenced(struct store *store, const char *node_id)
{
    struct node_record node = {0};
    if (store_node_get(store, node_id, &node, NULL) != 0)
        return false;
    bool fenced = node.fenced;
    node_record_done(&node);
    return fenced;
}

static int recovery_edit(struct volume_record *record, void *context, struct error *err)
{
    struct server *server = context;
    int code = VOLUME_UNCHANGED;
    for (size_t i = record->attachments_count; i-- > 0;) {
        struct attachment *attachment = &record->attachments[i];
        uint64_t epoch = attachment->epoch;
        if (!attachment->removing && !recovery_is_fenced(server->store, attachment->node_id))
            continue;
        log_info("volume %s: finishing the removal from node %s, epoch %lu", record->id, attachment->node_id,
                 (unsigned long)epoch);
        code = attach_remove_begin(record, attachment->node_id, epoch, err);
        if (code == 0)
            code = attach_remove_finish(record, epoch, err);
        if (code)
            return code;
    }
    return code;
}

static void recovery_snapshot(struct server *server, struct snapshot *snapshot)
{
    _cleanup_error_ struct error why = {0};
    struct snapshot_record record;
    if (snapshot_check_readable(snapshot, NULL) != 0 || snapshot_copy_record(snapshot, &record) != 0 ||
        !record.provisional || record.held)
        return;
    if (store_snapshot_delete_provisional(server->store, record.id, &why) == 0)
        log_info("snapshot %s of group %s is deleted: its hold did not stand", record.id, record.group_id);
    else
        log_warning("snapshot %s of group %s stays until the next start: %s", record.id, record.group_id,
                    error_text(&why));
}

static void recovery_snapshots(struct server *server)
{
    char id[ID_SNAPSHOT_MAX + 1] = "";
    struct snapshot *snapshot;
    while ((snapshot = store_snapshot_next(server->store, id))) {
        struct snapshot_record record;
        if (snapshot_copy_record(snapshot, &record) == 0)
            str_copy(id, sizeof(id), record.id);
        recovery_snapshot(server, snapshot);
        snapshot_unref(snapshot);
    }
}

void recovery_run(struct server *server)
{
    recovery_snapshots(server);
    struct volume *next, *volume = store_volume_next(server->store, "");
    for (; volume; volume = next) {
        _cleanup_error_ struct error why = {0};
        if (volume_check_readable(volume, NULL) == 0 &&
            volume_update(volume, recovery_edit, server, &why) != 0)
            log_error("volume %s: a removal that was interrupted is not finished, detach it again: %s",
                      volume_id(volume), error_text(&why));
        next = store_volume_next(server->store, volume_id(volume));
        volume_unref(volume);
    }
}
