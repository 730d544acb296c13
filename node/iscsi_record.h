/*
 * open-iscsi's record of one target and portal: <database>/nodes/<target name>/<address>,<port>, lines of
 * "key = value". iscsiadm makes and removes it; what we set goes straight into the file, because iscsiadm
 * takes values, the CHAP secret among them, by its command line alone, which everyone on the host can read.
 *
 * root goes before all paths: "", or where the host's file system is seen.
 */
#pragma once

#include "node/iscsi_admin.h"

/* Set what we need in the record that iscsiadm has made: 0600, all or nothing. */
int iscsi_record_set(const char *root, const struct iscsi_login *login, struct error *err);

/* The text of a record with our settings in place of its own; on the heap, NULL when memory ran out. Holds
 * the secret: wipe it. */
char *iscsi_record_text(const char *old, const struct iscsi_login *login);

/* Remove what an interrupted iscsi_record_set() left beside the record. */
void iscsi_record_sweep(const char *root, const char *target_name, const char *portal);
