/*
 * A ublk server must not be in a mount namespace with the users of its device, and none of their mounts may
 * be in its own: the last process of a namespace to exit unmounts what is in it. Were that the server, and
 * one of the mounts a file system on its own device, the writes of that unmount would wait for the very
 * process that is exiting; for ever. (https://github.com/ublk-org/ublksrv/pull/186)
 */
#pragma once

#include "common/error.h"

/*
 * Move this process to a mount namespace of its own, to which no mount made elsewhere spreads, with nothing
 * in it but the root, /dev, /proc, /sys and the file system that dir is on. A mount of a volume that stayed
 * would also hold that volume's device for as long as this process lives. Before any other thread exists.
 */
int ublk_namespace_enter(const char *dir, struct error *err);
