/*
 * What a volume's mount options may say (StorageClass parameter mountOptions, a capability's mount_flags):
 * how its own file system is mounted. Options by which something else than the volume's device would be
 * mounted are refused: it could not be told from another's, and not be taken away. Pure; the controller asks
 * when a volume is made or looked at, the node when it mounts, for a person may have written a context by
 * hand.
 */
#pragma once

#include "common/error.h"

/* options: comma-separated, may be "". E_INVALID_ARGUMENT, with the option. */
int mount_options_check(const char *options, struct error *err);
