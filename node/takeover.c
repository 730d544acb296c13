/* What a dead mooring-device left, by /proc and sysfs. No state; called by attach. */
#include "node/takeover.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "node/loop_device.h"
#include "node/mount.h"
#include "node/process.h"

#define FUSE_MAJOR 10 /* /dev/fuse: the kernel's Documentation/admin-guide/devices.txt */
#define FUSE_MINOR 229

/* Where we may not look (no CAP_SYS_PTRACE), the mount must do as evidence. */
static bool takeover_has_fuse(pid_t pid)
{
    char path[32];
    struct dirent *entry;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    _cleanup_dir_ DIR *dir = opendir(path);
    if (!dir)
        return true;
    while ((entry = readdir(dir))) {
        struct stat status;

        if (fstatat(dirfd(dir), entry->d_name, &status, 0) == 0 && S_ISCHR(status.st_mode) &&
            status.st_rdev == makedev(FUSE_MAJOR, FUSE_MINOR))
            return true;
    }
    return false;
}

bool takeover_holds(const char *holder_pid, const char *mount_point)
{
    _cleanup_mount_info_ struct mount_info mounted = {0};
    pid_t pid;

    return process_alive(holder_pid, &pid) && takeover_has_fuse(pid) &&
           mount_find(mount_point, &mounted, NULL) == 0;
}

bool takeover_keeps_device(const char *holder_pid, const char *mount_point)
{
    return takeover_holds(holder_pid, mount_point) && loop_device_exists(mount_point);
}
