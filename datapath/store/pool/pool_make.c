/*
 * Making and mounting a file system for a pool. No state; blocks; called by mooring-pool only.
 */
#include "datapath/store/pool/pool_make.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/size.h"
#include "common/strings.h"

#define MKFS_WORDS_MAX 512
#define LOOP_ATTEMPTS 16

/* ---- mkfs.xfs ---- */

/* What the program says on fd, cut to size, as one line. */
static void read_words(int fd, char *words, size_t size)
{
    size_t length = 0;
    ssize_t count;
    char rest[256];

    while ((count = read(fd, rest, sizeof(rest))) > 0 || (count < 0 && errno == EINTR)) {
        for (ssize_t i = 0; i < count && length + 1 < size; i++)
            words[length++] = rest[i] == '\n' ? ' ' : rest[i];
    }
    words[length] = '\0';
}

static int spawn_mkfs(const char *target, int words_fd, pid_t *ret_pid)
{
    char *const arguments[] = {(char *)"mkfs.xfs", (char *)"-q",   (char *)"-m", (char *)"reflink=1",
                               (char *)"--",       (char *)target, NULL};
    posix_spawn_file_actions_t actions;
    int errnum;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, words_fd, STDERR_FILENO);
    errnum = posix_spawnp(ret_pid, "mkfs.xfs", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    return errnum;
}

static int make_xfs(const char *target, struct error *err)
{
    _cleanup_fd_ int read_fd = -1, write_fd = -1;
    char words[MKFS_WORDS_MAX];
    int ends[2], errnum, status;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot start mkfs.xfs");
    read_fd = ends[0];
    write_fd = ends[1];
    errnum = spawn_mkfs(target, write_fd, &pid);
    if (errnum != 0)
        return error_errno(err, errnum, "cannot start mkfs.xfs (Debian's package xfsprogs has it)");
    write_fd = fd_close(write_fd);
    read_words(read_fd, words, sizeof(words));
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return error_errno(err, errno, "cannot wait for mkfs.xfs");
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return error_set(err, E_PRECONDITION, "mkfs.xfs could not make a file system on %s: %s", target,
                         words);
    return E_OK;
}

/* ---- the mountpoint ---- */

static int check_mountpoint(const char *mountpoint, struct error *err)
{
    _cleanup_dir_ DIR *dir = NULL;
    const struct dirent *entry;
    int r = io_make_dirs(mountpoint, 0700, err);

    if (r != E_OK)
        return r;
    dir = opendir(mountpoint);
    if (!dir)
        return error_errno(err, errno, "cannot read directory %s", mountpoint);
    while ((entry = readdir(dir))) {
        if (!str_equal(entry->d_name, ".") && !str_equal(entry->d_name, ".."))
            return error_set(err, E_EXISTS, "%s is not empty: choose another directory for the pool",
                             mountpoint);
    }
    return E_OK;
}

static int mount_xfs(const char *device, const char *mountpoint, struct error *err)
{
    if (mount(device, mountpoint, "xfs", MS_NODEV | MS_NOSUID | MS_NOEXEC | MS_NOATIME, NULL) < 0)
        return error_errno(err, errno, "cannot mount %s at %s", device, mountpoint);
    return E_OK;
}

/* ---- an image ---- */

/* A free loop device on the file, which the kernel gives back at the last close: after the unmount. The
 * caller holds ret_fd until the mount stands. */
static int attach_loop(int image_fd, char ret_device[32], int *ret_fd, struct error *err)
{
    _cleanup_fd_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    struct loop_config config = {.fd = (unsigned)image_fd,
                                 .info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO};

    if (control < 0)
        return error_errno(err, errno, "cannot open /dev/loop-control");
    for (int attempt = 0; attempt < LOOP_ATTEMPTS; attempt++) {
        _cleanup_fd_ int fd = -1;
        int number = ioctl(control, LOOP_CTL_GET_FREE);

        if (number < 0)
            break;
        snprintf(ret_device, 32, "/dev/loop%d", number);
        fd = open(ret_device, O_RDWR | O_CLOEXEC);
        if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
            *ret_fd = TAKE_FD(fd);
            return E_OK;
        }
        if (errno != EBUSY) /* EBUSY: another program was faster */
            break;
    }
    return error_errno(err, errno, "cannot set up a loop device");
}

static int mount_image(int image_fd, const char *mountpoint, struct error *err)
{
    _cleanup_fd_ int loop_fd = -1;
    char device[32];
    int r = attach_loop(image_fd, device, &loop_fd, err);

    return r == E_OK ? mount_xfs(device, mountpoint, err) : r;
}

int pool_make_image(const char *image, uint64_t size_bytes, const char *mountpoint, struct error *err)
{
    _cleanup_fd_ int fd = -1;
    int r;

    if (size_bytes < POOL_MAKE_IMAGE_MIN_BYTES)
        return error_set(err, E_OUT_OF_RANGE,
                         "an image of %" PRIu64 " bytes is too small: XFS needs %" PRIu64, size_bytes,
                         POOL_MAKE_IMAGE_MIN_BYTES);
    r = check_mountpoint(mountpoint, err);
    if (r != E_OK)
        return r;
    fd = open(image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno == EEXIST)
        return error_set(err, E_EXISTS, "%s exists: it is not overwritten", image);
    if (fd < 0)
        return error_errno(err, errno, "cannot create %s", image);
    if (ftruncate(fd, (off_t)ROUND_DOWN(size_bytes, 4096)) < 0)
        r = error_errno(err, errno, "cannot give %s its size", image);
    else
        r = make_xfs(image, err);
    if (r == E_OK)
        r = mount_image(fd, mountpoint, err);
    if (r != E_OK)
        unlink(image);
    return r;
}

int pool_make_undo(const char *image, const char *mountpoint, struct error *err)
{
    if (umount2(mountpoint, UMOUNT_NOFOLLOW) < 0)
        return error_errno(err, errno, "cannot unmount %s", mountpoint);
    if (unlink(image) < 0)
        return error_errno(err, errno, "cannot remove %s", image);
    return E_OK;
}

/* ---- a device ---- */

/* What libblkid finds, for the text; "something" when it cannot tell which of several. */
static int probe(blkid_probe prober, const char *device, struct error *err)
{
    const char *type = "something that libblkid cannot tell apart";
    int found;

    blkid_probe_enable_superblocks(prober, 1);
    blkid_probe_set_superblocks_flags(prober, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_MAGIC);
    blkid_probe_enable_partitions(prober, 1);
    found = blkid_do_safeprobe(prober);
    if (found == 1)
        return E_OK;
    if (found == -1)
        return error_set(err, -EIO, "cannot tell what is on %s: it could not be read", device);
    if (found == 0 && blkid_probe_lookup_value(prober, "TYPE", &type, NULL) < 0)
        (void)blkid_probe_lookup_value(prober, "PTTYPE", &type, NULL);
    return error_set(err, E_EXISTS, "%s holds data (%s): it is not overwritten; `wipefs` clears it", device,
                     type);
}

static int check_device(const char *device, struct error *err)
{
    _cleanup_fd_ int fd = open(device, O_RDWR | O_EXCL | O_CLOEXEC);
    struct stat status;
    blkid_probe prober;
    int r;

    if (fd < 0 && errno == EBUSY)
        return error_set(err, E_BUSY, "%s is in use: mounted, or part of another device", device);
    if (fd < 0)
        return error_errno(err, errno, "cannot open %s", device);
    if (fstat(fd, &status) < 0 || !S_ISBLK(status.st_mode))
        return error_set(err, E_INVALID_ARGUMENT, "%s is not a block device", device);
    prober = blkid_new_probe();
    if (!prober || blkid_probe_set_device(prober, fd, 0, 0) < 0)
        r = error_errno(err, ENOMEM, "cannot look at %s", device);
    else
        r = probe(prober, device, err);
    blkid_free_probe(prober);
    return r;
}

int pool_make_device(const char *device, const char *mountpoint, struct error *err)
{
    int r = check_device(device, err);

    if (r == E_OK)
        r = check_mountpoint(mountpoint, err);
    if (r == E_OK)
        r = make_xfs(device, err); /* without -f: mkfs.xfs looks again by itself */
    return r == E_OK ? mount_xfs(device, mountpoint, err) : r;
}
