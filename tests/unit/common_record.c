/* Tests of common/record. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "common/strings.h"
#include "tests/unit/common_dir.h"

static void save_and_load(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_json_ json_t *object = json_pack("{s:s, s:I}", "name", "a\xc3\xa4", "size", (json_int_t)4096);
    _cleanup_json_ json_t *loaded = NULL;
    const char *name = NULL;
    uint64_t size = 0;
    struct stat status;

    assert_int_equal(record_save(dir->fd, "r.json", 2, object, 0600, NULL), E_OK);
    assert_null(json_object_get(object, "format"));
    assert_int_equal(record_load(dir->fd, "r.json", 2, &loaded, NULL), E_OK);
    assert_int_equal(record_get_string(loaded, "name", &name, NULL), E_OK);
    assert_string_equal(name, "a\xc3\xa4");
    assert_int_equal(record_get_uint64(loaded, "size", &size, NULL), E_OK);
    assert_int_equal(size, 4096);
    assert_int_equal(json_integer_value(json_object_get(loaded, "format")), 2);
    assert_int_equal(fstatat(dir->fd, "r.json", &status, 0), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    /* What was read from an older format is written back in this build's. */
    assert_int_equal(record_save(dir->fd, "r.json", 3, loaded, 0600, NULL), E_OK);
    json_decref(TAKE_PTR(loaded));
    assert_int_equal(record_load(dir->fd, "r.json", 2, &loaded, NULL), E_CORRUPT);
}

static void newer_format_is_refused(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};
    json_t *loaded = NULL;

    test_dir_write(dir, "r.json", "{\"format\": 3}");
    assert_int_equal(record_load(dir->fd, "r.json", 2, &loaded, &err), E_CORRUPT);
    assert_null(loaded);
    assert_non_null(strstr(err.text, "r.json"));
    assert_non_null(strstr(err.text, "newer"));
    assert_int_equal(record_load(dir->fd, "r.json", 3, &loaded, &err), E_OK);
    json_decref(loaded);
}

static void damaged_records_are_refused(void **state)
{
    static const char *const damaged[] = {
        "",
        "{",
        "{\"format\": 1, \"name\": \"half",
        "{\"format\": 1} trailing",
        "[1]",
        "7",
        "{}",
        "{\"format\": \"1\"}",
        "{\"format\": 1.0}",
        "{\"format\": 0}",
        "{\"format\": -1}",
        "{\"format\": 99999999999999999999}",
        "{\"format\": 1, \"format\": 1}",
    };
    const struct test_dir *dir = *state;

    for (size_t i = 0; i < ARRAY_SIZE(damaged); i++) {
        _cleanup_error_ struct error err = {0};
        json_t *loaded = NULL;

        test_dir_write(dir, "r.json", damaged[i]);
        if (record_load(dir->fd, "r.json", 1, &loaded, &err) != E_CORRUPT)
            fail_msg("accepted %s", damaged[i]);
        assert_null(loaded);
        assert_non_null(strstr(err.text, "r.json"));
    }
}

static void absent_record(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};
    json_t *loaded = NULL;

    assert_int_equal(record_load(dir->fd, "r.json", 1, &loaded, &err), E_NOT_FOUND);
    assert_non_null(strstr(err.text, "r.json"));
}

/* A save that cannot be carried out leaves the record that was there, and no other file. */
static void failed_save_changes_nothing(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_json_ json_t *object = json_pack("{s:s}", "name", "new");
    _cleanup_json_ json_t *loaded = NULL;
    const char *name = NULL;

    test_dir_write(dir, "r.json", "{\"format\": 1, \"name\": \"old\"}");
    assert_int_equal(mkdirat(dir->fd, ".r.json.tmp", 0700), 0);
    assert_int_equal(record_save(dir->fd, "r.json", 1, object, 0600, NULL), -EISDIR);
    assert_int_equal(record_load(dir->fd, "r.json", 1, &loaded, NULL), E_OK);
    assert_int_equal(record_get_string(loaded, "name", &name, NULL), E_OK);
    assert_string_equal(name, "old");
    assert_int_equal(test_dir_count(dir), 2);
}

static void members_of_the_wrong_type(void **state)
{
    _cleanup_json_ json_t *object =
        json_loads("{\"s\": \"x\", \"n\": -1, \"f\": 1.5, \"b\": 1, \"nul\": null,"
                   " \"cut\": \"a\\u0000b\"}",
                   JSON_ALLOW_NUL, NULL);
    _cleanup_error_ struct error err = {0};
    const char *text = "before";
    uint64_t number = 77;
    bool truth = true;
    json_t *array = NULL;

    (void)state;
    assert_non_null(object);
    assert_int_equal(record_get_string(object, "n", &text, &err), E_CORRUPT);
    assert_non_null(strstr(err.text, "\"n\""));
    assert_int_equal(record_get_string(object, "cut", &text, &err), E_CORRUPT);
    assert_int_equal(record_get_string(object, "absent", &text, &err), E_CORRUPT);
    assert_non_null(strstr(err.text, "missing"));
    assert_int_equal(record_get_uint64(object, "n", &number, &err), E_CORRUPT);
    assert_int_equal(record_get_uint64(object, "f", &number, &err), E_CORRUPT);
    assert_int_equal(record_get_uint64(object, "s", &number, &err), E_CORRUPT);
    assert_int_equal(record_get_bool(object, "b", &truth, &err), E_CORRUPT);
    assert_int_equal(record_get_array(object, "s", &array, &err), E_CORRUPT);
    assert_int_equal(record_get_optional_string(object, "nul", &text, &err), E_CORRUPT);
    assert_int_equal(record_get_optional_uint64(object, "s", &number, &err), E_CORRUPT);
    assert_int_equal(record_get_optional_bool(object, "s", &truth, &err), E_CORRUPT);
    assert_string_equal(text, "before");
    assert_int_equal(number, 77);
    assert_true(truth);
    assert_null(array);
}

static void optional_members(void **state)
{
    _cleanup_json_ json_t *object = json_loads("{\"s\": \"x\", \"n\": 5, \"b\": false, \"a\": []}", 0, NULL);
    const char *text = "before";
    uint64_t number = 77;
    bool truth = true;
    json_t *array = NULL;

    (void)state;
    assert_int_equal(record_get_optional_string(object, "absent", &text, NULL), E_OK);
    assert_int_equal(record_get_optional_uint64(object, "absent", &number, NULL), E_OK);
    assert_int_equal(record_get_optional_bool(object, "absent", &truth, NULL), E_OK);
    assert_string_equal(text, "before");
    assert_int_equal(number, 77);
    assert_true(truth);
    assert_int_equal(record_get_optional_string(object, "s", &text, NULL), E_OK);
    assert_int_equal(record_get_optional_uint64(object, "n", &number, NULL), E_OK);
    assert_int_equal(record_get_optional_bool(object, "b", &truth, NULL), E_OK);
    assert_int_equal(record_get_array(object, "a", &array, NULL), E_OK);
    assert_string_equal(text, "x");
    assert_int_equal(number, 5);
    assert_false(truth);
    assert_ptr_equal(array, json_object_get(object, "a"));
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, test_dir_setup, test_dir_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(save_and_load),
        IN_DIR(newer_format_is_refused),
        IN_DIR(damaged_records_are_refused),
        IN_DIR(absent_record),
        IN_DIR(failed_save_changes_nothing),
        cmocka_unit_test(members_of_the_wrong_type),
        cmocka_unit_test(optional_members),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
