/* Tests of common/options and common/config: what is wrong is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/config.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"
#include "tests/unit/common_dir.h"

static const char *config_value;
static bool force_value;

static const struct option_spec option_specs[] = {
    {"config", "FILE", "the configuration", &config_value, NULL, true},
    {"force", NULL, "do it", NULL, &force_value, false},
};

static const struct program_spec with_operands = {"tester", "Tests.", "FILE…", option_specs, 2};
static const struct program_spec without_operands = {"tester", "Tests.", NULL, option_specs, 2};

static int parse(const struct program_spec *program, const char **words, int *ret_operand, struct error *err)
{
    int count = 0;

    while (words[count])
        count++;
    config_value = NULL;
    force_value = false;
    return options_parse(program, count, (char **)words, ret_operand, err);
}

#define PARSE(program, ret_operand, err, ...)                                                                \
    parse(program, (const char *[]){"tester", ##__VA_ARGS__, NULL}, ret_operand, err)

static void options_are_taken(void **state)
{
    const char *words[] = {"tester", "one", "--config=a.json", "--force", "two", NULL};
    int operand = 0;

    (void)state;
    assert_int_equal(parse(&with_operands, words, &operand, NULL), E_OK);
    assert_string_equal(config_value, "a.json");
    assert_true(force_value);
    assert_int_equal(operand, 3);
    assert_string_equal(words[3], "one");
    assert_int_equal(PARSE(&with_operands, &operand, NULL, "--config", "b.json", "--", "--force"), E_OK);
    assert_string_equal(config_value, "b.json");
    assert_false(force_value);
    assert_int_equal(operand, 4);
}

static void wrong_options_are_named(void **state)
{
    static const struct {
        const char *words[4];
        const char *named;
    } cases[] = {
        {{"tester", "--colour"}, "--colour"},
        {{"tester", "--config=x", "-q"}, "-q"},
        {{"tester", "--config"}, "--config"},
        {{"tester", "--force=yes"}, "--force"},
        {{"tester", "--force"}, "--config is required"},
        {{"tester", "--config=x", "stray"}, "stray"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_error_ struct error err = {0};
        const char *words[5] = {NULL};
        int operand = 77;

        memcpy(words, cases[i].words, sizeof(cases[i].words));
        assert_int_equal(parse(&without_operands, words, &operand, &err), E_INVALID_ARGUMENT);
        if (!strstr(err.text, cases[i].named))
            fail_msg("\"%s\" does not name %s", err.text, cases[i].named);
        assert_non_null(strstr(err.text, "tester --help"));
        assert_int_equal(operand, 77);
    }
}

/* Standard output of a child that parses one word and must exit(0) by itself. */
static void output_of(const char *word, char *ret, size_t size)
{
    int ends[2], status = -1;
    ssize_t length = 0, count;
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        int operand;

        dup2(ends[1], STDOUT_FILENO);
        PARSE(&with_operands, &operand, NULL, word);
        _exit(7);
    }
    close(ends[1]);
    while ((count = read(ends[0], ret + length, size - 1 - (size_t)length)) > 0)
        length += count;
    ret[length] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void help_and_version(void **state)
{
    char text[4096];

    (void)state;
    fflush(stdout);
    output_of("--help", text, sizeof(text));
    assert_true(str_starts_with(text, "Usage: tester [OPTION…] FILE…\nTests.\n"));
    assert_non_null(strstr(text, "--config=FILE"));
    assert_non_null(strstr(text, "do it"));
    output_of("--version", text, sizeof(text));
    assert_string_equal(text, "tester " MOORING_VERSION "\n");
}

struct settings {
    const char *name;
    uint64_t loops;
    bool verbose;
    json_t *tls;
    json_t *portals;
};

static int read_text(const char *text, json_t **ret_object, struct settings *settings, struct error *err)
{
    const struct config_key keys[] = {
        {"name", CONFIG_STRING, true, 0, 0, &settings->name},
        {"loops", CONFIG_UINT, false, 1, 64, &settings->loops},
        {"verbose", CONFIG_BOOL, false, 0, 0, &settings->verbose},
        {"tls", CONFIG_OBJECT, false, 0, 0, &settings->tls},
        {"portals", CONFIG_ARRAY, false, 0, 0, &settings->portals},
    };

    *ret_object = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    assert_non_null(*ret_object);
    return config_read(*ret_object, "a.json", keys, ARRAY_SIZE(keys), err);
}

static void config_is_taken(void **state)
{
    struct settings settings = {.loops = 7, .verbose = true};
    _cleanup_json_ json_t *object = NULL;

    (void)state;
    assert_int_equal(read_text("{\"name\": \"a\", \"tls\": {}, \"portals\": [1]}", &object, &settings, NULL),
                     E_OK);
    assert_string_equal(settings.name, "a");
    assert_int_equal(settings.loops, 7);
    assert_true(settings.verbose);
    assert_true(json_is_object(settings.tls));
    assert_int_equal(json_array_size(settings.portals), 1);
    json_decref(object);
    assert_int_equal(
        read_text("{\"name\": \"a\", \"loops\": 64, \"verbose\": false}", &object, &settings, NULL), E_OK);
    assert_int_equal(settings.loops, 64);
    assert_false(settings.verbose);
}

static void wrong_config_is_named(void **state)
{
    static const struct {
        const char *text, *named;
    } cases[] = {
        {"{\"name\": \"a\", \"lops\": 1}", "unknown key \"lops\"; the keys here are: name, loops"},
        {"{\"loops\": 1}", "\"name\" is missing"},
        {"{\"name\": 1}", "\"name\" must be a string"},
        {"{\"name\": \"a\\u0000b\"}", "\"name\" must be a string"},
        {"{\"name\": \"a\", \"loops\": 0}", "\"loops\" must be a whole number from 1 to 64"},
        {"{\"name\": \"a\", \"loops\": 65}", "\"loops\""},
        {"{\"name\": \"a\", \"loops\": -1}", "\"loops\""},
        {"{\"name\": \"a\", \"loops\": \"1\"}", "\"loops\""},
        {"{\"name\": \"a\", \"loops\": 1.0}", "\"loops\""},
        {"{\"name\": \"a\", \"verbose\": 1}", "\"verbose\" must be true or false"},
        {"{\"name\": \"a\", \"tls\": []}", "\"tls\" must be an object"},
        {"{\"name\": \"a\", \"portals\": {}}", "\"portals\" must be an array"},
        {"{\"name\": null}", "\"name\""},
        {"[]", "must be an object"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct settings settings = {.name = "before"};
        _cleanup_json_ json_t *object = NULL;
        _cleanup_error_ struct error err = {0};

        if (read_text(cases[i].text, &object, &settings, &err) != E_INVALID_ARGUMENT)
            fail_msg("accepted %s", cases[i].text);
        if (!strstr(err.text, cases[i].named) || !str_starts_with(err.text, "a.json: "))
            fail_msg("\"%s\" does not say %s", err.text, cases[i].named);
        assert_string_equal(settings.name, "before");
    }
}

static void config_files(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_free_ char *path = str_format("%s/a.json", dir->path);
    _cleanup_error_ struct error err = {0};
    json_t *object = NULL;

    assert_int_equal(config_load(path, &object, &err), E_NOT_FOUND);
    assert_non_null(strstr(err.text, path));
    test_dir_write(dir, "a.json", "{\n  \"name\": oops\n}");
    assert_int_equal(config_load(path, &object, &err), E_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "a.json:2:"));
    test_dir_write(dir, "a.json", "{\"name\": 1, \"name\": 2}");
    assert_int_equal(config_load(path, &object, &err), E_INVALID_ARGUMENT);
    test_dir_write(dir, "a.json", "[]");
    assert_int_equal(config_load(path, &object, &err), E_INVALID_ARGUMENT);
    assert_null(object);
    test_dir_write(dir, "a.json", "{\"name\": \"a\"}");
    assert_int_equal(config_load(path, &object, &err), E_OK);
    json_decref(object);
}

static void config_topology(void **state)
{
    static const char *good[] = {"{}", "{\"zone\": \"a\"}",
                                 "{\"a.example/Zone_1.x-y\": \"A-1_b.c\", \"rack\": \"7\"}"};
    static const char *wrong[] = {
        "{\"zone\": \"\"}",
        "{\"zone\": \"-a\"}",
        "{\"zone\": 1}",
        "{\"zone\": \"a b\"}",
        "{\"\": \"a\"}",
        "{\"-zone\": \"a\"}",
        "{\"A.example/zone\": \"a\"}",
        "{\"a/b/c\": \"a\"}",
        "{\"/zone\": \"a\"}",
        "{\"Zone\": \"a\", \"zone\": \"b\"}",
        "{\"zone\": \"0123456789012345678901234567890123456789012345678901234567890123\"}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good) + ARRAY_SIZE(wrong); i++) {
        _cleanup_error_ struct error err = {0};
        bool fits = i < ARRAY_SIZE(good);
        json_t *topology = json_loads(fits ? good[i] : wrong[i - ARRAY_SIZE(good)], 0, NULL);

        assert_non_null(topology);
        assert_int_equal(config_check_topology(topology, "a.json", &err), fits ? E_OK : E_INVALID_ARGUMENT);
        json_decref(topology);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_taken),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(help_and_version),
        cmocka_unit_test(config_is_taken),
        cmocka_unit_test(wrong_config_is_named),
        cmocka_unit_test(config_topology),
        cmocka_unit_test_setup_teardown(config_files, test_dir_setup, test_dir_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
