/*
 * Log lines on stderr. Owns the program's name and the level, both set once before threads start; any thread
 * may write. A line is made on the stack and written by one write(2), so that lines of threads and of
 * processes that share stderr do not mix.
 */
#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include "common/size.h"
#include "common/strings.h"

#define LINE_MAX_BYTES 2048

static const char *const level_names[] = {"error", "warning", "info", "debug"};

static const char *log_program = "mooring";
static enum log_level log_level = LOG_LEVEL_INFO;

void log_init(const char *program, enum log_level level)
{
    log_program = program;
    log_level = level;
}

bool log_level_parse(const char *name, enum log_level *ret_level)
{
    for (int i = LOG_LEVEL_ERROR; i <= LOG_LEVEL_DEBUG; i++) {
        if (str_equal(name, level_names[i])) {
            *ret_level = (enum log_level)i;
            return true;
        }
    }
    return false;
}

bool log_enabled(enum log_level level)
{
    return level <= log_level;
}

/* What a peer sent must not forge a line of its own, nor reach a terminal as an escape sequence. */
static void mask_control(char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            text[i] = '?';
    }
}

void log_write(enum log_level level, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    size_t length, limit = sizeof(line) - 1; /* one byte is the newline's */
    int saved = errno, head, body;
    va_list arguments;

    if (!log_enabled(level))
        return;
    head = snprintf(line, limit, "%s %s ", level_names[level], log_program);
    if (head < 0)
        return;
    length = MIN((size_t)head, limit - 1);
    va_start(arguments, format);
    body = vsnprintf(line + length, limit - length, format, arguments);
    va_end(arguments);
    if (body > 0)
        length = MIN(length + (size_t)body, limit - 1);
    mask_control(line, length);
    line[length++] = '\n';
    if (write(STDERR_FILENO, line, length) < 0) {
        /* There is no one left to tell. */
    }
    errno = saved;
}
