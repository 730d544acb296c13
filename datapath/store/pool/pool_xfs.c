/*
 * What the pool asks of XFS beyond POSIX. The ioctls' shapes are restated here, since the distribution's
 * xfslibs-dev is not needed for anything else: Linux, fs/xfs/libxfs/xfs_fs.h (XFS_IOC_FSGEOMETRY_V1,
 * XFS_IOC_DIOINFO, XFS_IOC_FD_TO_HANDLE, XFS_IOC_OPEN_BY_HANDLE) and include/uapi/linux/fs.h
 * (FS_IOC_FSSETXATTR). No state; blocks.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "datapath/store/pool/pool_internal.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

struct xfs_geometry {
    uint32_t before_data[8];
    uint64_t data[4];
    unsigned char uuid[16];
    uint32_t stripe[2];
    int32_t version;
    uint32_t flags;
    uint32_t after[3];
};
#define XFS_GEOMETRY _IOR('X', 100, struct xfs_geometry)
#define XFS_GEOMETRY_REFLINK (1u << 20)

struct xfs_direct {
    uint32_t memory, length_min, length_max;
};
#define XFS_DIRECT _IOR('X', 30, struct xfs_direct)

_Static_assert(sizeof(struct xfs_geometry) == 112, "the kernel's size of it is part of the ioctl's number");

struct xfs_handle_request {
    uint32_t fd;
    const char *path;
    uint32_t open_flags;
    void *given;
    uint32_t given_size;
    void *made;
    uint32_t *made_size;
};
#define XFS_FD_TO_HANDLE _IOWR('X', 106, struct xfs_handle_request)
#define XFS_OPEN_BY_HANDLE _IOWR('X', 107, struct xfs_handle_request)
#define XFS_HANDLE_MAX 64

static const char *file_system_name(long magic)
{
    static const struct {
        long magic;
        const char *name;
    } known[] = {
        {EXT4_SUPER_MAGIC, "ext4"},           {TMPFS_MAGIC, "tmpfs"},   {BTRFS_SUPER_MAGIC, "btrfs"},
        {OVERLAYFS_SUPER_MAGIC, "overlayfs"}, {NFS_SUPER_MAGIC, "NFS"}, {0x2fc12fc1, "ZFS"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (known[i].magic == magic)
            return known[i].name;
    }
    return NULL;
}

int pool_check_xfs(int fd, const char *path, struct error *err)
{
    struct xfs_geometry geometry = {0};
    struct statfs status;
    char number[32];
    const char *name;

    if (fstatfs(fd, &status) < 0)
        return error_errno(err, errno, "cannot tell the file system of %s", path);
    if (status.f_type != XFS_SUPER_MAGIC) {
        name = file_system_name((long)status.f_type);
        snprintf(number, sizeof(number), "type 0x%lx", (long)status.f_type);
        return error_set(err, E_PRECONDITION,
                         "%s is on %s: a pool needs XFS with reflink; `mooring pool create` makes one on a "
                         "device or in an image file",
                         path, name ? name : number);
    }
    if (ioctl(fd, XFS_GEOMETRY, &geometry) < 0)
        return error_errno(err, errno, "cannot read the geometry of the XFS at %s", path);
    if (!(geometry.flags & XFS_GEOMETRY_REFLINK))
        return error_set(err, E_PRECONDITION,
                         "%s is on XFS without reflink: make it anew with mkfs.xfs -m reflink=1", path);
    return E_OK;
}

int pool_direct_granularity(int fd, uint32_t *ret_bytes, struct error *err)
{
    struct xfs_direct direct = {0};

    if (ioctl(fd, XFS_DIRECT, &direct) < 0)
        return error_errno(err, errno, "cannot tell the finest direct I/O of the pool");
    *ret_bytes = direct.length_min;
    return E_OK;
}

int pool_set_extent_hint(int fd, uint32_t size_bytes)
{
    struct fsxattr attributes = {0};

    if (ioctl(fd, FS_IOC_FSGETXATTR, &attributes) < 0)
        return -errno;
    attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
    attributes.fsx_extsize = size_bytes;
    return ioctl(fd, FS_IOC_FSSETXATTR, &attributes) < 0 ? -errno : 0;
}

int pool_open_timeless(int dir_fd, int fd)
{
    uint8_t handle[XFS_HANDLE_MAX];
    uint32_t size = sizeof(handle);
    struct xfs_handle_request name = {.fd = (uint32_t)fd, .made = handle, .made_size = &size};
    struct xfs_handle_request again = {.fd = (uint32_t)dir_fd, .given = handle};
    int flags = fcntl(fd, F_GETFL), timeless;

    if (flags < 0 || ioctl(fd, XFS_FD_TO_HANDLE, &name) < 0)
        return -errno;
    again.given_size = size;
    again.open_flags = (uint32_t)flags;
    timeless = ioctl(dir_fd, XFS_OPEN_BY_HANDLE, &again);
    if (timeless < 0)
        return -errno;
    fcntl(timeless, F_SETFD, FD_CLOEXEC);
    return timeless;
}
