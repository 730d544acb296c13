/* Tests of common/error and common/log. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/error.h"
#include "common/log.h"
#include "common/strings.h"

static void set_replaces_and_returns_code(void **state)
{
    _cleanup_error_ struct error err = {0};

    (void)state;
    assert_int_equal(error_set(&err, E_NOT_FOUND, "volume %s", "a"), E_NOT_FOUND);
    assert_string_equal(error_text(&err), "volume a");
    assert_int_equal(error_set(&err, E_BUSY, "again: %s", err.text), E_BUSY);
    assert_string_equal(error_text(&err), "again: volume a");
    assert_int_equal(err.code, E_BUSY);
}

static void null_error_still_carries_code(void **state)
{
    (void)state;
    assert_int_equal(error_set(NULL, E_STALE, "x"), E_STALE);
    assert_int_equal(error_errno(NULL, EIO, "x"), -EIO);
    assert_int_equal(error_wrap(NULL, "x"), 0);
    assert_string_equal(error_text(NULL), "OK");
}

static void errno_is_negative_and_said(void **state)
{
    _cleanup_error_ struct error err = {0};

    (void)state;
    assert_int_equal(error_errno(&err, ENOENT, "cannot open %s", "/x"), -ENOENT);
    assert_int_equal(err.code, -ENOENT);
    assert_string_equal(err.text, "cannot open /x: No such file or directory");
    error_errno(&err, 99999, "odd");
    assert_string_equal(err.text, "odd: unknown error");
}

static void wrap_puts_words_before(void **state)
{
    _cleanup_error_ struct error err = {0};

    (void)state;
    error_set(&err, E_CORRUPT, "bad member");
    assert_int_equal(error_wrap(&err, "file %d", 7), E_CORRUPT);
    assert_string_equal(err.text, "file 7: bad member");
    error_done(&err);
    err.code = E_BUSY;
    error_wrap(&err, "volume");
    assert_string_equal(err.text, "volume: BUSY");
}

/* Whoever takes no words passes NULL, through functions that begin anew after an error. */
static void nobody_may_want_the_words(void **state)
{
    (void)state;
    assert_int_equal(error_set(NULL, E_BUSY, "text"), E_BUSY);
    error_done(NULL);
    assert_string_equal(error_text(NULL), "OK");
}

static void move_leaves_source_empty(void **state)
{
    _cleanup_error_ struct error from = {0}, to = {0};

    (void)state;
    error_set(&from, E_EXISTS, "taken");
    error_set(&to, E_BUSY, "old");
    error_move(&to, &from);
    assert_int_equal(to.code, E_EXISTS);
    assert_string_equal(to.text, "taken");
    assert_int_equal(from.code, 0);
    assert_null(from.text);
    error_move(&to, &to);
    assert_string_equal(to.text, "taken");
    error_move(NULL, &to);
    assert_null(to.text);
    assert_int_equal(to.code, 0);
}

static void every_code_has_a_name(void **state)
{
    (void)state;
    for (int code = E_OK; code <= E_CORRUPT; code++) {
        assert_string_not_equal(error_name(code), "UNKNOWN");
        for (int other = E_OK; other < code; other++)
            assert_string_not_equal(error_name(code), error_name(other));
    }
    assert_string_equal(error_name(E_CORRUPT + 1), "UNKNOWN");
    assert_string_equal(error_name(-EIO), "EIO");
    assert_string_equal(error_name(-99999), "UNKNOWN");
}

/* What log_write() put on stderr, which is a pipe meanwhile. */
static size_t captured(enum log_level level, const char *text, char *ret, size_t size)
{
    int saved = dup(STDERR_FILENO), ends[2];
    ssize_t length;

    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    log_write(level, "%s", text);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(ends[1]);
    length = read(ends[0], ret, size - 1);
    close(ends[0]);
    assert_true(length >= 0);
    ret[length] = '\0';
    return (size_t)length;
}

static void log_line_is_one_line(void **state)
{
    char line[8192], large[5000];

    (void)state;
    log_init("tester", LOG_LEVEL_INFO);
    captured(LOG_LEVEL_WARNING, "peer sent\nerror tester forged \033[2J", line, sizeof(line));
    assert_string_equal(line, "warning tester peer sent?error tester forged ?[2J\n");
    assert_int_equal(captured(LOG_LEVEL_DEBUG, "hidden", line, sizeof(line)), 0);
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    assert_true(captured(LOG_LEVEL_ERROR, large, line, sizeof(line)) <= 2048);
    assert_non_null(strchr(line, '\n'));
    assert_string_equal(strchr(line, '\n'), "\n");
}

static void log_keeps_errno(void **state)
{
    int saved = dup(STDERR_FILENO), errno_after;

    (void)state;
    close(STDERR_FILENO); /* so that the write fails */
    errno = EBUSY;
    log_error("words");
    errno_after = errno;
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_int_equal(errno_after, EBUSY);
}

static void log_levels_are_parsed(void **state)
{
    enum log_level level = LOG_LEVEL_ERROR;

    (void)state;
    assert_true(log_level_parse("debug", &level));
    assert_int_equal(level, LOG_LEVEL_DEBUG);
    assert_false(log_level_parse("Debug", &level));
    assert_false(log_level_parse("", &level));
    assert_int_equal(level, LOG_LEVEL_DEBUG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_replaces_and_returns_code),
        cmocka_unit_test(null_error_still_carries_code),
        cmocka_unit_test(errno_is_negative_and_said),
        cmocka_unit_test(nobody_may_want_the_words),
        cmocka_unit_test(wrap_puts_words_before),
        cmocka_unit_test(move_leaves_source_empty),
        cmocka_unit_test(every_code_has_a_name),
        cmocka_unit_test(log_line_is_one_line),
        cmocka_unit_test(log_keeps_errno),
        cmocka_unit_test(log_levels_are_parsed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
