/*
 * Decisions about attachments (invariants 2 and 4), pure functions on a volume record: they change the record
 * in memory or refuse; whoever calls commits the result. Whether the node is fenced is the caller's to have
 * checked, under the same lock.
 */
#pragma once

#include "datapath/store/record.h"

/*
 * Attach node_id. A repeat with the same mode and readonly returns the attachment that stands, unchanged;
 * E_EXISTS if it differs (CSI: ControllerPublishVolume, "incompatible"). E_PRECONDITION, naming the other
 * node, when another attachment forbids it (one that is "removing" counts). E_BUSY while this node's own is
 * "removing". E_EXHAUSTED at VOLUME_ATTACHMENTS_MAX. A new one gets epoch_last + 1 and a new secret.
 */
int attach_add(struct volume_record *record, const char *node_id, enum access_mode mode, bool readonly,
               struct attachment **ret_attachment, struct error *err);

/* Mark "removing". epoch 0: whichever stands. 0 also when it is already marked; E_NOT_FOUND when there is
 * none (the caller answers OK); E_STALE when epoch is not the one that stands. */
int attach_remove_begin(struct volume_record *record, const char *node_id, uint64_t epoch, struct error *err);

/* Take away the attachment of this epoch, which is "removing". E_NOT_FOUND when it is gone already. */
int attach_remove_finish(struct volume_record *record, uint64_t epoch, struct error *err);

/* A new generation for the attachment's device: holding must be the newest granted (E_STALE else).
 * E_NOT_FOUND for another epoch's; E_PRECONDITION while "removing". */
int attach_grant(struct volume_record *record, const char *node_id, uint64_t epoch, uint64_t holding,
                 struct attachment **ret_attachment, struct error *err);

/* Must what this generation of the attachment changes be stable before it is answered (invariant 1)? */
bool attach_write_through(const struct volume_record *record, const struct attachment *attachment,
                          uint64_t generation);

/* Does an attachment of this mode and flag write? */
bool attach_may_write(enum access_mode mode, bool readonly);

/* May a login with this epoch and generation be admitted now? 0, or E_PERMISSION: no such epoch, removing,
 * not the newest generation, or generation 0 after one was granted. */
int attach_admits(const struct volume_record *record, uint64_t epoch, uint64_t generation,
                  const struct attachment **ret_attachment);
