/* Comparing our namespaces with pid 1's. No state; called by the node's place.c and the CLI's node_check.c.
 */
#include "common/host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* The kernel's own numbers (linux/nsfs.h, enum init_ns_ino, since Linux 6.18): who is in its first mount
 * namespace is in no container, whether or not pid 1 may be looked at. */
static bool host_is_first(const char *space, ino_t number)
{
    return strcmp(space, "mnt") == 0 && number == 0xEFFFFFF8u;
}

int host_shares(const char *space, bool *ret)
{
    char path[64];
    struct stat host, ours;

    snprintf(path, sizeof(path), "/proc/self/ns/%s", space);
    if (stat(path, &ours) < 0)
        return -errno;
    if (host_is_first(space, ours.st_ino)) {
        *ret = true;
        return 0;
    }
    snprintf(path, sizeof(path), "/proc/1/ns/%s", space);
    if (stat(path, &host) < 0)
        return -errno;
    *ret = host.st_ino == ours.st_ino && host.st_dev == ours.st_dev;
    return 0;
}

int host_network_open(int *ret_fd)
{
    bool mounts = true, network = true;

    int r = host_shares("mnt", &mounts);
    if (!r && !mounts)
        r = host_shares("net", &network);
    if (r)
        return r;
    int fd = mounts || network ? -1 : open("/proc/1/ns/net", O_RDONLY | O_CLOEXEC);
    if (fd < 0 && !mounts && !network)
        return -errno;
    *ret_fd = fd;
    return 0;
}
