/*
 * What this node knows of one volume's iSCSI session: `<state_dir>/volumes/<volume id>/iscsi.json`, written
 * before the session's login and removed after its logout, so that whatever is left over has an owner. No
 * secret is in it. Called with the volume's lock held.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/id.h"
#include "node/config.h"

#define ISCSI_PORTAL_MAX 280 /* a host's name of 255, brackets, port */

struct iscsi_note {
    char target_name[ID_IQN_MAX + 1];
    char portal[ISCSI_PORTAL_MAX + 1]; /* the one that was tried last */
    char chap_name[ID_CHAP_NAME_MAX + 1];
    uint64_t epoch, generation;
    uint64_t lun;
    uint64_t device; /* the disk's dev_t, once it was seen; 0: not yet */
};

/* E_NOT_FOUND when there is none. */
int iscsi_note_load(const struct node_config *config, const char *volume_id, struct iscsi_note *ret,
                    struct error *err);
int iscsi_note_save(const struct node_config *config, const char *volume_id, const struct iscsi_note *note,
                    struct error *err);
int iscsi_note_remove(const struct node_config *config, const char *volume_id, struct error *err);
