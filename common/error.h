/*
 * Errors of the control plane and result codes of the data path.
 *
 * Two classes share one int. Positive: a condition of Mooring's own contract, one of enum error_code;
 * rpc/status maps it to a gRPC status and scsi/sense to SCSI sense, each in exactly one place. Negative: an
 * errno from outside, which is always INTERNAL to whoever asked. Zero is success.
 *
 * The function that makes a system call translates the errnos it expects; nobody above interprets a negative
 * code.
 */
#pragma once

#include <stdarg.h>

enum error_code {
    E_OK = 0,
    E_INVALID_ARGUMENT, /* the caller's value is wrong, and will be until it is changed */
    E_NOT_FOUND,        /* absence that was proven, never guessed */
    E_EXISTS,           /* the name is taken by something that differs */
    E_NO_SPACE,         /* the pool, or its file system, cannot hold it */
    E_EXHAUSTED,        /* a limit of ours: sessions, buffers, message size */
    E_BUSY,             /* an operation on the same object is under way: retry later */
    E_STALE,            /* decided on an epoch, generation or record that is no longer current */
    E_PRECONDITION,     /* the object's state forbids it until someone changes that state */
    E_OUT_OF_RANGE,     /* an offset or size outside what the object or pool has */
    E_UNAVAILABLE,      /* who must answer does not, or not yet */
    E_DEADLINE,         /* the time given has passed; the outcome is unknown to the caller */
    E_CANCELLED,        /* the caller went away */
    E_UNAUTHENTICATED,  /* who calls is not proven */
    E_PERMISSION,       /* who calls is known, and may not */
    E_UNIMPLEMENTED,    /* a call that this build does not serve */
    E_READ_ONLY,        /* a change to what is attached or opened for reading */
    E_WRITE_FAILED,     /* the volume is write-failed: a flush failed, an operator must clear it */
    E_MISCOMPARE,       /* COMPARE AND WRITE found other data */
    E_CORRUPT,          /* a record that does not parse, or is of a newer format than this build knows */
};

/* An error with words for a person. Owned by the caller: start with {0}, release with error_done(). */
struct error {
    int code;   /* enum error_code, or a negative errno; 0 while nothing was set */
    char *text; /* names the thing and, where there is one, the remedy; may be NULL when memory ran out */
};

/* Set code and text, releasing an earlier text. err may be NULL. Returns code, so that `return error_set(…)`
 * reads. */
int error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* As error_set for a failed system call: code is -errnum, and ": <strerror>" is appended. errnum is positive.
 */
int error_errno(struct error *err, int errnum, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Put "<words>: " before the text that is there. Returns err's code (or 0 for NULL). */
int error_wrap(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Move src to dst (dst's earlier text is released); src is empty afterwards. dst may be NULL. */
void error_move(struct error *dst, struct error *src);

/* The text, or the code's name when there is none; never NULL. */
const char *error_text(const struct error *err);

/* "NOT_FOUND", "EIO", … for a log line. Never NULL. */
const char *error_name(int code);

/* Release the text. Safe to call twice; err may be NULL. */
void error_done(struct error *err);

#ifdef __clang_analyzer__
/* The analyzer sees one file at a time: tell it that these return what they were given, which is never 0. */
#define error_set(err, code, ...) ((error_set)(err, code, __VA_ARGS__), (code))
#define error_errno(err, errnum, ...)                                                                        \
    ((error_errno)(err, errnum, __VA_ARGS__) < 0 ? -1 : (__builtin_unreachable(), 0))
#endif

#define _cleanup_error_ __attribute__((cleanup(error_done)))
