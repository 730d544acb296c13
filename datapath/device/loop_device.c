/* Loop devices by ioctl and sysfs. Runs on offload threads; called by device.c. */
#include "datapath/device/loop_device.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/cleanup.h"
#include "common/strings.h"

#define LOOP_MAJOR 7
#define LOOP_NUMBER_MAX 1048575
#define CREATE_ATTEMPTS 64
#define ATTRIBUTE_MAX 4096

/* Where a loop device's backing file is, from sysfs, without opening the device: a look at a device of
 * others must not hold it. false when it has none. */
static bool backing_file(int number, char ret_file[ATTRIBUTE_MAX])
{
    char path[64];
    snprintf(path, sizeof path, "/sys/block/loop%d/loop/backing_file", number);
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, ret_file, ATTRIBUTE_MAX - 1);
    if (length <= 0)
        return false;
    ret_file[length] = '\0';
    ret_file[strcspn(ret_file, "\n")] = '\0';
    return true;
}

/* The N of "<prefix>loopN", or -1. */
static int loop_number(const char *text, const char *prefix)
{
    size_t length = strlen(prefix);
    char *end;
    if (strncmp(text, prefix, length) != 0 || text[length] < '0' || text[length] > '9')
        return -1;
    long number = strtol(text + length, &end, 10);
    return *end || number > LOOP_NUMBER_MAX ? -1 : (int)number;
}

int loop_device_find(const char *file, char ret_path[LOOP_DEVICE_PATH_MAX], struct error *err)
{
    _cleanup_dir_ DIR *directory = opendir("/sys/block");
    if (!directory)
        return error_errno(err, errno, "/sys/block");
    char backing[ATTRIBUTE_MAX];
    for (struct dirent *entry; (entry = readdir(directory));) {
        int number = loop_number(entry->d_name, "loop");
        if (number >= 0 && backing_file(number, backing) && str_equal(backing, file)) {
            snprintf(ret_path, LOOP_DEVICE_PATH_MAX, "/dev/loop%d", number);
            return 0;
        }
    }
    return error_set(err, E_NOT_FOUND, "no loop device over %s", file);
}

/* Without udev (a container, an initramfs) nobody makes the node. */
static int open_node(int number, bool read_only, char ret_path[LOOP_DEVICE_PATH_MAX])
{
    snprintf(ret_path, LOOP_DEVICE_PATH_MAX, "/dev/loop%d", number);
    int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
    int fd = open(ret_path, flags);
    if (fd < 0 && errno == ENOENT &&
        (mknod(ret_path, S_IFBLK | 0600, makedev(LOOP_MAJOR, (unsigned)number)) == 0 || errno == EEXIST))
        fd = open(ret_path, flags);
    return fd;
}

static int configure(int device, int file, uint32_t block_size_bytes, bool read_only, const char *name)
{
    struct loop_config config = {.fd = (uint32_t)file, .block_size = block_size_bytes};
    config.info.lo_flags = LO_FLAGS_DIRECT_IO | (read_only ? LO_FLAGS_READ_ONLY : 0);
    size_t length = strnlen(name, LO_NAME_SIZE - 1);
    memcpy(config.info.lo_file_name, name, length);
    return ioctl(device, LOOP_CONFIGURE, &config) < 0 ? -errno : 0;
}

static int verify(int device, struct error *err)
{
    struct loop_info64 info;
    if (ioctl(device, LOOP_GET_STATUS64, &info) < 0)
        return error_errno(err, errno, "cannot read the loop device's status");
    if (!(info.lo_flags & LO_FLAGS_DIRECT_IO))
        return error_set(err, E_UNIMPLEMENTED, "this kernel does not do direct I/O over the FUSE file");
    return 0;
}

/* One attempt on the device that the kernel names as free: E_BUSY when somebody else was faster. */
static int create_once(int control, int file, const char *name, uint32_t block_size_bytes, bool read_only,
                       char ret_path[LOOP_DEVICE_PATH_MAX], struct error *err)
{
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0)
        return error_errno(err, errno, "no free loop device");
    _cleanup_fd_ int device = open_node(number, read_only, ret_path);
    if (device < 0)
        return error_errno(err, errno, "%s", ret_path);
    int r = configure(device, file, block_size_bytes, read_only, name);
    if (r == -EBUSY)
        return error_set(err, E_BUSY, "%s was taken meanwhile", ret_path);
    if (r)
        return error_errno(err, -r, "cannot configure %s", ret_path);
    r = verify(device, err);
    if (r)
        ioctl(device, LOOP_CLR_FD);
    return r;
}

int loop_device_create(const char *file, uint32_t block_size_bytes, bool read_only,
                       char ret_path[LOOP_DEVICE_PATH_MAX], struct error *err)
{
    _cleanup_fd_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return error_errno(err, errno, "/dev/loop-control: is the loop module loaded?");
    _cleanup_fd_ int backing = open(file, (read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
    if (backing < 0)
        return error_errno(err, errno, "%s", file);
    int r = E_BUSY;
    for (int i = 0; i < CREATE_ATTEMPTS && r == E_BUSY; i++)
        r = create_once(control, backing, file, block_size_bytes, read_only, ret_path, err);
    return r;
}

/* Detached already, but for its users: the kernel does it when the last one closes it. */
static bool is_going(int number)
{
    char path[64], text[4] = "";
    snprintf(path, sizeof path, "/sys/block/loop%d/loop/autoclear", number);
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, text, sizeof text - 1) > 0 && text[0] == '1';
}

/* It is opened once only: what a user had not flushed when he closed it is written by whoever closes it last,
 * and after LOOP_CLR_FD the kernel would refuse that write if it were us. */
int loop_device_clear(const char *path, const char *file, struct error *err)
{
    char backing[ATTRIBUTE_MAX];
    int number = loop_number(path, "/dev/loop");
    if (number < 0 || !backing_file(number, backing) || !str_equal(backing, file))
        return 0;
    if (is_going(number))
        return error_set(err, E_BUSY, "%s is still in use", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "%s", path);
    /* Open, it keeps its backing file: it may have become another's since the look above. */
    bool ours = backing_file(number, backing) && str_equal(backing, file);
    int r = ours && ioctl(fd, LOOP_CLR_FD) < 0 ? -errno : 0;
    fd_close(fd);
    if (!ours)
        return 0;
    if (r && r != -ENXIO && r != -EBUSY)
        return error_errno(err, -r, "cannot detach %s", path);
    if (backing_file(number, backing) && str_equal(backing, file))
        return error_set(err, E_BUSY, "%s is still in use", path);
    return 0;
}

int loop_device_resize(const char *path, const char *file, uint64_t size_bytes, struct error *err)
{
    char backing[ATTRIBUTE_MAX];
    uint64_t now_bytes = 0;
    int number = loop_number(path, "/dev/loop");
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "%s", path);
    if (number < 0 || !backing_file(number, backing) || !str_equal(backing, file))
        return error_set(err, E_NOT_FOUND, "%s is not the volume's any more", path);
    if (ioctl(fd, LOOP_SET_CAPACITY, 0) < 0 || ioctl(fd, BLKGETSIZE64, &now_bytes) < 0)
        return error_errno(err, errno, "cannot resize %s", path);
    if (now_bytes < size_bytes)
        return error_set(err, -EIO, "%s has %llu bytes, not %llu", path, (unsigned long long)now_bytes,
                         (unsigned long long)size_bytes);
    return 0;
}
