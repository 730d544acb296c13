/* libmount, wrapped. No state; called by the node's RPC threads. */
#include "node/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <libmount.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"

#define MOUNTS_MAX 256
#define MOUNT_STACK_MAX 32 /* mounts on top of one another at one path, before we give up */

void mount_info_done(struct mount_info *info)
{
    free(info->source);
    free(info->root);
    free(info->fs_type);
    *info = (struct mount_info){0};
}

static int mount_info_set(struct mount_info *info, const char *source, const char *root, const char *fs_type)
{
    info->source = strdup(source ? source : "");
    info->root = strdup(root ? root : "");
    info->fs_type = strdup(fs_type ? fs_type : "");
    if (info->source && info->root && info->fs_type)
        return 0;
    mount_info_done(info);
    return -ENOMEM;
}

static bool mount_has_option(const char *options, const char *name)
{
    return options && mnt_optstr_get_option(options, name, NULL, NULL) == 0;
}

/*
 * As the kernel's table has it: a folder above may be a symbolic link, as where a kubelet's root is on
 * another disk. The last name is taken as it is: it may be a mount whose storage hangs. NULL: no memory.
 */
static char *mount_real_path(const char *path)
{
    _cleanup_free_ char *parent = strdup(path);
    size_t length = strlen(path);

    while (parent && length > 1 && parent[length - 1] == '/')
        parent[--length] = '\0';
    char *slash = parent ? strrchr(parent, '/') : NULL;
    if (!slash || slash[1] == '\0')
        return parent ? strdup(path) : NULL;
    *slash = '\0';
    _cleanup_free_ char *real = realpath(slash == parent ? "/" : parent, NULL);
    if (!real) /* then nothing is mounted there */
        return errno == ENOMEM ? NULL : strdup(path);
    return str_format("%s/%s", str_equal(real, "/") ? "" : real, slash + 1);
}

int mount_find(const char *path, struct mount_info *ret_info, struct error *err)
{
    _cleanup_free_ char *real = mount_real_path(path);
    struct libmnt_table *table = real ? mnt_new_table_from_file("/proc/self/mountinfo") : NULL;
    unsigned long flags = 0;
    int r = 0;

    if (!real)
        return error_errno(err, ENOMEM, "cannot look at %s", path);
    if (!table)
        return error_errno(err, errno ? errno : EIO, "cannot read /proc/self/mountinfo");
    struct libmnt_fs *fs = mnt_table_find_target(table, real, MNT_ITER_BACKWARD);
    if (!fs) {
        r = error_set(err, E_NOT_FOUND, "nothing is mounted at %s", path);
    } else {
        struct mount_info info = {0};
        const char *options = mnt_fs_get_vfs_options(fs);
        if (options)
            mnt_optstr_get_flags(options, &flags, mnt_get_builtin_optmap(MNT_LINUX_MAP));
        info.readonly = flags & MS_RDONLY;
        info.device = mnt_fs_get_devno(fs);
        options = mnt_fs_get_fs_options(fs);
        info.filesystem_readonly =
            mount_has_option(options, "ro") || mount_has_option(options, "emergency_ro");
        info.filesystem_shut_down = mount_has_option(options, "shutdown");
        if (mount_info_set(&info, mnt_fs_get_source(fs), mnt_fs_get_root(fs), mnt_fs_get_fstype(fs)))
            r = error_errno(err, ENOMEM, "cannot keep what is mounted at %s", path);
        else
            *ret_info = info;
    }
    mnt_unref_table(table);
    return r;
}

/* libmount's own words for what went wrong, in the class of error that it is. */
static int mount_explain(struct libmnt_context *context, int result, const char *what, struct error *err)
{
    char words[512] = "";

    mnt_context_get_excode(context, result, words, sizeof(words));
    int code = mnt_context_syscall_called(context) ? mnt_context_get_syscall_errno(context) : 0;
    if (code == EBUSY)
        return error_set(err, E_PRECONDITION, "%s: it is in use: %s", what, words);
    if (code == EUCLEAN)
        return error_set(
            err, E_PRECONDITION,
            "%s: the file system is damaged and needs repair by hand (`e2fsck -f` or `xfs_repair` "
            "on the attached volume): %s",
            what, words);
    if (code == EINVAL || result == -EINVAL)
        return error_set(err, E_INVALID_ARGUMENT, "%s: %s (see the kernel's log)", what, words);
    return error_set(err, code ? -code : -EIO, "%s: %s", what, words);
}

int mount_device(const char *device, const char *path, const char *fs_type, const char *options,
                 bool readonly, struct error *err)
{
    struct libmnt_context *context = mnt_new_context();
    int r = 0;

    if (!context)
        return error_errno(err, ENOMEM, "cannot mount %s", path);
    _cleanup_free_ char *all = str_format("%s%s%s", readonly ? "ro" : "rw", *options ? "," : "", options);
    _cleanup_free_ char *what =
        str_format("cannot mount %s (%s, options \"%s\") at %s", device, fs_type, options, path);
    if (!all || !what || mnt_context_set_source(context, device) || mnt_context_set_target(context, path) ||
        mnt_context_set_fstype(context, fs_type) || mnt_context_set_options(context, all)) {
        r = error_errno(err, ENOMEM, "cannot mount %s", path);
    } else {
        int result = mnt_context_mount(context);
        if (result)
            r = mount_explain(context, result, what, err);
    }
    mnt_free_context(context);
    return r;
}

/*
 * libmount's table of what the kernel does not keep of a mount (/run/mount/utab): systemd reads there that a
 * mount needs the network. Without an entry a bind mount, which keeps the file system alive, would be taken
 * for a local one and outlast the network at shutdown. Best effort: the mount itself is made or gone.
 */
static void mount_note(const char *device, const char *path)
{
    _cleanup_free_ char *real = mount_real_path(path);
    struct libmnt_update *update = mnt_new_update();
    struct libmnt_fs *fs = mnt_new_fs();

    if (real && update && fs && mnt_fs_set_source(fs, device) == 0 && mnt_fs_set_target(fs, real) == 0 &&
        mnt_fs_set_options(fs, "_netdev") == 0 && mnt_update_set_fs(update, 0, NULL, fs) == 0)
        mnt_update_table(update, NULL);
    mnt_unref_fs(fs);
    mnt_free_update(update);
}

static void mount_forget(const char *path)
{
    _cleanup_free_ char *real = mount_real_path(path);
    struct libmnt_update *update = mnt_new_update();

    if (real && update && mnt_update_set_fs(update, 0, real, NULL) == 0)
        mnt_update_table(update, NULL);
    mnt_free_update(update);
}

int mount_bind(const char *source, const char *path, bool readonly, struct error *err)
{
    struct mount_attr attributes = {.attr_set = readonly ? MOUNT_ATTR_RDONLY : 0};
    _cleanup_fd_ int fd = open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

    if (fd < 0)
        return error_errno(err, errno, "cannot bind %s", source);
    if (mount_setattr(fd, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0)
        return error_errno(err, errno, "cannot make %s read-only", path);
    if (move_mount(fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return error_errno(err, errno, "cannot bind %s onto %s", source, path);
    _cleanup_mount_info_ struct mount_info mounted = {0};
    if (mount_find(path, &mounted, NULL) == 0 && str_equal(mounted.root, "/"))
        mount_note(mounted.source, path);
    return 0;
}

/* ---- taking away ---- */

/* One of a kind that volumes have: whose it was cannot be told any more once it is gone. */
static bool mount_is_device_node(const char *name)
{
    return str_starts_with(name, "loop") || str_starts_with(name, "ublkb") || str_starts_with(name, "sd");
}

bool mount_is_of(const struct mount_info *info, const struct mount_owner *owner)
{
    const char *name = strrchr(info->root, '/');

    if (owner->block && name && mount_is_device_node(name + 1))
        return true;
    return owner->owns(owner, info->device);
}

static int mount_remove_top(const char *path, int flags, struct error *err)
{
    if (umount2(path, flags | UMOUNT_NOFOLLOW) == 0 || errno == EINVAL || errno == ENOENT) {
        mount_forget(path);
        return 0;
    }
    if (errno == EBUSY)
        return error_set(err, E_PRECONDITION, "%s is in use: end what has files open there, then try again",
                         path);
    return error_errno(err, errno, "cannot unmount %s", path);
}

static int mount_remove_with(const char *path, const struct mount_owner *owner, int flags, struct error *err)
{
    for (unsigned i = 0; i < MOUNT_STACK_MAX; i++) {
        _cleanup_mount_info_ struct mount_info info = {0};
        int r = mount_find(path, &info, NULL);

        if (r == E_NOT_FOUND)
            return 0;
        if (r)
            return error_set(err, r, "cannot tell what is mounted at %s", path);
        if (owner && !mount_is_of(&info, owner))
            return error_set(err, E_PRECONDITION,
                             "%s is covered by %s (%s), which is not ours: unmount it first", path,
                             info.source, info.fs_type);
        r = mount_remove_top(path, flags, err);
        if (r)
            return r;
    }
    return error_set(err, E_PRECONDITION, "more than %d mounts are stacked at %s", MOUNT_STACK_MAX, path);
}

int mount_remove(const char *path, const struct mount_owner *owner, struct error *err)
{
    return mount_remove_with(path, owner, 0, err);
}

int mount_remove_lazily(const char *path, const struct mount_owner *owner, struct error *err)
{
    _cleanup_error_ struct error why = {0};
    int r = mount_remove_with(path, owner, MNT_DETACH, &why);

    if (r == E_PRECONDITION) {
        log_warning("left as it is: %s", error_text(&why));
        return 0;
    }
    error_move(err, &why);
    return r;
}

/* The path of one that is left, on the heap; NULL when there is none. */
static char *mount_find_of(const struct mount_owner *owner)
{
    struct libmnt_table *table = mnt_new_table_from_file("/proc/self/mountinfo");
    struct libmnt_iter *iter = mnt_new_iter(MNT_ITER_BACKWARD);
    struct libmnt_fs *fs;
    char *path = NULL;

    while (table && iter && !path && mnt_table_next_fs(table, iter, &fs) == 0) {
        if (owner->owns(owner, mnt_fs_get_devno(fs)) && mnt_fs_get_target(fs))
            path = strdup(mnt_fs_get_target(fs));
    }
    mnt_free_iter(iter);
    mnt_unref_table(table);
    return path;
}

int mount_remove_everywhere(const struct mount_owner *owner, struct error *err)
{
    for (unsigned i = 0; i < MOUNTS_MAX; i++) {
        _cleanup_free_ char *path = mount_find_of(owner);
        if (!path)
            return 0;
        log_warning("volume %s: %s is still mounted from a staging that nobody knows: it is detached",
                    owner->volume_id, path);
        int r = mount_remove_top(path, MNT_DETACH, err);
        if (r)
            return r;
    }
    return error_set(err, E_PRECONDITION, "volume %s has more than %d mounts", owner->volume_id, MOUNTS_MAX);
}
