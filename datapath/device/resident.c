/* Pages made present. Called at the device's start by who owns the memory: the log, buffers, the frontend. */
#include "datapath/device/resident.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

int resident_make(void *memory, size_t length, const char *what, struct error *err)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)memory / page * page;
    uintptr_t end = ((uintptr_t)memory + length + page - 1) / page * page;
    if (madvise((void *)begin, end - begin, MADV_POPULATE_WRITE) == 0)
        return 0;
    if (errno != EINVAL)
        return error_errno(err, errno, "cannot have %zu bytes of memory for %s at hand", length, what);
    for (uint8_t *at = memory, *last = at + length; at < last; at += page)
        __atomic_fetch_add(at, 0, __ATOMIC_RELAXED);
    if (length > 0)
        __atomic_fetch_add((uint8_t *)memory + length - 1, 0, __ATOMIC_RELAXED);
    return 0;
}
