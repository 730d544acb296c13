/* Comparing our namespaces with pid 1's. No state; called by the node's place.c and the CLI's node_check.c.
 */
#include "common/host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

int host_shares(const char *space, bool *ret)
{
    char path[64];
    struct stat host, ours;

    snprintf(path, sizeof(path), "/proc/1/ns/%s", space);
    if (stat(path, &host) < 0)
        return -errno;
    snprintf(path, sizeof(path), "/proc/self/ns/%s", space);
    if (stat(path, &ours) < 0)
        return -errno;
    *ret = host.st_ino == ours.st_ino && host.st_dev == ours.st_dev;
    return 0;
}

int host_network_open(int *ret_fd)
{
    bool mounts = true, network = true;

    int r = host_shares("mnt", &mounts);
    if (!r)
        r = host_shares("net", &network);
    if (r)
        return r;
    int fd = mounts || network ? -1 : open("/proc/1/ns/net", O_RDONLY | O_CLOEXEC);
    if (fd < 0 && !mounts && !network)
        return -errno;
    *ret_fd = fd;
    return 0;
}
