/* Programs that are waited for no longer than one may, one at a time for a key. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"
#include "node/bounded.h"
#include "tests/unit/common_dir.h"

#define LONG_MS 60000

static int run(const char *key, const char *script, const char *word, unsigned timeout_ms, int *ret_status,
               char **ret_output, struct error *err)
{
    const char *argv[] = {"sh", "-c", script, word, NULL};
    return bounded_run(key, argv, timeout_ms, ret_status, ret_output, err);
}

static void output_and_status_are_given(void **state)
{
    _cleanup_free_ char *output = NULL;
    int status = -1;

    (void)state;
    assert_int_equal(run("v", "echo said; exit 3", "x", LONG_MS, &status, &output, NULL), 0);
    assert_int_equal(status, 3);
    assert_string_equal(output, "said\n");
}

/* Much output is dropped, not waited for. */
static void much_output_ends(void **state)
{
    _cleanup_free_ char *output = NULL;
    int status = -1;

    (void)state;
    assert_int_equal(run("v", "yes | head -c 300000", "x", LONG_MS, &status, &output, NULL), 0);
    assert_int_equal(status, 0);
    assert_true(strlen(output) < 300000);
}

static void what_does_not_end_is_ended(void **state)
{
    _cleanup_error_ struct error err = {0};
    _cleanup_free_ char *output = NULL;
    int status = -1;

    (void)state;
    assert_int_equal(run("v", "exec sleep 1000", "x", 50, &status, &output, &err), E_UNAVAILABLE);
    assert_non_null(strstr(error_text(&err), "did not end"));
    assert_null(output);
    assert_int_equal(run("v", "exit 0", "x", LONG_MS, &status, &output, NULL), 0);
}

static void what_cannot_start_is_told(void **state)
{
    const char *argv[] = {"/no/such/program", NULL};
    _cleanup_free_ char *output = NULL;
    int status;

    (void)state;
    assert_true(bounded_run("v", argv, LONG_MS, &status, &output, NULL) < 0);
    assert_int_equal(run("v", "exit 0", "x", LONG_MS, &status, &output, NULL), 0);
}

/* mkdir fails for a second one that runs beside the first. */
static void *alone(void *path)
{
    static const char script[] = "mkdir \"$0\" && sleep 0.05 && rmdir \"$0\"";
    _cleanup_free_ char *output = NULL;
    int status = -1;
    int r = run("v", script, path, LONG_MS, &status, &output, NULL);

    return r || status ? path : NULL;
}

static void one_at_a_time_for_a_key(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_free_ char *path = str_format("%s/alone", dir->path);
    pthread_t threads[8];

    for (size_t i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, alone, path), 0);
    for (size_t i = 0; i < 8; i++) {
        void *failed = path;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_and_status_are_given),
        cmocka_unit_test(much_output_ends),
        cmocka_unit_test(what_does_not_end_is_ended),
        cmocka_unit_test(what_cannot_start_is_told),
        cmocka_unit_test_setup_teardown(one_at_a_time_for_a_key, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests_name("node_bounded", tests, NULL, NULL);
}
