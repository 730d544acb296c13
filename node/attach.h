/*
 * A volume's block device on this node: made, adopted and ended, in the way that its stage.json names
 * (attach_way.h). What makes it outlives us; what that is, is on disk. All block; called with the volume's
 * lock held.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "node/config.h"
#include "node/mount.h"
#include "node/storage.h"

struct volume_locks;

struct attach_device {
    char *path;          /* "/dev/loop3", "/dev/ublkb0", "/dev/sdc" */
    uint64_t generation; /* 0: not a mooring-device's */
    char *problem;       /* "" or why it serves reads only, in words */
};

void attach_device_done(struct attach_device *device);
#define _cleanup_attach_device_ __attribute__((cleanup(attach_device_done)))

/*
 * Make the device be there: adopt a live process of this epoch, or take a new generation and start one; then
 * wait until it serves. E_DEADLINE (what it waits for in the text) after timeout_ms, the process left to go
 * on; E_PRECONDITION when the storage server refused it for good; E_STALE when a process of another epoch is
 * still there. One that is ending is waited for first, within timeout_ms. While the kernel alone serves the
 * device, the volume's lock is lent: only the supervisor's end of the session ends what then waits for it.
 */
int attach_start(const struct node_config *config, struct storage *storage, struct volume_locks *locks,
                 const struct storage_attachment *attachment, unsigned timeout_ms, struct attach_device *ret,
                 struct error *err);

/*
 * Start the successor of a device process that died, with the next generation, and do not wait. When the
 * attachment is gone it is started with what it had: the refusal at its login then ends all waiting I/O with
 * an error. Nothing is started, and the answer is E_PRECONDITION with the remedy, when it could not take
 * over: it would make another block device, while paths and containers know the old one by its number.
 */
int attach_restart(const struct node_config *config, struct storage *storage, const char *volume_id,
                   struct error *err);

/* 0 while the device's process lives or a successor would take over. E_PRECONDITION with the remedy when the
 * volume is lost: for one that is published, also when only the block device itself is gone. */
int attach_check_kept(const struct node_config *config, const char *volume_id, bool published,
                      struct error *err);

/* The device of a volume that is staged; E_UNAVAILABLE while it is not ready. */
int attach_find(const struct node_config *config, const char *volume_id, struct attach_device *ret,
                struct error *err);

/*
 * Have the device of a volume that has grown to size_bytes have that size, within timeout_ms; its users are
 * not disturbed. 0 also when it has it. E_PRECONDITION when it cannot while it is in use, and what to do;
 * E_UNAVAILABLE or E_DEADLINE, with what it waits for, when it has not yet.
 */
int attach_resize(const struct node_config *config, const char *volume_id, uint64_t size_bytes,
                  unsigned timeout_ms, struct error *err);

/*
 * End in good order: flush, log out, give the device back. Nothing is mounted on it any more. A device that
 * died gets a successor first, that delivers what was answered and not flushed: E_UNAVAILABLE or E_DEADLINE
 * while that cannot be. Dropped is that only when the attachment is gone or newer, when the storage server
 * refused the device for good, and with a holder that died.
 */
int attach_stop(const struct node_config *config, struct storage *storage, const char *volume_id,
                unsigned timeout_ms, struct error *err);

/* End its processes at any price: I/O that waits ends with an error. */
int attach_kill(const struct node_config *config, const char *volume_id, struct error *err);

/* End at any price, and take away what is left of it: for an old epoch, and for a host that was lost. */
int attach_sweep(const struct node_config *config, const char *volume_id, struct error *err);

/* At mooring-node's start: take up what an earlier mooring-node attached and stays. */
void attach_adopt(const struct node_config *config, const char *volume_id);

/* Whether block device `number` is this volume's; and the same as the owner of mounts, which borrows config
 * and volume_id. */
bool attach_owns(const struct node_config *config, const char *volume_id, dev_t number);
struct mount_owner attach_owner(const struct node_config *config, const char *volume_id, bool block);

/*
 * End the device's process and have the installed program take over: I/O waits meanwhile. *ret_stalled_ms:
 * for how long, at most. E_UNAVAILABLE and E_DEADLINE after the old one's end are the supervisor's to go on
 * with.
 */
int attach_replace(const struct node_config *config, struct storage *storage, const char *volume_id,
                   unsigned timeout_ms, uint64_t *ret_stalled_ms, struct error *err);

/* status.json of the volume's device, or E_NOT_FOUND. The caller drops the reference. */
int attach_status(const struct node_config *config, const char *volume_id, json_t **ret, struct error *err);

/* Whether the newest generation's process came to serve before it ended. */
bool attach_has_served(const struct node_config *config, const char *volume_id);

/* Whether a process of ours serves the device; else the kernel alone does, and there is nothing to watch. */
bool attach_has_process(const struct node_config *config, const char *volume_id);

/* A pidfd of the device process, or -1 when it does not live. */
int attach_watch(const struct node_config *config, const char *volume_id);

/* A pidfd of what keeps its descriptors for a successor, or -1 when that does not live. */
int attach_watch_holder(const struct node_config *config, const char *volume_id);

/* Another holder for a device process that lives and has lost its own: it hands everything over by itself. 0
 * also where none is needed. With the volume's lock held. */
int attach_keep_holder(const struct node_config *config, const char *volume_id, struct error *err);

/* Whether its process waits for the storage server: that may be at portals which it was never told. */
bool attach_waits(const struct node_config *config, const char *volume_id);

/* Tell a process that waits which portals the attachment has now. 0 also when none waits, or one of another
 * epoch. With the volume's lock held. */
int attach_tell_portals(const struct node_config *config, const struct storage_attachment *attachment,
                        struct error *err);
