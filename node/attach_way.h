/*
 * A way to attach a volume: what attach.c calls once stage.json says which way a volume took. All functions
 * block and are called with the volume's lock held, except owns(), watch() and look(), which only look.
 *
 * A way keeps what it needs below <state_dir>/volumes/<volume id>/ (stage_record_path()); that folder goes
 * with the staging. stage.json is there before start() and after sweep().
 */
#pragma once

#include "node/attach.h"

struct attach_way {
    /* Make the device be there, or begin to: adopt what stands of this epoch, or start anew. Does not wait
     * for it to serve. E_STALE when another epoch's still stands; E_PRECONDITION when it was refused for
     * good. */
    int (*start)(const struct node_config *config, struct storage *storage,
                 const struct storage_attachment *attachment, uint64_t deadline_ms, struct error *err);

    /* Until it serves: ret as look() sets it. E_DEADLINE with what it waits for. */
    int (*wait_ready)(const struct node_config *config, const char *volume_id, uint64_t deadline_ms,
                      struct attach_device *ret, struct error *err);

    /* One look: 0 and ret while it serves, after checking that the device is this volume's. E_UNAVAILABLE:
     * not now, why in the text. */
    int (*look)(const struct node_config *config, const char *volume_id, struct attach_device *ret,
                struct error *err);

    /* End in good order: flush, log out, give the device back. 0 also when nothing is there. */
    int (*end)(const struct node_config *config, struct storage *storage, const char *volume_id,
               unsigned timeout_ms, struct error *err);

    /* End what serves it, at any price: I/O that waits ends with an error, and no unmounting waits. */
    int (*kill)(const struct node_config *config, const char *volume_id, struct error *err);

    /* kill(), and take away what is left of it. Of this volume only; what is not proven to be ours stays. 0
     * also when nothing is there. */
    int (*sweep)(const struct node_config *config, const char *volume_id, struct error *err);

    /* Whether block device `number` is this volume's. */
    bool (*owns)(const struct node_config *config, const char *volume_id, dev_t number);

    /* At mooring-node's start, of a volume that stays staged. NULL: nothing to do. */
    void (*adopt)(const struct node_config *config, const char *volume_id);

    /* 0 while the device serves or will again; E_PRECONDITION with the remedy when it is lost. */
    int (*check_kept)(const struct node_config *config, const char *volume_id, bool published,
                      struct error *err);

    /* See attach_resize(). */
    int (*resize)(const struct node_config *config, const char *volume_id, uint64_t size_bytes,
                  uint64_t deadline_ms, struct error *err);

    /* Processes of ours: NULL where there are none. See attach.h. */
    int (*restart)(const struct node_config *config, struct storage *storage, const char *volume_id,
                   struct error *err);
    int (*watch)(const struct node_config *config, const char *volume_id);
    int (*watch_holder)(const struct node_config *config, const char *volume_id);
    int (*keep_holder)(const struct node_config *config, const char *volume_id, struct error *err);
    bool (*has_served)(const struct node_config *config, const char *volume_id);
    bool (*waits)(const struct node_config *config, const char *volume_id);
    int (*tell_portals)(const struct node_config *config, const struct storage_attachment *attachment,
                        struct error *err);
    int (*replace)(const struct node_config *config, struct storage *storage, const char *volume_id,
                   uint64_t deadline_ms, uint64_t *ret_stalled_ms, struct error *err);
};
