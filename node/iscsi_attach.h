/*
 * The way "iscsi": the kernel's own initiator, logged in by open-iscsi; no process of ours is in the data
 * path. Chosen explicitly only.
 *
 * A session is ours when its target is the volume's, its CHAP name is a granted generation's of the volume,
 * and its initiator name is this node's. Other sessions, of the same target too, are never touched. The
 * generation is granted as one that is served write-through, for the kernel has nothing to send again when a
 * storage server loses what it had not flushed.
 */
#pragma once

#include "node/attach_way.h"

extern const struct attach_way iscsi_attach_way;

/* ---- shared by iscsi_attach.c and iscsi_detach.c ---- */

#define ISCSI_SYSFS "/sys"

struct iscsi_session;

bool iscsi_attach_is_ours(const struct node_config *config, const char *volume_id,
                          const struct iscsi_session *session);

/*
 * The session that serves this attachment, whatever iscsi.json and the attachment say of its generation: of
 * its epoch, and logged in (which only the generation is that the server admits) or of the generation named.
 * E_NOT_FOUND when there is none. root as in iscsi_sysfs.h.
 */
int iscsi_attach_find_live(const char *root, const struct node_config *config,
                           const struct storage_attachment *attachment, struct iscsi_session *ret,
                           struct error *err);

/* Whether the attachment that the session was opened for stands on the storage server: 0, E_NOT_FOUND when it
 * is gone, being removed, or newer; E_STALE when the server knows less than we do, as after its record was
 * restored from a backup; E_UNAVAILABLE and the like when nothing can be told. */
struct iscsi_note;
int iscsi_attach_compare(const struct storage_attachment *attachment, const struct iscsi_note *note,
                         struct error *err);
int iscsi_attach_stands(struct storage *storage, const char *volume_id, const struct iscsi_note *note,
                        unsigned timeout_ms, struct error *err);

int iscsi_detach_end(const struct node_config *config, struct storage *storage, const char *volume_id,
                     unsigned timeout_ms, struct error *err);
int iscsi_detach_kill(const struct node_config *config, const char *volume_id, struct error *err);
int iscsi_detach_sweep(const struct node_config *config, const char *volume_id, struct error *err);

/* What the page cache holds of a disk reaches its storage server. E_DEADLINE: it goes on in a process that
 * holds nothing of ours. */
int iscsi_detach_flush(const char *path, uint64_t deadline_ms, struct error *err);
