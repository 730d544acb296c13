/* How large a file system is, and making it larger while it is mounted. No state; called by expand.c. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "node/filesystem.h"

#define HEAD_BYTES 4096
#define XFS_MAGIC 0x58465342 /* "XFSB" */
#define EXT4_SUPERBLOCK 1024
#define EXT4_MAGIC 0xef53
#define EXT4_INCOMPAT_64BIT 0x80

static uint32_t get_le32(const uint8_t *at)
{
    return (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

/* The kernel's Documentation/filesystems/ext4: s_blocks_count, s_log_block_size, s_magic. */
static uint64_t filesystem_ext4_size(const uint8_t *superblock)
{
    uint32_t log_block = get_le32(superblock + 0x18);
    uint64_t blocks = get_le32(superblock + 0x04);

    if ((superblock[0x39] << 8 | superblock[0x38]) != EXT4_MAGIC || log_block > 6)
        return 0;
    if (get_le32(superblock + 0x60) & EXT4_INCOMPAT_64BIT)
        blocks |= (uint64_t)get_le32(superblock + 0x150) << 32;
    return blocks > UINT64_MAX >> (10 + log_block) ? 0 : blocks << (10 + log_block);
}

/* sb_magicnum, sb_blocksize, sb_dblocks. */
static uint64_t filesystem_xfs_size(const uint8_t *superblock)
{
    uint64_t block = get_be32(superblock + 4), blocks = get_be64(superblock + 8);

    if (get_be32(superblock) != XFS_MAGIC || block < 512 || block > 65536)
        return 0;
    return blocks > UINT64_MAX / block ? 0 : blocks * block;
}

uint64_t filesystem_parse_size(const char *fs_type, const uint8_t *head)
{
    return str_equal(fs_type, "xfs") ? filesystem_xfs_size(head)
                                     : filesystem_ext4_size(head + EXT4_SUPERBLOCK);
}

/* Past the cache: XFS keeps its superblock elsewhere. */
int filesystem_size(const char *device, const char *fs_type, uint64_t *ret_filesystem_bytes,
                    uint64_t *ret_device_bytes, struct error *err)
{
    _cleanup_free_ uint8_t *head = aligned_alloc(HEAD_BYTES, HEAD_BYTES);
    _cleanup_fd_ int fd = open(device, O_RDONLY | O_DIRECT | O_CLOEXEC);
    uint64_t device_bytes = 0;

    if (!head)
        return error_errno(err, ENOMEM, "cannot tell the size of %s", device);
    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", device);
    if (ioctl(fd, BLKGETSIZE64, &device_bytes) < 0)
        return error_errno(err, errno, "cannot tell the size of %s", device);
    ssize_t n = pread(fd, head, HEAD_BYTES, 0);
    if (n != HEAD_BYTES)
        return error_errno(err, n < 0 ? errno : EIO, "cannot read %s", device);
    uint64_t filesystem_bytes = filesystem_parse_size(fs_type, head);
    if (!filesystem_bytes)
        return error_set(err, E_PRECONDITION, "%s has no superblock of %s", device, fs_type);
    *ret_filesystem_bytes = filesystem_bytes;
    *ret_device_bytes = device_bytes;
    return 0;
}

int filesystem_grow(const char *device, const char *path, const char *fs_type, struct error *err)
{
    bool xfs = str_equal(fs_type, "xfs");
    const char *ext4_argv[] = {"resize2fs", device, NULL};
    const char *xfs_argv[] = {"xfs_growfs", "-d", path, NULL};
    const char *const *argv = xfs ? xfs_argv : ext4_argv;
    _cleanup_free_ char *output = NULL;
    int status;

    if (!xfs && prctl(PR_CAPBSET_READ, CAP_SYS_RESOURCE) == 0)
        return error_set(err, E_PERMISSION,
                         "the ext4 file system at %s cannot grow while it is mounted: the kernel wants "
                         "CAP_SYS_RESOURCE for that, which mooring-node was started without",
                         path);
    int r = process_run(argv, NULL, &status, &output, err);
    if (r || status == 0)
        return r;
    return error_set(err, E_PRECONDITION,
                     "the %s file system at %s cannot grow: %s failed with status %d: %s", fs_type, path,
                     argv[0], status, output);
}
