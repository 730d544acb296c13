/* Clocks: monotonic for intervals and deadlines, wall time only for people. */
#pragma once

#include <stdbool.h>
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

/* A length of time as people write it: a number with ms, s, m or h after it, or none for seconds ("250ms",
 * "30s", "5m", "30"). False for anything else, and for what is above a year. */
bool time_parse_ms(const char *text, uint64_t *ret_ms);

/* "2026-11-23T12:00:00Z" */
void time_format_utc(time_t when, char ret_text[24]);
