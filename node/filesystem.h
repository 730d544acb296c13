/*
 * File systems on an attached volume: what is there, making one, checking one. Invariant 5's half on the
 * node: a read error is never taken for blank. All block.
 */
#pragma once

#include <stdbool.h>

#include "common/error.h"

#define FILESYSTEM_DEFAULT "ext4"

bool filesystem_supported(const char *fs_type); /* "ext4", "xfs" */

/*
 * What libblkid finds: *ret_type is "ext4", "xfs", … or the kind of another signature ("LVM2_member", "dos"
 * for a partition table), or NULL for nothing. The regions it looks at are read directly from the device
 * first: a read error is an error here. More than one signature is E_PRECONDITION. The caller frees.
 */
int filesystem_probe(const char *device, char **ret_type, struct error *err);

/* mkfs. options: words separated by blanks, given before the device, may be "". */
int filesystem_make(const char *device, const char *fs_type, const char *options, struct error *err);

/* Before mounting for writing: ext4's journal replay and preen. E_PRECONDITION when a person must repair it.
 */
int filesystem_check(const char *device, const char *fs_type, struct error *err);
