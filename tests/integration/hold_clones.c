/*
 * LD_PRELOAD: while the file that MOORING_HOLD_CLONES names is there, no range is shared with another file
 * (FICLONERANGE waits), so that a copy of a storage server takes as long as a test wants.
 */
#include <linux/fs.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOOK_US 2000

int ioctl(int fd, unsigned long request, ...)
{
    const char *path = getenv("MOORING_HOLD_CLONES");
    va_list arguments;
    void *argument;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    while (request == FICLONERANGE && path && access(path, F_OK) == 0)
        usleep(LOOK_US);
    return (int)syscall(SYS_ioctl, fd, request, argument);
}
