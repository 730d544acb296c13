/* Comparing our namespaces with pid 1's. No state; called by the node's place.c and the CLI's node_check.c.
 */
#include "common/host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"

/* The kernel's own numbers (linux/nsfs.h, enum init_ns_ino; of mnt and net since Linux 6.18): who is in a
 * first namespace shares it with the host, whether or not pid 1 may be looked at. */
static const struct {
    const char *space;
    ino_t number;
} first_spaces[] = {{"ipc", 0xEFFFFFFFu}, {"net", 0xEFFFFFF9u}, {"mnt", 0xEFFFFFF8u}};

static bool host_is_first(const char *space, ino_t number)
{
    for (size_t i = 0; i < ARRAY_SIZE(first_spaces); i++) {
        if (strcmp(space, first_spaces[i].space) == 0)
            return number == first_spaces[i].number;
    }
    return false;
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

/* A container with a network of its own has IPC of its own as well; a service whose network or mounts
 * systemd, an administrator or a test made does not. */
int host_network_open(int *ret_fd)
{
    static const char *const spaces[] = {"ipc", "mnt", "net"};
    bool shared = false;

    for (size_t i = 0; i < ARRAY_SIZE(spaces) && !shared; i++) {
        int r = host_shares(spaces[i], &shared);

        if (r)
            return r;
    }
    int fd = shared ? -1 : open("/proc/1/ns/net", O_RDONLY | O_CLOEXEC);
    if (fd < 0 && !shared)
        return -errno;
    *ret_fd = fd;
    return 0;
}
