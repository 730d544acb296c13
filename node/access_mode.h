/* The access modes of CSI 1.13 on one node: which paths, which mounts. Pure; any thread. */
#pragma once

#include <stdbool.h>

/* VolumeCapability.AccessMode.Mode, with its numbers: they are in stage.json. */
enum access_mode {
    ACCESS_MODE_UNKNOWN, /* of a record of before access_mode */
    ACCESS_MODE_SINGLE_NODE_WRITER,
    ACCESS_MODE_SINGLE_NODE_READER_ONLY,
    ACCESS_MODE_MULTI_NODE_READER_ONLY,
    ACCESS_MODE_MULTI_NODE_SINGLE_WRITER,
    ACCESS_MODE_MULTI_NODE_MULTI_WRITER,
    ACCESS_MODE_SINGLE_NODE_SINGLE_WRITER,
    ACCESS_MODE_SINGLE_NODE_MULTI_WRITER,
    ACCESS_MODES, /* how many */
};

const char *access_mode_name(enum access_mode mode); /* as in csi.proto */

bool access_mode_is_reader(enum access_mode mode);

/* One target path only (CSI 1.13, NodePublishVolume, second table). */
bool access_mode_is_one_path(enum access_mode mode);

/* Written on one node while others have it: not with a file system of one host. */
bool access_mode_is_shared_writer(enum access_mode mode);
