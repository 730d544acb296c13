/*
 * At start, before any session or call: an attachment that is "removing", or whose node is fenced, is removed
 * now. Its commands have ended: the pool's lock, which this process holds, was kept by every I/O of the one
 * before (invariant 4). What cannot be recorded now, on a pool that is full or fails, is logged and stays as
 * it is: "removing", or its node's fence, refuses its logins, and a repeated detach or fence finishes it.
 * Main thread.
 */
#include "datapath/target/recovery.h"

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/store/attach.h"
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

void recovery_run(struct server *server)
{
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
