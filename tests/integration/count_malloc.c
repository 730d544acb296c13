/*
 * LD_PRELOAD: counts a process's allocations. At SIGUSR1 the count so far is written to the file that
 * MOORING_COUNT_FILE names.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

static atomic_ulong allocations;

void *malloc(size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(memory, size);
}

static void tell(int number)
{
    (void)number;
    char text[32];
    const char *path = getenv("MOORING_COUNT_FILE");
    int length = snprintf(text, sizeof text, "%lu\n", atomic_load(&allocations));
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fd < 0 || write(fd, text, (size_t)length) != length)
        _exit(99);
    close(fd);
}

__attribute__((constructor)) static void start(void)
{
    signal(SIGUSR1, tell);
}
