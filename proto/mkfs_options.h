/*
 * What a volume's mkfsOptions may say (StorageClass parameter, volume context): how its own file system is
 * made. Options that name a file or another device of the node, that make nothing or something else, or are
 * not known, are refused. Pure; the controller asks when a volume is made, the node when it makes the file
 * system, for a person may have written a volume's context by hand.
 */
#pragma once

#include "common/error.h"

/* fs_type: "ext4" or "xfs". options: words separated by blanks, may be "". E_INVALID_ARGUMENT, with the
 * word. */
int mkfs_options_check(const char *fs_type, const char *options, struct error *err);
