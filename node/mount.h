/* Mounts by libmount: what stands at a path, mounting, binding, taking away. All block. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

struct mount_info {
    char *source;  /* "/dev/loop3"; for a bind mount of a device node: the file system that holds the node */
    char *root;    /* of the mount within its file system */
    char *fs_type; /* "ext4" */
    bool readonly; /* this mount, not only its file system */
};

void mount_info_done(struct mount_info *info);
#define _cleanup_mount_info_ __attribute__((cleanup(mount_info_done)))

/* The topmost mount exactly at path. E_NOT_FOUND when none is. */
int mount_find(const char *path, struct mount_info *ret_info, struct error *err);

/* Mount a block device's file system. options: comma-separated, may be "". What mount(8) would refuse is
 * E_INVALID_ARGUMENT with its words. */
int mount_device(const char *device, const char *path, const char *fs_type, const char *options,
                 bool readonly, struct error *err);

/* Bind source (a directory or a device node) onto path. */
int mount_bind(const char *source, const char *path, bool readonly, struct error *err);

/* Unmount everything that is mounted at path. E_PRECONDITION, naming the path, while it is in use. */
int mount_remove(const char *path, struct error *err);

/* The same at any price: detached lazily where it is in use. For a host that lost its storage. */
int mount_remove_lazily(const char *path, struct error *err);
