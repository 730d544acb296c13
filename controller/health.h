/*
 * A volume's health in CSI's words (VolumeHealth): what its storage server says of it, one entry for each
 * (status, reason). A volume of which there is nothing to say has no entry, and no place in
 * ControllerListVolumeHealth. Pure functions.
 *
 * | server's kind | status       | reason      |
 * | WRITE_FAILED  | INACCESSIBLE | WriteFailed |  an operator must clear it
 * | UNREADABLE    | DATA_LOSS    | Unreadable  |
 * | READ_ERRORS   | DATA_LOSS    | ReadErrors  |  of some of its data, until they are written anew
 * | POOL_FILLING  | DEGRADED     | PoolFilling |  CSI has nothing milder
 * | POOL_FULL     | DEGRADED     | PoolFull    |  writes that need space are refused
 */
#pragma once

#include <stdbool.h>

#include "proto/csi.pb-c.h"
#include "proto/storage.pb-c.h"

/* Is there anything to say? */
bool health_speaks(const Mooring__Storage__V1__Volume *volume);

/* 0 or -ENOMEM, after which *ret may be half filled. */
int health_fill(const Mooring__Storage__V1__Volume *volume, Csi__V1__VolumeHealth **ret);
