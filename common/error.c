/*
 * The error object of the control plane: a code and, while memory lasts, words for a person. Owns only the
 * text of each object; holds no state, so any thread may use it on objects of its own.
 */
#include "common/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The header's macros for the analyzer. */
#undef error_set
#undef error_errno

static char *format_text(const char *format, va_list arguments) __attribute__((format(printf, 1, 0)));

static char *format_text(const char *format, va_list arguments)
{
    char *text = NULL;

    return vasprintf(&text, format, arguments) < 0 ? NULL : text;
}

/* The old text goes last: the new one may have been made from it. */
static void replace_text(struct error *err, char *text)
{
    free(err->text);
    err->text = text;
}

int error_set(struct error *err, int code, const char *format, ...)
{
    va_list arguments;

    if (!err)
        return code;
    va_start(arguments, format);
    replace_text(err, format_text(format, arguments));
    va_end(arguments);
    err->code = code;
    return code;
}

int error_errno(struct error *err, int errnum, const char *format, ...)
{
    const char *description = strerrordesc_np(errnum);
    char *words, *text = NULL;
    va_list arguments;

    if (!err)
        return -errnum;
    va_start(arguments, format);
    words = format_text(format, arguments);
    va_end(arguments);
    if (words && asprintf(&text, "%s: %s", words, description ? description : "unknown error") < 0)
        text = NULL;
    free(words);
    replace_text(err, text);
    err->code = -errnum;
    return -errnum;
}

int error_wrap(struct error *err, const char *format, ...)
{
    char *words, *text = NULL;
    va_list arguments;

    if (!err)
        return 0;
    va_start(arguments, format);
    words = format_text(format, arguments);
    va_end(arguments);
    /* Without memory for more, the words that are there are worth more than none. */
    if (words && asprintf(&text, "%s: %s", words, error_text(err)) >= 0)
        replace_text(err, text);
    free(words);
    return err->code;
}

void error_move(struct error *dst, struct error *src)
{
    if (dst == src)
        return;
    if (dst) {
        replace_text(dst, src->text);
        dst->code = src->code;
        src->text = NULL;
    }
    error_done(src);
}

const char *error_text(const struct error *err)
{
    if (!err)
        return error_name(E_OK);
    return err->text ? err->text : error_name(err->code);
}

static const char *contract_name(enum error_code code)
{
    switch (code) {
    case E_OK:
        return "OK";
    case E_INVALID_ARGUMENT:
        return "INVALID_ARGUMENT";
    case E_NOT_FOUND:
        return "NOT_FOUND";
    case E_EXISTS:
        return "EXISTS";
    case E_NO_SPACE:
        return "NO_SPACE";
    case E_EXHAUSTED:
        return "EXHAUSTED";
    case E_BUSY:
        return "BUSY";
    case E_STALE:
        return "STALE";
    case E_PRECONDITION:
        return "PRECONDITION";
    case E_OUT_OF_RANGE:
        return "OUT_OF_RANGE";
    case E_UNAVAILABLE:
        return "UNAVAILABLE";
    case E_DEADLINE:
        return "DEADLINE";
    case E_CANCELLED:
        return "CANCELLED";
    case E_UNAUTHENTICATED:
        return "UNAUTHENTICATED";
    case E_PERMISSION:
        return "PERMISSION";
    case E_UNIMPLEMENTED:
        return "UNIMPLEMENTED";
    case E_READ_ONLY:
        return "READ_ONLY";
    case E_WRITE_FAILED:
        return "WRITE_FAILED";
    case E_MISCOMPARE:
        return "MISCOMPARE";
    case E_CORRUPT:
        return "CORRUPT";
    }
    return NULL;
}

const char *error_name(int code)
{
    const char *name = code < 0 ? strerrorname_np(-code) : contract_name(code);

    return name ? name : "UNKNOWN";
}

void error_done(struct error *err)
{
    if (!err)
        return;
    replace_text(err, NULL);
    err->code = E_OK;
}
