/* What a dead mooring-device left, by /proc and sysfs. No state; called by attach. */
#include "node/takeover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "node/loop_device.h"
#include "node/mount.h"
#include "node/process.h"

#define FUSE_MAJOR 10 /* /dev/fuse: the kernel's Documentation/admin-guide/devices.txt */
#define FUSE_MINOR 229

#define LOG_LINK "/memfd:mooring-replay-log" /* datapath/device/replay_log.c names it */

static bool takeover_is_fuse(int dir_fd, const char *name, int *problem)
{
    struct stat status;

    if (fstatat(dir_fd, name, &status, 0) == 0)
        return S_ISCHR(status.st_mode) && status.st_rdev == makedev(FUSE_MAJOR, FUSE_MINOR);
    *problem = errno == ENOENT ? *problem : errno; /* closed meanwhile */
    return false;
}

static bool takeover_is_log(int dir_fd, const char *name, int *problem)
{
    char link[sizeof(LOG_LINK)] = "";

    if (readlinkat(dir_fd, name, link, sizeof(link) - 1) >= 0)
        return str_equal(link, LOG_LINK);
    *problem = errno == ENOENT || errno == EINVAL ? *problem : errno; /* "." and ".." are no links */
    return false;
}

/* Where we may not look (no CAP_SYS_PTRACE), the mount or the device must do as evidence. */
static int takeover_has(pid_t pid, bool (*is)(int dir_fd, const char *name, int *problem), bool *ret,
                        struct error *err)
{
    char path[32];
    struct dirent *entry;
    bool found = false;
    int problem = 0;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    _cleanup_dir_ DIR *dir = opendir(path);
    if (!dir)
        problem = errno;
    while (dir && !found && (entry = readdir(dir)))
        found = is(dirfd(dir), entry->d_name, &problem);
    *ret = found || problem == EACCES;
    if (*ret || !problem || problem == ENOENT) /* of a process that has ended */
        return 0;
    return error_errno(err, problem, "cannot tell what mooring-holder %d holds", (int)pid);
}

int takeover_holds_log(const char *holder_pid, bool *ret, struct error *err)
{
    bool has_log = false;
    pid_t pid = 0;

    int r = process_find(holder_pid, &pid, err);
    if (!r)
        r = takeover_has(pid, takeover_is_log, &has_log, err);
    if (r && r != E_NOT_FOUND)
        return r;
    error_done(err);
    *ret = !r && has_log;
    return 0;
}

int takeover_holds(const char *holder_pid, const char *mount_point, bool *ret, struct error *err)
{
    _cleanup_mount_info_ struct mount_info mounted = {0};
    bool has_fuse = false;
    pid_t pid = 0;

    int r = process_find(holder_pid, &pid, err);
    if (!r)
        r = takeover_has(pid, takeover_is_fuse, &has_fuse, err);
    if (!r && has_fuse)
        r = mount_find(mount_point, &mounted, err);
    if (r && r != E_NOT_FOUND)
        return r;
    error_done(err);
    *ret = !r && has_fuse;
    return 0;
}

int takeover_keeps_device(const char *holder_pid, const char *mount_point, bool *ret, struct error *err)
{
    bool holds = false, exists = false;

    int r = takeover_holds(holder_pid, mount_point, &holds, err);
    if (!r && holds)
        r = loop_device_look(mount_point, &exists, err);
    if (!r)
        *ret = holds && exists;
    return r;
}
