/* mount(2) of type fuse, cloning, unmounting. Runs on offload threads; called by device.c. */
#include "datapath/device/fuse_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"
#include "datapath/device/fuse_proto.h"

#define FUSE_DEVICE "/dev/fuse"
#define FUSE_TYPE "fuse.mooring"
#define PAGE 4096

/* The type of the newest mount at path: "" when there is none. Never touches the mount itself. */
static int mount_type(const char *path, char ret_type[64], struct error *err)
{
    _cleanup_file_ FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file)
        return error_errno(err, errno, "/proc/self/mountinfo");
    _cleanup_free_ char *line = NULL;
    size_t size = 0;
    ret_type[0] = '\0';
    while (getline(&line, &size, file) > 0) {
        char *fields[5], *rest = line;
        for (int i = 0; i < 5; i++)
            fields[i] = strsep(&rest, " ");
        char *separator = rest ? strstr(rest, " - ") : NULL;
        if (!separator || !fields[4])
            continue;
        str_unescape_octal(fields[4]);
        if (strcmp(fields[4], path) == 0)
            sscanf(separator + 3, "%63s", ret_type);
    }
    return 0;
}

static int clear_dead(const char *path, struct error *err)
{
    char type[64];
    int r = mount_type(path, type, err);
    if (r || type[0] == '\0')
        return r;
    if (strcmp(type, FUSE_TYPE) != 0)
        return error_set(err, E_BUSY, "%s is taken by a mount of type %s", path, type);
    if (umount2(path, MNT_DETACH) < 0)
        return error_errno(err, errno, "cannot clear the dead mount at %s", path);
    return 0;
}

int fuse_mount(const char *path, const char *volume_id, int *ret_fd, struct error *err)
{
    int r = clear_dead(path, err);
    r = r ? r : io_make_dirs(path, 0700, err);
    if (r)
        return r;
    _cleanup_fd_ int fd = open(FUSE_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_errno(err, errno, "%s: is the fuse module loaded?", FUSE_DEVICE);
    char options[96];
    snprintf(options, sizeof options, "fd=%d,rootmode=40500,user_id=0,group_id=0,max_read=%u", fd,
             FUSE_PROTO_MAX_WRITE);
    if (mount(volume_id, path, FUSE_TYPE, MS_NODEV | MS_NOSUID | MS_NOEXEC, options) < 0)
        return error_errno(err, errno, "cannot mount at %s", path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int fuse_clone(int fd, int *ret_fd, struct error *err)
{
    _cleanup_fd_ int clone = open(FUSE_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (clone < 0)
        return error_errno(err, errno, "%s", FUSE_DEVICE);
    uint32_t source = (uint32_t)fd;
    if (ioctl(clone, FUSE_DEV_IOC_CLONE, &source) < 0)
        return error_errno(err, errno, "cannot clone the FUSE descriptor");
    *ret_fd = TAKE_FD(clone);
    return 0;
}

int fuse_unmount(const char *path, struct error *err)
{
    char type[64];
    int r = mount_type(path, type, err);
    if (r || strcmp(type, FUSE_TYPE) != 0)
        return r;
    if (umount2(path, UMOUNT_NOFOLLOW) == 0)
        return 0;
    if (errno == EBUSY)
        return error_set(err, E_BUSY, "the file in %s is still open", path);
    return error_errno(err, errno, "cannot unmount %s", path);
}

int fuse_abort(const char *path, struct error *err)
{
    char type[64];
    int r = mount_type(path, type, err);
    if (r || strcmp(type, FUSE_TYPE) != 0)
        return r;
    if (umount2(path, MNT_FORCE | UMOUNT_NOFOLLOW) < 0 && errno != EBUSY)
        return error_errno(err, errno, "cannot abort %s", path);
    return 0;
}

/* ---- notices ---- */

/* One that concerns an inode which nobody has looked at is answered with ENOENT. */
static int notify(int fd, int code, const void *head, size_t head_length, const void *data, size_t length,
                  struct error *err)
{
    struct fuse_out_header header = {.len = (uint32_t)(sizeof header + head_length + length), .error = code};
    struct iovec iov[3] = {{&header, sizeof header}, {(void *)head, head_length}, {(void *)data, length}};
    if (writev(fd, iov, length ? 3 : 2) >= 0 || errno == ENOENT)
        return 0;
    return error_errno(err, errno, "the kernel does not take notice %d of the FUSE file", code);
}

int fuse_notify_size(int fd, uint64_t ino, uint64_t size_bytes, struct error *err)
{
    static const char zero;
    const struct fuse_notify_store_out store = {.nodeid = ino, .offset = size_bytes - 1, .size = 1};
    const struct fuse_notify_inval_inode_out forget = {
        .ino = ino, .off = (int64_t)((size_bytes - 1) / PAGE * PAGE), .len = PAGE};
    int r = notify(fd, FUSE_NOTIFY_STORE, &store, sizeof store, &zero, sizeof zero, err);
    return r ? r : notify(fd, FUSE_NOTIFY_INVAL_INODE, &forget, sizeof forget, NULL, 0, err);
}
