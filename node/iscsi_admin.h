/*
 * open-iscsi on this host, driven through iscsiadm and its record files: for attach=iscsi alone. A record, a
 * login and a logout concern one target name and one portal; nothing here touches another's. All block, for
 * at most what the deadline (by time_now_ms()) leaves.
 *
 * Where mooring-node runs in a pod that sees the host's processes (hostPID), everything happens in the host's
 * mount and network namespaces: iscsid and its records are the host's.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct iscsi_login {
    const char *target_name;
    const char *portal; /* "10.0.0.1:3260", "[fd00::1]:3260" */
    const char *initiator_name;
    const char *chap_name;
    const char *chap_secret;
    int64_t replacement_timeout_s; /* until I/O fails while there is no connection; -1: never */
};

/* 0 when open-iscsi is installed and the kernel has the transport (it is loaded if need be). E_PRECONDITION
 * with the remedy otherwise. */
int iscsi_admin_check(uint64_t deadline_ms, struct error *err);

/*
 * Make the record and log in. The secret goes by the record's file (0600), never by a command line. E_EXISTS
 * when a session to this target through this portal stands; E_PERMISSION when the target refused for good;
 * E_UNAVAILABLE when nobody answered, or the target is not ready; E_PRECONDITION, with the remedy, when
 * iscsid does not run or the kernel lacks the transport. The record stays also after a failure.
 */
int iscsi_admin_login(const struct iscsi_login *login, uint64_t deadline_ms, struct error *err);

/* Log the session out, whatever state it is in: I/O that waits in it ends with an error. 0 also when it is
 * not there. The caller has made sure that sid is whose it means. */
int iscsi_admin_logout(unsigned sid, uint64_t deadline_ms, struct error *err);

/* Take this target's record for this portal away, and what an interrupted writing left. 0 also when there is
 * none. */
int iscsi_admin_forget(const char *target_name, const char *portal, uint64_t deadline_ms, struct error *err);
