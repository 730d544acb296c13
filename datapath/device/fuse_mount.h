/* The FUSE mount and its descriptors. Blocking: for offload threads. */
#pragma once

#include <stdint.h>

#include "common/error.h"

/* Mount a new connection at path (made if absent; a dead mount of ours is cleared first) and give its
 * descriptor (O_NONBLOCK, close-on-exec). E_BUSY when something else is mounted there. */
int fuse_mount(const char *path, const char *volume_id, int *ret_fd, struct error *err);

/* Another descriptor of the same connection (FUSE_DEV_IOC_CLONE). */
int fuse_clone(int fd, int *ret_fd, struct error *err);

/* Tell the kernel that the file has grown: any thread, beside all else that is written to fd. */
int fuse_notify_size(int fd, uint64_t ino, uint64_t size_bytes, struct error *err);

/* E_BUSY while a file in it is open. 0 also when nothing is mounted. */
int fuse_unmount(const char *path, struct error *err);

/* End the connection: every request, also those that a dead process took with it, ends with an error. */
int fuse_abort(const char *path, struct error *err);
