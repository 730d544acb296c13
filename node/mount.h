/* Mounts by libmount: what stands at a path, mounting, binding, taking away. All block. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"

struct node_config;

struct mount_info {
    char *source;  /* "/dev/loop3"; for a bind mount of a device node: the file system that holds the node */
    char *root;    /* of the mount within its file system */
    char *fs_type; /* "ext4" */
    dev_t device;  /* of the file system */
    bool readonly; /* this mount, not only its file system */
    bool filesystem_readonly;  /* the file system: asked for, or after an error */
    bool filesystem_shut_down; /* after an error, where the kernel shows it */
};

void mount_info_done(struct mount_info *info);
#define _cleanup_mount_info_ __attribute__((cleanup(mount_info_done)))

/* The topmost mount exactly at path. E_NOT_FOUND when none is. */
int mount_find(const char *path, struct mount_info *ret_info, struct error *err);

/* Mount a block device's file system. options: comma-separated, may be "". What mount(8) would refuse is
 * E_INVALID_ARGUMENT with its words; a damaged file system is E_PRECONDITION. */
int mount_device(const char *device, const char *path, const char *fs_type, const char *options,
                 bool readonly, struct error *err);

/* Bind source (a directory or a device node) onto path: all at once, so that a read-only one is never seen
 * writable. */
int mount_bind(const char *source, const char *path, bool readonly, struct error *err);

/* Which mounts are a volume's: others at the same path are never touched. Made by attach_owner(). */
struct mount_owner {
    bool (*owns)(const struct mount_owner *owner, dev_t number); /* its file system lies on such a device */
    const struct node_config *config;
    const char *volume_id;
    bool block; /* or, of a block volume, it is the node of a device of that kind */
};
bool mount_is_of(const struct mount_info *info, const struct mount_owner *owner);

/* Unmount what the owner (NULL: anyone) has mounted at path. E_PRECONDITION, naming the path, while it is in
 * use, and where another's mount is on top. */
int mount_remove(const char *path, const struct mount_owner *owner, struct error *err);

/* Every mount of the file systems that lie on the owner's device, wherever it is: detached. For a volume
 * whose staging nobody knows any more. */
int mount_remove_everywhere(const struct mount_owner *owner, struct error *err);

/* The same at any price, for a staging whose device is gone: detached where it is in use; what others mounted
 * stays. */
int mount_remove_lazily(const char *path, const struct mount_owner *owner, struct error *err);
