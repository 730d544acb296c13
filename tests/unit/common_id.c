/* Tests of common/id. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/id.h"
#include "common/strings.h"

static void server_ids(void **state)
{
    (void)state;
    assert_true(id_server_valid("a"));
    assert_true(id_server_valid("store-1"));
    assert_true(id_server_valid("abcdefghijklmnopqrstuvwxyz012345"));
    assert_false(id_server_valid("abcdefghijklmnopqrstuvwxyz0123456"));
    assert_false(id_server_valid(""));
    assert_false(id_server_valid("-a"));
    assert_false(id_server_valid("a-"));
    assert_false(id_server_valid("A"));
    assert_false(id_server_valid("a.b"));
    assert_false(id_server_valid("a/b"));
    assert_false(id_server_valid("a b"));
    assert_false(id_server_valid("\xc3\xa4"));
}

static void node_ids(void **state)
{
    char id[ID_NODE_MAX + 2];

    (void)state;
    assert_true(id_node_valid("worker-3.example"));
    assert_false(id_node_valid(".."));
    assert_false(id_node_valid(".a"));
    assert_false(id_node_valid("a."));
    assert_false(id_node_valid("a/../b"));
    memset(id, 'n', sizeof(id));
    id[ID_NODE_MAX] = '\0';
    assert_true(id_node_valid(id));
    id[ID_NODE_MAX] = 'n';
    id[ID_NODE_MAX + 1] = '\0';
    assert_false(id_node_valid(id));
}

static void volume_ids(void **state)
{
    (void)state;
    assert_true(id_volume_valid("store-1.9f86d081884c7d65"));
    assert_false(id_volume_valid("store-1.9f86d081884c7d6"));
    assert_false(id_volume_valid("store-1.9f86d081884c7d650"));
    assert_false(id_volume_valid("store-1.9F86d081884c7d65"));
    assert_false(id_volume_valid("store-1.9f86d081884c7d6/"));
    assert_false(id_volume_valid(".9f86d081884c7d65"));
    assert_false(id_volume_valid("a.b.9f86d081884c7d65"));
    assert_false(id_volume_valid("store-1-9f86d081884c7d65"));
    assert_false(id_volume_valid("store-1.s-9f86d081884c7d65"));
    assert_false(id_volume_valid("../../etc.9f86d081884c7d65"));
    assert_true(id_snapshot_valid("store-1.s-9f86d081884c7d65"));
    assert_false(id_snapshot_valid("store-1.9f86d081884c7d65"));
    assert_false(id_snapshot_valid("store-1.s-9f86d081884c7d6"));
    assert_false(id_snapshot_valid("store-1.t-9f86d081884c7d65"));
    assert_true(id_group_valid("g-9f86d081884c7d65"));
    assert_false(id_group_valid("g-9f86d081884c7d65/"));
    assert_false(id_group_valid("store-1.g-9f86d081884c7d65"));
    assert_false(id_volume_valid(""));
}

static void volume_names_its_server(void **state)
{
    char server[ID_SERVER_MAX + 1] = "before";
    _cleanup_error_ struct error err = {0};

    (void)state;
    assert_int_equal(id_volume_server("nonsense", server, &err), E_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "nonsense"));
    assert_string_equal(server, "before");
    assert_int_equal(id_volume_server("store-1.9f86d081884c7d65", server, NULL), E_OK);
    assert_string_equal(server, "store-1");
}

static void new_ids_are_valid_and_differ(void **state)
{
    const char *longest = "abcdefghijklmnopqrstuvwxyz012345";
    char snapshot[ID_SNAPSHOT_MAX + 1], group[ID_GROUP_MAX + 1];
    char volume[2][ID_VOLUME_MAX + 1], boot[2][ID_BOOT_LENGTH + 1], secret[2][ID_SECRET_LENGTH + 1];

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(id_volume_new(longest, volume[i]), 0);
        assert_int_equal(id_boot_new(boot[i]), 0);
        assert_int_equal(id_secret_new(secret[i]), 0);
        assert_true(id_volume_valid(volume[i]));
        assert_int_equal(strlen(volume[i]), ID_VOLUME_MAX);
        assert_true(id_boot_valid(boot[i]));
        assert_true(id_boot_valid(secret[i]));
    }
    assert_int_equal(id_snapshot_new(longest, snapshot), 0);
    assert_true(id_snapshot_valid(snapshot));
    assert_int_equal(strlen(snapshot), ID_SNAPSHOT_MAX);
    assert_int_equal(id_group_new(group), 0);
    assert_true(id_group_valid(group));
    assert_string_not_equal(volume[0], volume[1]);
    assert_string_not_equal(boot[0], boot[1]);
    assert_string_not_equal(secret[0], secret[1]);
}

static void boot_ids(void **state)
{
    (void)state;
    assert_true(id_boot_valid("0123456789abcdef0123456789abcdef"));
    assert_false(id_boot_valid("0123456789abcdef0123456789abcde"));
    assert_false(id_boot_valid("0123456789abcdef0123456789abcdef0"));
    assert_false(id_boot_valid("0123456789ABCDEF0123456789abcdef"));
    assert_false(id_boot_valid("01234567-9abc-ef01-2345-6789abcdef01"));
}

static void iqns(void **state)
{
    char iqn[ID_IQN_MAX + 1];

    (void)state;
    id_volume_iqn("store-1.9f86d081884c7d65", iqn);
    assert_string_equal(iqn, "iqn.2026-11.storage.mooring:store-1.9f86d081884c7d65");
    assert_ptr_equal(id_iqn_volume(iqn), iqn + strlen(ID_IQN_PREFIX));
    id_node_iqn("worker-3.example", iqn);
    assert_string_equal(iqn, "iqn.2026-11.storage.mooring:node:worker-3.example");
    assert_null(id_iqn_volume(iqn));
    assert_null(id_iqn_volume("iqn.2001-04.com.example:store-1.9f86d081884c7d65"));
    assert_null(id_iqn_volume("iqn.2026-11.storage.mooring:"));
    assert_null(id_iqn_volume(""));
}

static void chap_name_round_trip(void **state)
{
    const char *longest = "abcdefghijklmnopqrstuvwxyz012345.9f86d081884c7d65";
    char name[ID_CHAP_NAME_MAX + 1], volume[ID_VOLUME_MAX + 1];
    uint64_t epoch = 0, generation = 0;

    (void)state;
    id_chap_name(longest, UINT64_MAX, UINT64_MAX, name);
    assert_true(id_chap_name_parse(name, volume, &epoch, &generation));
    assert_string_equal(volume, longest);
    assert_true(epoch == UINT64_MAX && generation == UINT64_MAX);
}

static void chap_names_refused(void **state)
{
    static const char *const wrong[] = {
        "",
        "/1/2",
        "store-1.9f86d081884c7d65",
        "store-1.9f86d081884c7d65/1",
        "store-1.9f86d081884c7d65/1/",
        "store-1.9f86d081884c7d65//2",
        "store-1.9f86d081884c7d65/1/2/3",
        "store-1.9f86d081884c7d65/01/2",
        "store-1.9f86d081884c7d65/+1/2",
        "store-1.9f86d081884c7d65/-1/2",
        "store-1.9f86d081884c7d65/ 1/2",
        "store-1.9f86d081884c7d65/1/2 ",
        "store-1.9f86d081884c7d65/1/18446744073709551616",
        "store-1.9f86d081884c7d6g/1/2",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/1/2",
    };
    char volume[ID_VOLUME_MAX + 1] = "before";
    uint64_t epoch = 77, generation = 78;

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        if (id_chap_name_parse(wrong[i], volume, &epoch, &generation))
            fail_msg("accepted \"%s\"", wrong[i]);
    }
    assert_string_equal(volume, "before");
    assert_true(epoch == 77 && generation == 78);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(server_ids),
        cmocka_unit_test(node_ids),
        cmocka_unit_test(volume_ids),
        cmocka_unit_test(volume_names_its_server),
        cmocka_unit_test(new_ids_are_valid_and_differ),
        cmocka_unit_test(boot_ids),
        cmocka_unit_test(iqns),
        cmocka_unit_test(chap_name_round_trip),
        cmocka_unit_test(chap_names_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
