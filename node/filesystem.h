/*
 * File systems on an attached volume: what is there, making one, checking one. Invariant 5's half on the
 * node: a read error is never taken for blank. All block.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "node/process.h"

#define FILESYSTEM_DEFAULT "ext4"

bool filesystem_supported(const char *fs_type); /* "ext4", "xfs" */

/*
 * What libblkid finds: *ret_type is "ext4", "xfs", … or the kind of another signature ("LVM2_member", "dos"
 * for a partition table), or NULL for nothing. The regions it looks at are read directly from the device
 * first: a read error is an error here. More than one signature is E_PRECONDITION. The caller frees.
 */
int filesystem_probe(const char *device, char **ret_type, struct error *err);

/* E_BUSY while something has the device for itself: a mkfs or fsck that an earlier life of ours had started,
 * or a person. */
int filesystem_is_free(const char *device, struct error *err);

/* mkfs. options: words separated by blanks, given before the device, may be "". watch: what mkfs's I/O
 * depends on. Ask filesystem_flush() before what was made counts. */
int filesystem_make(const char *device, const char *fs_type, const char *options,
                    const struct process_watch *watch, struct error *err);
int filesystem_flush(const char *device, struct error *err);

/*
 * Make the file system that is mounted from device at path as large as the device. Waits for the volume's
 * I/O. E_PRECONDITION, with the tool's words, when it was made in a way that cannot; E_PERMISSION when the
 * host does not let us.
 */
int filesystem_grow(const char *device, const char *path, const char *fs_type, struct error *err);

/* What the file system on device takes, by its superblock, and what the device has. Less may be all that
 * fits. Reads the device. */
int filesystem_size(const char *device, const char *fs_type, uint64_t *ret_filesystem_bytes,
                    uint64_t *ret_device_bytes, struct error *err);

/* For tests: the size in bytes that the first 4 KiB of the device say; 0 for nonsense. */
uint64_t filesystem_parse_size(const char *fs_type, const uint8_t *head);

/* Before mounting for writing: ext4's journal replay and preen. E_PRECONDITION when a person must repair it.
 */
int filesystem_check(const char *device, const char *fs_type, struct error *err);
