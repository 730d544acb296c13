/* Tests of common/size, common/strings, common/secret and common/time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/secret.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"

static void sizes_accepted(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"0", 0},
        {"4096", 4096},
        {"1KiB", KIB},
        {"512MiB", 512 * MIB},
        {"10GiB", 10 * GIB},
        {"2TiB", 2 * TIB},
        {"18446744073709551615", UINT64_MAX},
        {"16777215TiB", 16777215 * TIB},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t bytes = 1;

        assert_int_equal(size_parse(cases[i].text, &bytes, NULL), E_OK);
        assert_true(bytes == cases[i].bytes);
    }
}

static void sizes_refused(void **state)
{
    static const char *const wrong[] = {
        "",
        " ",
        "GiB",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1 GiB",
        "1GB",
        "1gib",
        "1.5GiB",
        "0x10",
        "1GiBx",
        "1PiB",
        "18446744073709551616",
        "16777216TiB",
        "99999999999999999999KiB",
        "1\n",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        _cleanup_error_ struct error err = {0};
        uint64_t bytes = 77;

        if (size_parse(wrong[i], &bytes, &err) != E_INVALID_ARGUMENT)
            fail_msg("accepted \"%s\"", wrong[i]);
        assert_non_null(strstr(err.text, wrong[i]));
        assert_non_null(strstr(err.text, "GiB"));
        assert_true(bytes == 77);
    }
}

static void sizes_for_people(void **state)
{
    char text[16];

    (void)state;
    size_format(0, text);
    assert_string_equal(text, "0 B");
    size_format(1023, text);
    assert_string_equal(text, "1023 B");
    size_format(KIB, text);
    assert_string_equal(text, "1.0 KiB");
    size_format(10 * GIB + 512 * MIB, text);
    assert_string_equal(text, "10.5 GiB");
    size_format(UINT64_MAX, text);
    assert_string_equal(text, "16777216.0 TiB");
}

static void ranges(void **state)
{
    (void)state;
    assert_true(size_range_fits(0, 0, 0));
    assert_true(size_range_fits(4, 4, 8));
    assert_false(size_range_fits(5, 4, 8));
    assert_false(size_range_fits(9, 0, 8));
    assert_false(size_range_fits(UINT64_MAX, 2, 8));
    assert_false(size_range_fits(2, UINT64_MAX, 8));
}

static void copy_refuses_truncation(void **state)
{
    char text[4] = "abc";

    (void)state;
    assert_true(str_copy(text, sizeof(text), "xyz"));
    assert_string_equal(text, "xyz");
    assert_false(str_copy(text, sizeof(text), "four"));
    assert_string_equal(text, "");
    assert_false(str_copy(text, 0, ""));
}

static void hashes_are_fnv_1a(void **state)
{
    (void)state;
    assert_int_equal(str_hash(""), 0x811c9dc5);
    assert_int_equal(str_hash("a"), 0xe40c292c);
    assert_int_equal(str_hash("foobar"), 0xbf9cf968);
}

static void format_makes_a_string(void **state)
{
    _cleanup_free_ char *text = str_format("%s-%d", "a", 7);

    (void)state;
    assert_string_equal(text, "a-7");
}

static void octal_escapes_become_bytes(void **state)
{
    static const char *const pairs[][2] = {{"/mnt/a\\040b\\134c", "/mnt/a b\\c"},
                                           {"\\011\\303\\244", "\t\303\244"},
                                           {"/plain", "/plain"},
                                           {"\\04", "\\04"},
                                           {"\\089", "\\089"},
                                           {"", ""}};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        char text[32];

        assert_true(str_copy(text, sizeof(text), pairs[i][0]));
        str_unescape_octal(text);
        assert_string_equal(text, pairs[i][1]);
    }
}

static void secrets_compare_whole(void **state)
{
    (void)state;
    assert_true(str_secret_equal("abcd", "abcd", 4));
    assert_false(str_secret_equal("abcd", "abce", 4));
    assert_false(str_secret_equal("bbcd", "abcd", 4));
    assert_true(str_secret_equal("abcd", "abce", 3));
    assert_true(str_secret_equal("a", "b", 0));
}

static void secrets_are_wiped(void **state)
{
    char secret[8] = "secret";

    (void)state;
    secret_wipe(secret, sizeof(secret));
    for (size_t i = 0; i < sizeof(secret); i++)
        assert_int_equal(secret[i], 0);
    assert_null(secret_free(NULL));
    assert_null(secret_free(strdup("secret")));
}

static void prefixes(void **state)
{
    (void)state;
    assert_true(str_starts_with("iqn.x", "iqn."));
    assert_true(str_starts_with("x", ""));
    assert_false(str_starts_with("iq", "iqn."));
}

static void lengths_of_time(void **state)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } good[] = {{"0", 0}, {"30", 30000}, {"250ms", 250}, {"30s", 30000}, {"5m", 300000}, {"2h", 7200000}};
    static const char *const bad[] = {
        "", "s", "-1", "1 s", "1S", "1d", "1.5s", "9000h", "99999999999999999999"};
    uint64_t ms = 77;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_true(time_parse_ms(good[i].text, &ms));
        assert_int_equal(ms, good[i].ms);
    }
    ms = 77;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(time_parse_ms(bad[i], &ms));
    assert_int_equal(ms, 77);
}

static void utc_times(void **state)
{
    char text[24];

    (void)state;
    time_format_utc(0, text);
    assert_string_equal(text, "1970-01-01T00:00:00Z");
    time_format_utc(1795435200, text);
    assert_string_equal(text, "2026-11-23T12:00:00Z");
    time_format_utc(INT64_MAX, text);
    assert_string_equal(text, "invalid");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_accepted),
        cmocka_unit_test(sizes_refused),
        cmocka_unit_test(sizes_for_people),
        cmocka_unit_test(ranges),
        cmocka_unit_test(copy_refuses_truncation),
        cmocka_unit_test(hashes_are_fnv_1a),
        cmocka_unit_test(format_makes_a_string),
        cmocka_unit_test(octal_escapes_become_bytes),
        cmocka_unit_test(secrets_compare_whole),
        cmocka_unit_test(secrets_are_wiped),
        cmocka_unit_test(prefixes),
        cmocka_unit_test(utc_times),
        cmocka_unit_test(lengths_of_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
