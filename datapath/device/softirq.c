/* One socket that is connected to nothing. Runs on the device's loop; called by fuse_frontend.c. */
#include "datapath/device/softirq.h"

#include <sys/socket.h>

int softirq_open(void)
{
    return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

/* Whoever locks a socket leaves a section without softirqs again, and runs those that are due. */
void softirq_run(int fd)
{
    int off = 0;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &off, sizeof off);
}
