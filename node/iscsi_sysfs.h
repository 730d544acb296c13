/*
 * The kernel's iSCSI sessions and their SCSI disks, as sysfs shows them. Looks and small writes only, none of
 * which waits for a storage server (but iscsi_sysfs_scan(), which sends commands of its own). Any thread.
 *
 * root is "/sys", or a folder that looks like it (tests).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/id.h"

struct iscsi_session {
    unsigned sid;
    unsigned host;
    bool logged_in; /* else it waits for its connection, or is about to end */
    char target_name[ID_IQN_MAX + 1];
    char initiator_name[ID_IQN_MAX + 1];
    char chap_name[ID_CHAP_NAME_MAX + 1]; /* "" when it has none, or one that is not of our shape */
};

/* Call visit() for each session of this target name, until it returns false. */
int iscsi_sysfs_each(const char *root, const char *target_name,
                     bool (*visit)(const struct iscsi_session *session, void *context), void *context,
                     struct error *err);

/* The session that logged in with this CHAP name: E_NOT_FOUND when there is none. */
int iscsi_sysfs_find(const char *root, const char *target_name, const char *chap_name,
                     struct iscsi_session *ret, struct error *err);

/* The portal that it was opened at ("10.0.0.1:3260", "[fd00::1]:3260"): false while the kernel does not say.
 */
bool iscsi_sysfs_portal(const char *root, const struct iscsi_session *session, char *ret, size_t size);

struct iscsi_disk {
    char name[32]; /* "sda" */
    char path[64]; /* below root: "block/sda" */
    dev_t number;
    uint64_t size_bytes;
};

/*
 * The disk of this session and LUN, after its serial number (VPD 80h) and identification (VPD 83h) were found
 * to be this volume's. E_NOT_FOUND while the kernel has none (yet); E_PRECONDITION, naming both, when it is
 * another volume's: it must not be used.
 */
int iscsi_sysfs_disk(const char *root, const struct iscsi_session *session, uint32_t lun,
                     const char *volume_id, struct iscsi_disk *ret, struct error *err);

/* Have the kernel look for the LUN in this session alone. */
int iscsi_sysfs_scan(const char *root, const struct iscsi_session *session, uint32_t lun, struct error *err);

/* How long a command may take before the kernel's SCSI layer acts. */
int iscsi_sysfs_set_timeout(const char *root, const struct iscsi_disk *disk, unsigned timeout_s,
                            struct error *err);
