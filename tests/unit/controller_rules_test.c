/* The controller's pure parts: parameters, capabilities, sizes, placement, tokens, operations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "controller/capability.h"
#include "controller/config.h"
#include "controller/list.h"
#include "controller/placement.h"
#include "controller/request.h"
#include "controller/size_range.h"
#include "proto/mount_options.h"

#define MAP_MAX 8

/* A map field as protobuf-c has it. */
struct test_map {
    struct map_entry entries[MAP_MAX];
    struct map_entry *list[MAP_MAX];
    size_t count;
};

static void map_put(struct test_map *map, const char *key, const char *value)
{
    assert_true(map->count < MAP_MAX);
    map->entries[map->count].key = (char *)key;
    map->entries[map->count].value = (char *)value;
    map->list[map->count] = &map->entries[map->count];
    map->count++;
}

static int parse_one(const char *key, const char *value, struct parameters *ret, struct error *err)
{
    struct test_map map = {0};

    map_put(&map, key, value);
    return parameters_parse(map.list, map.count, ret, err);
}

static void test_parameters_good(void **state)
{
    struct test_map map = {0};
    struct parameters parameters;

    (void)state;
    map_put(&map, "csi.storage.k8s.io/fstype", "xfs");
    map_put(&map, "fsType", "xfs");
    map_put(&map, "provisioning", "thick");
    map_put(&map, "blockSize", "512");
    map_put(&map, "csi.storage.k8s.io/pvc/name", "data-mysql-0");
    map_put(&map, "mkfsOptions", "-b size=4096");
    map_put(&map, "zone", "a");
    assert_int_equal(parameters_parse(map.list, map.count, &parameters, NULL), E_OK);
    assert_string_equal(parameters.text[PARAMETER_FS_TYPE], "xfs");
    assert_string_equal(parameters.text[PARAMETER_MKFS_OPTIONS], "-b size=4096");
    assert_string_equal(parameters.text[PARAMETER_ZONE], "a");
    assert_null(parameters.text[PARAMETER_ATTACH]);
    assert_true(parameters.thick);
    assert_int_equal(parameters.block_size_bytes, 512);
}

static void test_parameters_bad(void **state)
{
    static const char *const bad[][2] = {
        {"fsType", "btrfs"},
        {"fsType", ""},
        {"attach", "nbd"},
        {"blockSize", "1024"},
        {"provisioning", "fat"},
        {"pathTimeout", "-1"},
        {"pathTimeout", "30d"},
        {"pathTimeout", "5 s"},
        {"pathTimeout", "999ms"},
        {"lease", "4s"},
        {"lease", "s"},
        {"pathTimeout", "9999999h"},
        {"sessions", "0"},
        {"sessions", "2"},
        {"sessions", "1 "},
        {"zone", "-a"},
        {"mkfsOptions", "-d /x"},
        {"mountOptions", "a b"},
        {"mountOptions", "a;b"},
        {"fstype", "ext4"},
        {"FsType", "ext4"},
        {"iops", "100"},
        {"mkfsOptions", ""},
        {"zone", ""},
        {"mountOptions", "loop"},
        {"mountOptions", "noatime,offset=4096"},
        {"mountOptions", "remount,ro"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_error_ struct error err = {0};
        struct parameters parameters = {.block_size_bytes = 77};

        assert_int_equal(parse_one(bad[i][0], bad[i][1], &parameters, &err), E_INVALID_ARGUMENT);
        assert_non_null(
            strstr(error_text(&err), bad[i][0][0] == 'f' && bad[i][0][2] == 't' ? "fs" : bad[i][0]));
        assert_int_equal(parameters.block_size_bytes, 77); /* untouched */
    }
}

static void test_mount_options(void **state)
{
    static const char *const good[] = {"", "noatime,nosuid", "data=ordered,looped", "x-a=\"bind,loop\",ro",
                                       ",,"};
    static const char *const bad[][2] = {
        {"loop", "loop"},
        {"loop=/dev/loop9", "loop=/dev/loop9"},
        {"ro,bind", "bind"},
        {"ro, rbind", "rbind"},
        {"sizelimit=9", "sizelimit=9"},
        {"x-a=\"1,2\",move", "move"},
        {"remount ,ro", "remount "},
        {"a,,offset=1", "offset=1"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_int_equal(mount_options_check(good[i], NULL), E_OK);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_error_ struct error err = {0};
        char quoted[32];

        snprintf(quoted, sizeof(quoted), "\"%s\"", bad[i][1]);
        assert_int_equal(mount_options_check(bad[i][0], &err), E_INVALID_ARGUMENT);
        assert_non_null(strstr(error_text(&err), quoted));
    }
}

static void test_parameters_unknown_named(void **state)
{
    _cleanup_error_ struct error err = {0};
    struct parameters parameters;

    (void)state;
    assert_int_equal(parse_one("replicas", "3", &parameters, &err), E_INVALID_ARGUMENT);
    assert_non_null(strstr(error_text(&err), "\"replicas\""));
    assert_non_null(strstr(error_text(&err), "pathTimeout"));
}

static void test_parameters_fs_type_conflict(void **state)
{
    struct parameters parameters = {0};

    (void)state;
    assert_int_equal(parameters_set_fs_type(&parameters, "", NULL), E_OK);
    assert_null(parameters.text[PARAMETER_FS_TYPE]);
    assert_int_equal(parameters_set_fs_type(&parameters, "ext4", NULL), E_OK);
    assert_int_equal(parameters_set_fs_type(&parameters, "ext4", NULL), E_OK);
    assert_int_equal(parameters_set_fs_type(&parameters, "xfs", NULL), E_INVALID_ARGUMENT);
}

static void test_parameters_compare(void **state)
{
    struct parameters parameters = {.text = {[PARAMETER_FS_TYPE] = "xfs"}, .block_size_bytes = 0};
    struct test_map same = {0}, more = {0}, other = {0};

    (void)state;
    map_put(&same, "fsType", "xfs");
    map_put(&more, "fsType", "xfs");
    map_put(&more, "sessions", "1");
    map_put(&other, "fsType", "ext4");
    assert_int_equal(parameters_compare(&parameters, same.list, 1, false, 4096, NULL), E_OK);
    assert_int_equal(parameters_compare(&parameters, more.list, 2, false, 4096, NULL), E_EXISTS);
    assert_int_equal(parameters_compare(&parameters, other.list, 1, false, 4096, NULL), E_EXISTS);
    assert_int_equal(parameters_compare(&parameters, NULL, 0, false, 4096, NULL), E_EXISTS);
    assert_int_equal(parameters_compare(&parameters, same.list, 1, true, 4096, NULL), E_EXISTS);
    parameters.block_size_bytes = 512;
    assert_int_equal(parameters_compare(&parameters, same.list, 1, false, 4096, NULL), E_EXISTS);
}

static void test_node_never_learns_zone(void **state)
{
    (void)state;
    assert_true(parameter_for_node("fsType"));
    assert_true(parameter_for_node("sessions"));
    assert_false(parameter_for_node("zone"));
    assert_false(parameter_for_node("storage.kubernetes.io/csiProvisionerIdentity"));
}

/* ---- capabilities ---- */

static void test_capability_modes(void **state)
{
    (void)state;
    for (int mode = -1; mode <= 9; mode++) {
        struct capability block = {.block = true, .mode = mode, .fs_type = ""};
        struct capability mount = {.block = false, .mode = mode, .fs_type = "ext4"};
        bool known = mode >= 1 && mode <= 7;
        bool shared_writer = mode == 4 || mode == 5;

        assert_int_equal(capability_check(&block, NULL), known ? E_OK : E_INVALID_ARGUMENT);
        assert_int_equal(capability_check(&mount, NULL), known && !shared_writer ? E_OK : E_INVALID_ARGUMENT);
        assert_int_equal(capability_readonly(&block), mode == 2 || mode == 3);
    }
}

static void test_capability_message(void **state)
{
    Csi__V1__VolumeCapability message = CSI__V1__VOLUME_CAPABILITY__INIT;
    Csi__V1__VolumeCapability__MountVolume mount = CSI__V1__VOLUME_CAPABILITY__MOUNT_VOLUME__INIT;
    Csi__V1__VolumeCapability__AccessMode mode = CSI__V1__VOLUME_CAPABILITY__ACCESS_MODE__INIT;
    struct capability capability;

    (void)state;
    assert_int_equal(request_capability(NULL, &capability, NULL), E_INVALID_ARGUMENT);
    mode.mode = CSI__V1__VOLUME_CAPABILITY__ACCESS_MODE__MODE__SINGLE_NODE_WRITER;
    message.access_mode = &mode;
    assert_int_equal(request_capability(&message, &capability, NULL), E_INVALID_ARGUMENT);
    message.access_type_case = CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE_MOUNT;
    message.mount = &mount;
    assert_int_equal(request_capability(&message, &capability, NULL), E_OK);
    message.access_mode = NULL;
    assert_int_equal(request_capability(&message, &capability, NULL), E_INVALID_ARGUMENT);
    message.access_mode = &mode;
    mount.volume_mount_group = (char *)"1000";
    assert_int_equal(request_capability(&message, &capability, NULL), E_INVALID_ARGUMENT);
    mount.volume_mount_group = (char *)"";
    mount.fs_type = (char *)"ntfs";
    assert_int_equal(request_capability(&message, &capability, NULL), E_INVALID_ARGUMENT);
}

/* ---- strings and sizes ---- */

static void test_strings(void **state)
{
    char longest[130];

    (void)state;
    memset(longest, 'x', sizeof(longest));
    longest[128] = '\0';
    assert_int_equal(request_string("name", longest, NULL), E_OK);
    longest[128] = 'x';
    longest[129] = '\0';
    assert_int_equal(request_string("name", longest, NULL), E_INVALID_ARGUMENT);
    assert_int_equal(request_string("name", "", NULL), E_INVALID_ARGUMENT);
    assert_int_equal(request_string("name", "a\tb \xc3\xa4", NULL), E_OK);
    assert_int_equal(request_string("name", "a\x01", NULL), E_INVALID_ARGUMENT);
    assert_int_equal(request_string("name", "a\x0b", NULL), E_INVALID_ARGUMENT);
    assert_int_equal(request_string("name", "a\x7f", NULL), E_INVALID_ARGUMENT);
    assert_int_equal(request_string("name", "a\xc2\x85", NULL), E_INVALID_ARGUMENT);
    assert_int_equal(request_string("name", "a\xc2\xa0", NULL), E_OK);
}

static void test_sizes(void **state)
{
    static const struct {
        struct size_range range;
        uint64_t size_bytes; /* 0: OUT_OF_RANGE */
    } cases[] = {
        {{0, 0, 0}, SIZE_DEFAULT_BYTES},
        {{1, 0, 0}, SIZE_STEP_BYTES},
        {{SIZE_STEP_BYTES, SIZE_STEP_BYTES, 0}, SIZE_STEP_BYTES},
        {{SIZE_STEP_BYTES + 1, 0, 0}, 2 * SIZE_STEP_BYTES},
        {{SIZE_STEP_BYTES + 1, 2 * SIZE_STEP_BYTES - 1, 0}, 0},
        {{2, 1, 0}, 0},
        {{0, SIZE_STEP_BYTES - 1, 0}, 0},
        {{0, 5 * SIZE_STEP_BYTES + 3, 0}, 5 * SIZE_STEP_BYTES},
        {{0, 3 * SIZE_DEFAULT_BYTES, 0}, SIZE_DEFAULT_BYTES},
        {{SIZE_MAX_BYTES, 0, 0}, SIZE_MAX_BYTES},
        {{SIZE_MAX_BYTES + 1, 0, 0}, 0},
        {{INT64_MAX, 0, 0}, 0},
        {{INT64_MAX, INT64_MAX, 0}, 0},
        {{SIZE_STEP_BYTES, 0, SIZE_XFS_MIN_BYTES}, SIZE_XFS_MIN_BYTES},
        {{SIZE_STEP_BYTES, SIZE_XFS_MIN_BYTES, SIZE_XFS_MIN_BYTES}, SIZE_XFS_MIN_BYTES},
        {{SIZE_STEP_BYTES, SIZE_XFS_MIN_BYTES - 1, SIZE_XFS_MIN_BYTES}, 0},
        {{0, SIZE_XFS_MIN_BYTES - 1, SIZE_XFS_MIN_BYTES}, 0},
        {{0, 0, SIZE_XFS_MIN_BYTES}, SIZE_DEFAULT_BYTES},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t size_bytes = 0;
        int r = size_range_choose(&cases[i].range, &size_bytes, NULL);

        assert_int_equal(r, cases[i].size_bytes ? E_OK : E_OUT_OF_RANGE);
        assert_int_equal(size_bytes, cases[i].size_bytes);
        if (r == E_OK)
            assert_true(size_range_holds(&cases[i].range, size_bytes));
    }
    assert_false(size_range_holds(&(struct size_range){10, 0, 0}, 9));
    assert_false(size_range_holds(&(struct size_range){0, 10, 0}, 11));
}

/* ---- placement ---- */

static json_t *json(const char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);

    assert_non_null(value);
    return value;
}

static void expect_reach(const char *topology, const char *place, bool reaches)
{
    json_t *left = json(topology), *right = json(place);

    assert_int_equal(placement_reaches(left, right), reaches);
    json_decref(left);
    json_decref(right);
}

static void test_reach(void **state)
{
    (void)state;
    expect_reach("{}", "{\"zone\":\"a\"}", true);
    expect_reach("{\"zone\":\"a\"}", "{\"zone\":\"a\",\"host\":\"x\"}", true);
    expect_reach("{\"zone\":\"a\"}", "{\"Zone\":\"a\"}", true);
    expect_reach("{\"zone\":\"a\"}", "{\"zone\":\"b\"}", false);
    expect_reach("{\"zone\":\"a\",\"rack\":\"1\"}", "{\"zone\":\"a\"}", true);
    expect_reach("{\"zone\":\"a\",\"rack\":\"1\"}", "{\"zone\":\"a\",\"rack\":\"2\"}", false);
    expect_reach("{\"zone\":\"a\"}", "{\"host\":\"x\"}", false);
}

#define THREE_SERVERS                                                                                        \
    {                                                                                                        \
        {"s1", json("{\"zone\":\"a\"}"), 100, 1000, 100}, {"s2", json("{\"zone\":\"b\"}"), 300, 1000, 300},  \
            {"s3", json("{\"zone\":\"b\"}"), 200, 1000, 400},                                                \
    }

static void expect_placement(const char *requisite, const char *preferred, const char *zone,
                             uint64_t size_bytes, int code, size_t index)
{
    struct placement_server servers[] = THREE_SERVERS;
    struct topology_wish wish = {.requisite = json(requisite), .preferred = json(preferred), .zone = zone};
    size_t chosen = 99;

    assert_int_equal(placement_choose(servers, 3, &wish, size_bytes, &chosen, NULL), code);
    assert_int_equal(chosen, code == E_OK ? index : 99);
    for (size_t i = 0; i < 3; i++)
        json_decref(servers[i].topology);
    json_decref(wish.requisite);
    json_decref(wish.preferred);
}

static void test_placement(void **state)
{
    (void)state;
    expect_placement("[]", "[]", NULL, 50, E_OK, 1); /* most free */
    expect_placement("[]", "[]", "a", 50, E_OK, 0);
    expect_placement("[]", "[]", "c", 50, E_EXHAUSTED, 0);
    expect_placement("[{\"zone\":\"a\"},{\"zone\":\"b\"}]", "[{\"zone\":\"a\"}]", NULL, 50, E_OK, 0);
    expect_placement("[{\"zone\":\"a\"},{\"zone\":\"b\"}]", "[{\"zone\":\"a\"}]", NULL, 150, E_OK, 1);
    expect_placement("[{\"zone\":\"a\"}]", "[]", NULL, 150, E_NO_SPACE, 0);
    expect_placement("[{\"zone\":\"x\"}]", "[]", NULL, 50, E_EXHAUSTED, 0);
    expect_placement("[]", "[]", NULL, 301, E_OK, 2); /* less is free there, but more can be promised */
    expect_placement("[]", "[]", NULL, 401, E_NO_SPACE, 0);
    expect_placement("[]", "[]", NULL, 1001, E_OUT_OF_RANGE, 0);
}

static void test_placement_tie_by_id(void **state)
{
    struct placement_server servers[] = {{"s2", NULL, 5, 10, 5}, {"s1", NULL, 5, 10, 5}};
    struct topology_wish wish = {0};
    size_t chosen = 0;

    (void)state;
    assert_int_equal(placement_choose(servers, 2, &wish, 1, &chosen, NULL), E_OK);
    assert_int_equal(chosen, 1);
}

/* ---- tokens ---- */

static void test_tokens(void **state)
{
    static const char *const bad[] = {"x",
                                      "v1:",
                                      "v1:store-1",
                                      "v2:store-1.0123456789abcdef",
                                      "store-1.0123456789abcdef",
                                      "v1:store-1.0123456789abcdeF",
                                      "v1:store-1.0123456789abcdef0",
                                      "0"};
    char token[LIST_TOKEN_MAX + 1], id[ID_SNAPSHOT_MAX + 1];

    (void)state;
    list_token_format("store-1.0123456789abcdef", token);
    assert_int_equal(list_token_parse(LIST_VOLUMES, token, id, NULL), E_OK);
    assert_string_equal(id, "store-1.0123456789abcdef");
    assert_int_equal(list_token_parse(LIST_VOLUMES, "", id, NULL), E_OK);
    assert_string_equal(id, "");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(list_token_parse(LIST_VOLUMES, bad[i], id, NULL), E_BUSY);
}

/* ---- operations ---- */

static void test_operations(void **state)
{
    _cleanup_error_ struct error err = {0};
    struct operations *operations;
    struct operation *first, *second, *other, *kind;

    (void)state;
    assert_int_equal(operations_new(&operations), E_OK);
    assert_int_equal(operation_begin(operations, "name", "a", "CreateVolume", &first, &err), E_OK);
    assert_int_equal(operation_begin(operations, "name", "a", "DeleteVolume", &second, &err), E_BUSY);
    assert_non_null(strstr(error_text(&err), "CreateVolume of name \"a\" has been running"));
    assert_int_equal(operation_begin(operations, "name", "b", "CreateVolume", &other, NULL), E_OK);
    assert_int_equal(operation_begin(operations, "volume", "a", "CreateVolume", &kind, NULL), E_OK);
    operation_end(first);
    assert_int_equal(operation_begin(operations, "name", "a", "DeleteVolume", &second, NULL), E_OK);
    operation_end(other);
    operation_end(second);
    operation_end(kind);
    operations_free(operations);
}

/* ---- the list of servers ---- */

#define UUID "\"pool_uuid\":\"6f1f9f36-5f0e-4d0c-9a3b-1c2d3e4f5a6b\""
#define GOOD(id) "{\"id\":\"" id "\",\"address\":\"h:1\"," UUID "}"

static int read_servers(const char *text, json_t **ret_array, struct server_list *ret, struct error *err)
{
    *ret_array = json(text); /* a good list points into it */
    return server_list_read(*ret_array, "test.json", ret, err);
}

static void test_servers(void **state)
{
    static const char *const bad[] = {
        "[" GOOD("a") "," GOOD("a") "]",
        "[{\"id\":\"A\",\"address\":\"h:1\"," UUID "}]",
        "[{\"id\":\"a\",\"address\":\"h\"," UUID "}]",
        "[{\"id\":\"a\",\"address\":\"h:0\"," UUID "}]",
        "[{\"id\":\"a\",\"address\":\"h:99999\"," UUID "}]",
        "[{\"id\":\"a\",\"address\":\"h:1\",\"pool_uuid\":\"x\"}]",
        "[{\"id\":\"a\",\"address\":\"h:1\"}]",
        "[{\"id\":\"a\",\"address\":\"h:1\",\"port\":1," UUID "}]",
        "[{\"id\":\"a\",\"address\":\"h:1\",\"topology\":{\"zone\":1}," UUID "}]",
        "[1]",
    };
    struct server_list list;
    json_t *array;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_error_ struct error err = {0};

        assert_int_equal(read_servers(bad[i], &array, &list, &err), E_INVALID_ARGUMENT);
        assert_non_null(strstr(error_text(&err), "test.json"));
        json_decref(array);
    }
    assert_int_equal(read_servers("[]", &array, &list, NULL), E_OK);
    server_list_done(&list);
    json_decref(array);
    assert_int_equal(read_servers("[" GOOD("b") "," GOOD("a-2") "," GOOD("a") "]", &array, &list, NULL),
                     E_OK);
    assert_string_equal(list.items[0].id, "a"); /* the order of claims */
    assert_string_equal(list.items[1].id, "a-2");
    assert_string_equal(list.items[2].id, "b");
    server_list_done(&list);
    json_decref(array);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters_good),
        cmocka_unit_test(test_parameters_bad),
        cmocka_unit_test(test_mount_options),
        cmocka_unit_test(test_parameters_unknown_named),
        cmocka_unit_test(test_parameters_fs_type_conflict),
        cmocka_unit_test(test_parameters_compare),
        cmocka_unit_test(test_node_never_learns_zone),
        cmocka_unit_test(test_capability_modes),
        cmocka_unit_test(test_capability_message),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_reach),
        cmocka_unit_test(test_placement),
        cmocka_unit_test(test_placement_tie_by_id),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_operations),
        cmocka_unit_test(test_servers),
    };

    return cmocka_run_group_tests_name("controller_rules", tests, NULL, NULL);
}
