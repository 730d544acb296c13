/* The CLI's pure parts: the table of commands, common options, exit statuses, tables, the merging of nodes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/cli.h"
#include "cli/node.h"
#include "cli/output.h"
#include "common/cleanup.h"

/* ---- commands and options ---- */

static void test_find(void **state)
{
    (void)state;
    assert_non_null(cli_find("volume", "create"));
    assert_non_null(cli_find("tls", "issue"));
    assert_null(cli_find("volume", "fly"));
    assert_null(cli_find("create", "volume"));
    for (size_t i = 0; i < cli_commands_count; i++) /* each is found as itself: no doubles */
        assert_ptr_equal(cli_find(cli_commands[i].group, cli_commands[i].name), &cli_commands[i]);
}

#define WORDS(...) ((char *[]){(char *)"mooring", __VA_ARGS__, NULL})

static int take(struct cli *cli, char **argv, int *ret_argc, struct error *err)
{
    *ret_argc = 0;
    while (argv[*ret_argc])
        ++*ret_argc;
    return cli_take_options(cli, ret_argc, argv, err);
}

static void test_options_anywhere(void **state)
{
    struct cli cli = {0};
    char **argv = WORDS((char *)"-ojson", (char *)"volume", (char *)"--config=c.json", (char *)"create",
                        (char *)"--size", (char *)"1GiB", (char *)"--timeout", (char *)"5", (char *)"name",
                        (char *)"--retry");
    int argc;

    (void)state;
    assert_int_equal(take(&cli, argv, &argc, NULL), E_OK);
    assert_int_equal(cli.output, CLI_JSON);
    assert_string_equal(cli.config_path, "c.json");
    assert_int_equal(cli.timeout_ms, 5000);
    assert_true(cli.retry);
    assert_int_equal(argc, 6);
    assert_string_equal(argv[1], "volume");
    assert_string_equal(argv[2], "create");
    assert_string_equal(argv[3], "--size");
    assert_string_equal(argv[5], "name");
    assert_null(argv[6]);
}

static void test_options_stop_at_dashes(void **state)
{
    struct cli cli = {0};
    char **argv = WORDS((char *)"a", (char *)"--", (char *)"-o", (char *)"json");
    int argc;

    (void)state;
    assert_int_equal(take(&cli, argv, &argc, NULL), E_OK);
    assert_int_equal(cli.output, CLI_TABLE);
    assert_int_equal(argc, 5);
}

static void test_options_bad(void **state)
{
    char *const bad[][3] = {{(char *)"-o", (char *)"xml"},
                            {(char *)"--output=yaml"},
                            {(char *)"--timeout", (char *)"0"},
                            {(char *)"--timeout=1x"},
                            {(char *)"--timeout=99999999"},
                            {(char *)"--config"},
                            {(char *)"-o"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_error_ struct error err = {0};
        struct cli cli = {0};
        int argc;

        assert_int_equal(take(&cli, WORDS(bad[i][0], bad[i][1]), &argc, &err), E_INVALID_ARGUMENT);
        assert_int_equal(error_text(&err)[0] == '-' || strstr(error_text(&err), "option -") != NULL, 1);
    }
}

static void test_statuses(void **state)
{
    static const int pairs[][2] = {
        {E_OK, CLI_OK},
        {E_INVALID_ARGUMENT, CLI_USAGE},
        {E_NOT_FOUND, CLI_NOT_FOUND},
        {E_UNAVAILABLE, CLI_RETRY},
        {E_BUSY, CLI_RETRY},
        {E_STALE, CLI_RETRY},
        {E_DEADLINE, CLI_RETRY},
        {E_PRECONDITION, CLI_STATE},
        {E_EXISTS, CLI_STATE},
        {E_WRITE_FAILED, CLI_STATE},
        {CLI_E_PARTIAL, CLI_PARTIAL},
        {E_PERMISSION, CLI_PERMISSION},
        {E_UNAUTHENTICATED, CLI_PERMISSION},
        {E_NO_SPACE, CLI_LIMIT},
        {E_EXHAUSTED, CLI_LIMIT},
        {E_OUT_OF_RANGE, CLI_LIMIT},
        {E_UNIMPLEMENTED, CLI_FAILED},
        {-5, CLI_FAILED},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
        assert_int_equal(cli_status(pairs[i][0]), pairs[i][1]);
}

/* ---- output ---- */

static const struct output_column columns[] = {
    {"id", "ID", OUTPUT_TEXT},     {"size", "SIZE", OUTPUT_SIZE}, {"ok", "OK", OUTPUT_BOOL},
    {"when", "WHEN", OUTPUT_TIME}, {"hidden", NULL, OUTPUT_TEXT}, {"nodes", "NODES", OUTPUT_TEXT},
};

static json_t *rows(void)
{
    json_t *array = json_pack("[{s:s, s:I, s:b, s:I, s:s, s:[ss]}, {s:s, s:s}]", "id", "a-long-identifier",
                              "size", (json_int_t)1 << 30, "ok", 1, "when", (json_int_t)0, "hidden", "x",
                              "nodes", "n1", "n2", "id", "\xc3\xbc\x1b[2J", "nodes", "");

    assert_non_null(array);
    return array;
}

static char *print(enum cli_output output, bool one)
{
    struct cli cli = {.output = output};
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    json_t *array = rows();
    int r = one ? output_object(&cli, file, json_array_get(array, 0), columns, ARRAY_SIZE(columns), NULL)
                : output_rows(&cli, file, array, columns, ARRAY_SIZE(columns), NULL);

    assert_int_equal(r, E_OK);
    json_decref(array);
    fclose(file);
    return text;
}

static void test_table(void **state)
{
    _cleanup_free_ char *text = print(CLI_TABLE, false);

    (void)state;
    assert_string_equal(text, "ID                 SIZE     OK   WHEN  NODES\n"
                              "a-long-identifier  1.0 GiB  yes  -     n1,n2\n"
                              "\xc3\xbc?[2J              -        -    -     -\n");
}

static void test_object(void **state)
{
    _cleanup_free_ char *text = print(CLI_TABLE, true);

    (void)state;
    assert_string_equal(text,
                        "ID     a-long-identifier\nSIZE   1.0 GiB\nOK     yes\nWHEN   -\nNODES  n1,n2\n");
}

static void test_json(void **state)
{
    _cleanup_free_ char *text = print(CLI_JSON, false);
    json_t *expected = rows(), *printed = json_loads(text, 0, NULL);

    (void)state;
    assert_true(json_equal(expected, printed));
    json_decref(expected);
    json_decref(printed);
}

static void test_output_fails(void **state)
{
    struct cli cli = {.output = CLI_TABLE};
    FILE *full = fopen("/dev/full", "w");
    json_t *array = rows();

    (void)state;
    assert_non_null(full);
    assert_true(output_rows(&cli, full, array, columns, ARRAY_SIZE(columns), NULL) < 0);
    cli.output = CLI_JSON;
    clearerr(full);
    assert_true(output_rows(&cli, full, array, columns, ARRAY_SIZE(columns), NULL) < 0);
    json_decref(array);
    fclose(full);
}

/* ---- nodes ---- */

static Mooring__Storage__V1__Node node(const char *id, const char *boot_id, bool fenced, int64_t seen)
{
    Mooring__Storage__V1__Node message = MOORING__STORAGE__V1__NODE__INIT;

    message.node_id = (char *)id;
    message.boot_id = (char *)boot_id;
    message.fenced = fenced;
    message.last_seen_unix_s = seen;
    return message;
}

static const char *text_at(json_t *row, const char *key, size_t index)
{
    return json_string_value(json_array_get(json_object_get(row, key), index));
}

static void test_merge_nodes(void **state)
{
    static const struct server_config configs[] = {{.id = "s1"}, {.id = "s2"}, {.id = "s3"}};
    Mooring__Storage__V1__ListNodesResponse one = MOORING__STORAGE__V1__LIST_NODES_RESPONSE__INIT;
    Mooring__Storage__V1__ListNodesResponse two = MOORING__STORAGE__V1__LIST_NODES_RESPONSE__INIT;
    Mooring__Storage__V1__Node b_one = node("b", "boot-1", false, 10), a_two = node("a", "boot-9", false, 5);
    Mooring__Storage__V1__Node b_two = node("b", "boot-2", true, 3);
    Mooring__Storage__V1__Node *list_one[] = {&b_one}, *list_two[] = {&a_two, &b_two};
    struct server_answer items[] = {
        {&configs[0], &one.base, {0}}, {&configs[1], &two.base, {0}}, {&configs[2], NULL, {0}}};
    struct server_answers answers = {items, 3, 1};
    char *old_boots[] = {(char *)"boot-0", (char *)"boot-1"};
    json_t *merged, *b;

    (void)state;
    b_two.boot_ids = old_boots;
    b_two.n_boot_ids = 2;
    one.nodes = list_one;
    one.n_nodes = 1;
    two.nodes = list_two;
    two.n_nodes = 2;
    merged = node_merge(&answers);
    assert_int_equal(json_array_size(merged), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(merged, 0), "node_id")), "a");
    b = json_array_get(merged, 1);
    assert_int_equal(json_array_size(json_object_get(b, "boot_ids")),
                     3); /* a fence must refuse all of them */
    assert_string_equal(text_at(b, "boot_ids", 0), "boot-1");
    assert_string_equal(text_at(b, "boot_ids", 1), "boot-2");
    assert_string_equal(text_at(b, "boot_ids", 2), "boot-0");
    assert_true(json_is_true(json_object_get(b, "fenced")));
    assert_int_equal(json_array_size(json_object_get(b, "fenced_on")), 1);
    assert_string_equal(text_at(b, "fenced_on", 0), "s2");
    assert_int_equal(json_integer_value(json_object_get(b, "last_seen_unix_s")), 10);
    json_decref(merged);
}

static void test_outcome(void **state)
{
    static const struct server_config config = {.id = "s1"};
    ProtobufCMessage message;
    struct server_answer items[] = {{&config, &message, {0}},
                                    {&config, NULL, {E_UNAVAILABLE, (char *)"s2 is away"}}};
    struct server_answers answers = {items, 2, 1};
    _cleanup_error_ struct error err = {0};

    (void)state;
    assert_int_equal(servers_outcome(&answers, "not fenced", &err), CLI_E_PARTIAL);
    assert_string_equal(error_text(&err), "not fenced on 1 of 2 storage servers: s2 is away");
    items[0] = items[1];
    answers.failed = 2;
    assert_int_equal(servers_outcome(&answers, "not fenced", &err), E_UNAVAILABLE);
    answers = (struct server_answers){NULL, 0, 0};
    assert_int_equal(servers_outcome(&answers, "not fenced", &err), E_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_options_anywhere),
        cmocka_unit_test(test_options_stop_at_dashes),
        cmocka_unit_test(test_options_bad),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_object),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_output_fails),
        cmocka_unit_test(test_merge_nodes),
        cmocka_unit_test(test_outcome),
    };

    return cmocka_run_group_tests_name("cli", tests, NULL, NULL);
}
