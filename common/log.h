/*
 * Logging: one line an event on stderr, `<level> <program> <message>`; the service manager adds time and
 * keeps it. A function either logs or returns an error, never both. No secret ever reaches a log line (see
 * common/secret.h). Thread-safe: a line is one write(2).
 */
#pragma once

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* The program's name for each line, and the least urgent level that is written. Call once, before threads. */
void log_init(const char *program, enum log_level level);

/* "error", "warning", "info", "debug"; false for anything else. */
bool log_level_parse(const char *name, enum log_level *ret_level);

bool log_enabled(enum log_level level);
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                                       \
    do {                                                                                                     \
        if (log_enabled(LOG_LEVEL_DEBUG))                                                                    \
            log_write(LOG_LEVEL_DEBUG, __VA_ARGS__);                                                         \
    } while (0)
