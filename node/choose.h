/* Which way a volume is attached. Blocks shortly; any thread. */
#pragma once

#include "common/error.h"
#include "node/config.h"
#include "node/stage_record.h"

/*
 * wanted: what the volume asks for, or "" or "auto" for what the node's configuration says; "auto" there
 * takes what `mooring-device --check` finds sound on this host. E_PRECONDITION, with its reason, for a way
 * that is not.
 */
int choose_way(const struct node_config *config, const char *wanted, char ret_way[STAGE_ATTACH_SIZE],
               struct error *err);

/* What the installed mooring-device says of itself and this host (datapath/device/attach_check.h).
 * E_UNIMPLEMENTED for one of before --check. The caller drops the reference. */
int choose_check(const struct node_config *config, json_t **ret, struct error *err);

/* A word for a way: "auto", "ublk", "fuse", "iscsi". */
bool choose_is_way(const char *name);
