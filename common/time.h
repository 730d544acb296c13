/* Clocks: monotonic for intervals and deadlines, wall time only for people. */
#pragma once

#include <stdint.h>
#include <time.h>

static inline uint64_t time_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t time_now_ms(void)
{
    return time_now_ns() / 1000000u;
}

/* "2026-11-23T12:00:00Z" */
void time_format_utc(time_t when, char ret_text[24]);
