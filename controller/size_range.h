/* CSI CapacityRange: which size a volume gets, and whether an existing one fits. Pure functions. */
#pragma once

#include "controller/controller.h"

#define SIZE_STEP_BYTES UINT64_C(1048576)          /* every volume is a multiple of it, and at least one */
#define SIZE_XFS_MIN_BYTES (300 * SIZE_STEP_BYTES) /* mkfs.xfs makes nothing smaller */
#define SIZE_MAX_BYTES (UINT64_C(1) << 50)         /* no storage server makes a larger one */
#define SIZE_DEFAULT_BYTES UINT64_C(1073741824)    /* when the CO leaves it to us */

/* The size to make. E_OUT_OF_RANGE when no multiple of the step fits the range. */
int size_range_choose(const struct size_range *range, uint64_t *ret_size_bytes, struct error *err);

/* Does a volume of this size satisfy the range? */
bool size_range_holds(const struct size_range *range, uint64_t size_bytes);
