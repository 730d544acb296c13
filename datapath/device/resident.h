/*
 * Memory that the kernel copies a volume's requests into and out of. A page of it that is not there when the
 * process is being killed cannot be faulted in any more: the kernel then ends the FUSE request that it was
 * copying with EIO, and the application sees an error that no device made. So all of it is there before the
 * first request, whether or not memory may be locked.
 */
#pragma once

#include <stddef.h>

#include "common/error.h"

/* Fault in each page that [memory, memory + length) touches, for writing; what it holds stays. `what` names
 * it in the error. The start only: blocks for as long as the kernel takes to find the pages. */
int resident_make(void *memory, size_t length, const char *what, struct error *err);
