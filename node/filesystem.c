/* libblkid, mkfs and e2fsck. No state; called by stage, between BeginFormat and EndFormat where it writes. */
#include "node/filesystem.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/size.h"
#include "common/strings.h"
#include "node/mkfs_command.h"
#include "node/process.h"

#define FILESYSTEM_PROBE_BYTES                                                                               \
    (8 * MIB) /* at either end: where every signature that libblkid knows begins                             \
               */
#define FILESYSTEM_PROBE_STEP MIB

bool filesystem_supported(const char *fs_type)
{
    return str_equal(fs_type, "ext4") || str_equal(fs_type, "xfs");
}

static int filesystem_read_range(int fd, void *buffer, uint64_t from, uint64_t to, const char *device,
                                 struct error *err)
{
    for (uint64_t at = from; at < to; at += FILESYSTEM_PROBE_STEP) {
        size_t length = (size_t)MIN(FILESYSTEM_PROBE_STEP, to - at);
        ssize_t n = pread(fd, buffer, length, (off_t)at);
        if (n != (ssize_t)length)
            return error_errno(err, n < 0 ? errno : EIO,
                               "cannot read %s at byte %llu, so whether it is blank is not known", device,
                               (unsigned long long)at);
    }
    return 0;
}

/* A direct read of both ends, past every cache. */
static int filesystem_read_ends(const char *device, struct error *err)
{
    _cleanup_free_ void *buffer = aligned_alloc(4096, FILESYSTEM_PROBE_STEP);
    _cleanup_fd_ int fd = open(device, O_RDONLY | O_DIRECT | O_CLOEXEC);
    uint64_t size;

    if (!buffer)
        return error_errno(err, ENOMEM, "cannot probe %s", device);
    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", device);
    if (ioctl(fd, BLKGETSIZE64, &size) < 0)
        return error_errno(err, errno, "cannot tell the size of %s", device);
    uint64_t head = MIN(size, FILESYSTEM_PROBE_BYTES);
    uint64_t tail = size - head < FILESYSTEM_PROBE_BYTES ? head : size - FILESYSTEM_PROBE_BYTES;
    int r = filesystem_read_range(fd, buffer, 0, head, device, err);
    return r ? r : filesystem_read_range(fd, buffer, tail, size, device, err);
}

static int filesystem_probe_result(blkid_probe probe, const char *device, char **ret_type, struct error *err)
{
    const char *type = NULL;

    errno = 0;
    int found = blkid_do_safeprobe(probe);
    if (found == -2)
        return error_set(err, E_PRECONDITION,
                         "%s carries more than one signature: see `wipefs %s`, and remove the wrong one",
                         device, device);
    if (found < 0)
        return error_errno(err, errno ? errno : EIO, "libblkid cannot probe %s", device);
    if (found == 1) {
        *ret_type = NULL;
        return 0;
    }
    if (blkid_probe_lookup_value(probe, "TYPE", &type, NULL) &&
        blkid_probe_lookup_value(probe, "PTTYPE", &type, NULL))
        type = "unknown";
    *ret_type = strdup(type);
    return *ret_type ? 0 : error_errno(err, ENOMEM, "cannot probe %s", device);
}

int filesystem_probe(const char *device, char **ret_type, struct error *err)
{
    int r = filesystem_read_ends(device, err);
    if (r)
        return r;
    blkid_probe probe = blkid_new_probe_from_filename(device);
    if (!probe)
        return error_errno(err, errno ? errno : EIO, "libblkid cannot open %s", device);
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_MAGIC);
    blkid_probe_enable_partitions(probe, 1);
    r = filesystem_probe_result(probe, device, ret_type, err);
    blkid_free_probe(probe);
    return r;
}

/* What the page cache holds of the device may be older than the discard on the server. */
static int filesystem_forget_cache(const char *device, struct error *err)
{
    _cleanup_fd_ int fd = open(device, O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", device);
    if (ioctl(fd, BLKFLSBUF, 0) < 0)
        return error_errno(err, errno, "cannot flush the cache of %s", device);
    return 0;
}

int filesystem_flush(const char *device, struct error *err)
{
    _cleanup_fd_ int fd = open(device, O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", device);
    if (fsync(fd) < 0)
        return error_errno(err, errno, "cannot flush %s", device);
    return 0;
}

int filesystem_is_free(const char *device, struct error *err)
{
    _cleanup_fd_ int fd = open(device, O_RDONLY | O_EXCL | O_CLOEXEC);

    if (fd >= 0)
        return 0;
    if (errno == EBUSY)
        return error_set(err, E_BUSY, "%s is in use, by a mkfs or fsck that was interrupted or by a person",
                         device);
    return error_errno(err, errno, "cannot open %s", device);
}

/* One that cannot be asked has its own words for why when it is to make something. */
static bool filesystem_has_new_xfs(const char *fs_type)
{
    const char *argv[] = {"mkfs.xfs", "-V", NULL};
    _cleanup_free_ char *output = NULL;
    int status;

    return str_equal(fs_type, "xfs") && process_run(argv, NULL, &status, &output, NULL) == 0 && !status &&
           mkfs_command_is_new_xfs(output);
}

int filesystem_make(const char *device, const char *fs_type, const char *options,
                    const struct process_watch *watch, struct error *err)
{
    _cleanup_mkfs_command_ struct mkfs_command command = {0};
    _cleanup_free_ char *output = NULL;
    int status;

    int r = mkfs_command_init(&command, device, fs_type, options, filesystem_has_new_xfs(fs_type), err);
    if (!r)
        r = filesystem_forget_cache(device, err);
    if (!r)
        r = process_run(command.argv, watch, &status, &output, err);
    if (r || status == 0)
        return r;
    return error_set(err, *options ? E_INVALID_ARGUMENT : -EIO, "%s of %s failed with status %d: %s",
                     command.argv[0], device, status, output);
}

int filesystem_check(const char *device, const char *fs_type, struct error *err)
{
    const char *argv[] = {"e2fsck", "-p", device, NULL};
    _cleanup_free_ char *output = NULL;
    int status, r;

    if (!str_equal(fs_type, "ext4")) /* XFS replays its log when it is mounted */
        return 0;
    r = process_run(argv, NULL, &status, &output, err);
    if (r || status <= 3) /* e2fsck(8): 1 and 2 are repaired */
        return r;
    if (status & 4)
        return error_set(
            err, E_PRECONDITION,
            "the ext4 file system on %s needs repair by hand (`e2fsck -f` on the attached volume): %s",
            device, output);
    return error_set(err, -EIO, "e2fsck of %s failed with status %d: %s", device, status, output);
}
