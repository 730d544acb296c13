/*
 * Making the file system that a pool needs: XFS with reflink on a device, or in an image file mounted by a
 * loop device for a trial. For mooring-pool, which runs as root. Blocks for as long as mkfs.xfs does.
 */
#pragma once

#include <stdint.h>

#include "common/error.h"

#define POOL_MAKE_IMAGE_MIN_BYTES (UINT64_C(300) * 1024 * 1024) /* mkfs.xfs makes no smaller one */

/*
 * A new sparse file of size_bytes, XFS in it, mounted at mountpoint (made when absent; E_EXISTS when it holds
 * anything or image exists; E_OUT_OF_RANGE below the least size). The loop device goes with the mount. After
 * a failure neither file nor mount is left.
 */
int pool_make_image(const char *image, uint64_t size_bytes, const char *mountpoint, struct error *err);

/* Unmount what pool_make_image() mounted, and remove the file. */
int pool_make_undo(const char *image, const char *mountpoint, struct error *err);

/*
 * XFS on a block device, mounted at mountpoint as above. E_EXISTS, naming it, when libblkid finds anything on
 * the device; E_BUSY when the device is in use; a read error is never taken for emptiness.
 */
int pool_make_device(const char *device, const char *mountpoint, struct error *err);
