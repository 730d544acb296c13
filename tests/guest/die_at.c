/*
 * LD_PRELOAD: a mooring-device that dies, as by kill -9, amid its take-over of a ublk device, where
 * MOORING_DIE_AT says: "begun", once the kernel was told that there is a successor; "mapped", once it sees
 * the requests; "fetching", as it is about to say that it takes them; "recovered", when it is served again.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHARACTER_DEVICE "/dev/ublkc"
#define CONTROL_DEVICE "/dev/ublk-control"
#define LAST_ATTRIBUTE "/queue/io_timeout"

static int character_fd = -1;

static void die_at(const char *point)
{
    const char *wanted = getenv("MOORING_DIE_AT");
    if (wanted && strcmp(wanted, point) == 0)
        kill(getpid(), SIGKILL);
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static int open_any(const char *path, int flags, mode_t mode)
{
    bool character = strncmp(path, CHARACTER_DEVICE, strlen(CHARACTER_DEVICE)) == 0;
    if (character)
        die_at("begun");
    if (character_fd >= 0 && strcmp(path, CONTROL_DEVICE) == 0)
        die_at("fetching");
    if (ends_with(path, LAST_ATTRIBUTE))
        die_at("recovered");
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (character)
        character_fd = fd;
    return fd;
}

#define OPEN(name)                                                                                           \
    int name(const char *path, int flags, ...)                                                               \
    {                                                                                                        \
        va_list arguments;                                                                                   \
        va_start(arguments, flags);                                                                          \
        mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;                                       \
        va_end(arguments);                                                                                   \
        return open_any(path, flags, mode);                                                                  \
    }

OPEN(open)
OPEN(open64)

static void *map_any(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    long address = syscall(SYS_mmap, at, length, protection, flags, fd, offset);
    if (fd >= 0 && fd == character_fd)
        die_at("mapped");
    return (void *)address; /* NOLINT(performance-no-int-to-ptr) */
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map_any(at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map_any(at, length, protection, flags, fd, offset);
}
