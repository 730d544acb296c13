/* Loop devices by sysfs and ioctl(2). No state; called by attach. */
#include "node/loop_device.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"

/* The backing file of loop device `name` ("loop3"), or NULL when it has none. The caller frees. */
static int loop_device_read_backing(const char *name, char **ret, struct error *err)
{
    _cleanup_free_ char *path = str_format("/sys/block/%s/loop/backing_file", name);
    char *text = NULL;

    if (!path)
        return error_errno(err, ENOMEM, "cannot look at %s", name);
    int r = io_read_file(path, 8192, &text, NULL, err);
    if (r && r != E_NOT_FOUND && r != -ENODEV) /* it is being given back */
        return r;
    if (r)
        error_done(err);
    else
        text[strcspn(text, "\n")] = '\0';
    *ret = text;
    return 0;
}

static char *loop_device_backing(const char *name)
{
    char *backing = NULL;

    return loop_device_read_backing(name, &backing, NULL) ? NULL : backing;
}

/* backing is a file directly in mount_point; the kernel adds " (deleted)" when its mount is gone. */
static bool loop_device_is_in(const char *backing, const char *mount_point)
{
    size_t length = strlen(mount_point);

    return backing && str_starts_with(backing, mount_point) && backing[length] == '/';
}

bool loop_device_is_ours(dev_t number, const char *mount_point)
{
    _cleanup_free_ char *path =
        str_format("/sys/dev/block/%u:%u/loop/backing_file", major(number), minor(number));
    _cleanup_free_ char *backing = NULL;

    return path && io_read_file(path, 8192, &backing, NULL, NULL) == 0 &&
           loop_device_is_in(backing, mount_point);
}

int loop_device_verify(const char *device, const char *mount_point, struct error *err)
{
    const char *name = strrchr(device, '/');
    _cleanup_free_ char *backing = name ? loop_device_backing(name + 1) : NULL;

    if (!loop_device_is_in(backing, mount_point))
        return error_set(err, E_PRECONDITION,
                         "%s is backed by %s, not by a file in %s: it is not this volume", device,
                         backing ? backing : "nothing", mount_point);
    return 0;
}

int loop_device_look(const char *mount_point, bool *ret, struct error *err)
{
    _cleanup_dir_ DIR *dir = opendir("/sys/block");
    struct dirent *entry;
    bool found = false;
    int r = 0;

    if (!dir)
        return error_errno(err, errno, "cannot list /sys/block");
    while (!r && !found && (entry = readdir(dir))) {
        _cleanup_free_ char *backing = NULL;

        if (!str_starts_with(entry->d_name, "loop"))
            continue;
        r = loop_device_read_backing(entry->d_name, &backing, err);
        found = loop_device_is_in(backing, mount_point);
    }
    if (!r)
        *ret = found;
    return r;
}

static int loop_device_detach(const char *name, const char *mount_point, struct error *err)
{
    _cleanup_free_ char *path = str_format("/dev/%s", name);
    _cleanup_fd_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    if (fd < 0)
        return error_errno(err, path ? errno : ENOMEM, "cannot open /dev/%s", name);
    /* Open, it keeps its backing file: it may have become another's since the caller's look. */
    _cleanup_free_ char *backing = loop_device_backing(name);
    if (!loop_device_is_in(backing, mount_point))
        return 0;
    if (ioctl(fd, LOOP_CLR_FD, 0) < 0 && errno != ENXIO)
        return error_errno(err, errno, "cannot detach /dev/%s", name);
    return 0;
}

int loop_device_release(const char *mount_point, struct error *err)
{
    _cleanup_dir_ DIR *dir = opendir("/sys/block");
    struct dirent *entry;

    if (!dir)
        return error_errno(err, errno, "cannot list /sys/block");
    while ((entry = readdir(dir))) {
        if (!str_starts_with(entry->d_name, "loop"))
            continue;
        _cleanup_free_ char *backing = loop_device_backing(entry->d_name);
        if (loop_device_is_in(backing, mount_point)) {
            int r = loop_device_detach(entry->d_name, mount_point, err);
            if (r)
                return r;
        }
    }
    return 0;
}
