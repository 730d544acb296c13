/* System calls that fail, or kill, when it is their turn: see store_strike.h. */
#include "tests/unit/store_strike.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

struct strike_state strike_state;

/* Count a call; its letter goes to the trace. -1 with errno set when it is its turn to fail. */
static int strike(char letter, int fd, const void *buffer, size_t length)
{
    if (!strike_state.armed)
        return 0;
    if (letter != 'o' && strike_state.traced < sizeof(strike_state.trace) - 1)
        strike_state.trace[strike_state.traced++] = letter;
    if (++strike_state.calls != strike_state.turn)
        return 0;
    strike_state.struck = true;
    strike_state.letter = letter;
    if (strike_state.errnum == 0) {
        if (buffer) /* die in the middle of the write */
            syscall(SYS_write, fd, buffer, length / 2);
        kill(getpid(), SIGKILL);
    }
    errno = strike_state.errnum;
    return -1;
}

int openat(int dir_fd, const char *path, int flags, ...)
{
    va_list arguments;
    mode_t mode;

    va_start(arguments, flags);
    mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return strike('o', -1, NULL, 0) < 0 ? -1 : (int)syscall(SYS_openat, dir_fd, path, flags, mode);
}

ssize_t write(int fd, const void *buffer, size_t length)
{
    return strike('w', fd, buffer, length) < 0 ? -1 : syscall(SYS_write, fd, buffer, length);
}

int fsync(int fd)
{
    struct stat status = {0};

    fstat(fd, &status);
    return strike(S_ISDIR(status.st_mode) ? 'd' : 'f', -1, NULL, 0) < 0 ? -1 : (int)syscall(SYS_fsync, fd);
}

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags)
{
    return strike('y', -1, NULL, 0) < 0 ? -1 : (int)syscall(SYS_sync_file_range, fd, offset, length, flags);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    return strike('r', -1, NULL, 0) < 0 ? -1 : (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, 0);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    return strike('R', -1, NULL, 0) < 0 ? -1 : (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

int unlinkat(int dir_fd, const char *path, int flags)
{
    return strike('u', -1, NULL, 0) < 0 ? -1 : (int)syscall(SYS_unlinkat, dir_fd, path, flags);
}

int mkdirat(int dir_fd, const char *path, mode_t mode)
{
    return strike('m', -1, NULL, 0) < 0 ? -1 : (int)syscall(SYS_mkdirat, dir_fd, path, mode);
}

int ftruncate(int fd, off_t length)
{
    return strike('t', -1, NULL, 0) < 0 ? -1 : (int)syscall(SYS_ftruncate, fd, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    return strike('a', -1, NULL, 0) < 0 ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (request == FICLONERANGE && strike('s', -1, NULL, 0) < 0)
        return -1;
    return (int)syscall(SYS_ioctl, fd, request, argument);
}

void strike_arm(int turn, int errnum)
{
    memset(&strike_state, 0, sizeof(strike_state));
    strike_state.turn = turn;
    strike_state.errnum = errnum;
    strike_state.armed = true;
}

void strike_disarm(void)
{
    strike_state.armed = false;
}
