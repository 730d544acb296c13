/* What changes a volume in place, and what is said of its health: over three storage servers of the tests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "controller/health.h"
#include "controller/list.h"
#include "tests/unit/controller_fixture.h"

#define NAME "orders"

static char volume_id[ID_VOLUME_MAX + 1];

static struct peer_volume *made(struct fixture *fixture)
{
    for (size_t i = 0; i < SERVERS; i++) {
        struct peer_volume *volume = peer_volume(&fixture->peers[i], volume_id);

        if (volume)
            return volume;
    }
    return NULL;
}

static void make(struct fixture *fixture, uint64_t size_bytes)
{
    assert_int_equal(fixture_create(&fixture->a, NAME, size_bytes, NULL, volume_id, NULL), E_OK);
}

/* ---- expand ---- */

static int expand(struct fixture *fixture, uint64_t required, uint64_t limit, uint64_t *ret_size,
                  struct error *err)
{
    struct size_range range = {.required_bytes = required, .limit_bytes = limit};

    return volume_expand(&fixture->a, volume_id, &range, NULL, fixture_soon(), ret_size, err);
}

static void test_expand(void **state)
{
    struct fixture *fixture = *state;
    uint64_t size = 0;

    make(fixture, 2 * MIB_BYTES);
    assert_int_equal(expand(fixture, 2 * MIB_BYTES + 1, 0, &size, NULL), E_OK);
    assert_int_equal(size, 3 * MIB_BYTES); /* rounded as CreateVolume does */
    assert_int_equal(made(fixture)->size_bytes, 3 * MIB_BYTES);
    assert_int_equal(expand(fixture, MIB_BYTES, 0, &size, NULL), E_OK); /* large enough already */
    assert_int_equal(size, 3 * MIB_BYTES);
    assert_int_equal(expand(fixture, 0, 3 * MIB_BYTES, &size, NULL), E_OK);
    assert_int_equal(made(fixture)->record_generation, 1); /* nothing was asked for twice */
    assert_int_equal(expand(fixture, MIB_BYTES, 2 * MIB_BYTES, &size, NULL), E_OUT_OF_RANGE);
    assert_int_equal(expand(fixture, 3 * MIB_BYTES + 1, 4 * MIB_BYTES - 1, &size, NULL), E_OUT_OF_RANGE);
    assert_int_equal(expand(fixture, INT64_MAX, 0, &size, NULL), E_OUT_OF_RANGE);
    fixture->peers[volume_id[1] - '1'].free_bytes = 8 * MIB_BYTES;
    assert_int_equal(expand(fixture, 9 * MIB_BYTES, 0, &size, NULL), E_NO_SPACE);
    assert_int_equal(made(fixture)->size_bytes, 3 * MIB_BYTES);
}

static int change_record(struct peer *peer, const char *method, void *context)
{
    if (str_equal(method, context))
        peer_volume(peer, volume_id)->record_generation++;
    return E_OK;
}

static void test_stale(void **state)
{
    struct fixture *fixture = *state;
    struct limits limits = {.given[LIMIT_IOPS] = true, .value[LIMIT_IOPS] = 100};
    struct peer *home;
    uint64_t size = 0;

    make(fixture, MIB_BYTES);
    home = &fixture->peers[volume_id[1] - '1'];
    home->hook = change_record;
    home->hook_context = (char *)"ExpandVolume";
    assert_int_equal(expand(fixture, 2 * MIB_BYTES, 0, &size, NULL), E_STALE);
    assert_int_equal(made(fixture)->size_bytes, MIB_BYTES);
    home->hook_context = (char *)"ModifyVolume";
    assert_int_equal(volume_modify(&fixture->a, volume_id, &limits, fixture_soon(), NULL), E_STALE);
    assert_int_equal(made(fixture)->iops, 0);
}

static void test_expand_file_system(void **state)
{
    struct fixture *fixture = *state;
    struct capability capability = {.mode = 1, .fs_type = "ext4"};
    struct size_range range = {.required_bytes = 2 * MIB_BYTES};
    uint64_t size;

    assert_int_equal(fixture_create(&fixture->a, NAME, MIB_BYTES, "xfs", volume_id, NULL), E_OK);
    assert_int_equal(volume_expand(&fixture->a, volume_id, &range, &capability, fixture_soon(), &size, NULL),
                     E_INVALID_ARGUMENT);
    capability.fs_type = "xfs";
    assert_int_equal(volume_expand(&fixture->a, volume_id, &range, &capability, fixture_soon(), &size, NULL),
                     E_OK);
}

static int wait_for_go(struct peer *peer, const char *method, void *context)
{
    pthread_barrier_t *barrier = context;

    if (str_equal(method, "ExpandVolume")) {
        peer->hook = NULL;
        pthread_barrier_wait(barrier);
        pthread_barrier_wait(barrier);
    }
    return E_OK;
}

static void *expand_thread(void *context)
{
    uint64_t size;

    assert_int_equal(expand(context, 2 * MIB_BYTES, 0, &size, NULL), E_OK);
    return NULL;
}

static void test_second_expand_aborted(void **state)
{
    _cleanup_error_ struct error err = {0};
    struct fixture *fixture = *state;
    pthread_barrier_t barrier;
    pthread_t thread;
    uint64_t size;

    make(fixture, MIB_BYTES);
    pthread_barrier_init(&barrier, NULL, 2);
    fixture->peers[volume_id[1] - '1'].hook_context = &barrier;
    fixture->peers[volume_id[1] - '1'].hook = wait_for_go;
    pthread_create(&thread, NULL, expand_thread, fixture);
    pthread_barrier_wait(&barrier);
    assert_int_equal(expand(fixture, 2 * MIB_BYTES, 0, &size, &err), E_BUSY);
    assert_non_null(strstr(error_text(&err), "ControllerExpandVolume"));
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&barrier);
}

/* ---- modify ---- */

static void test_modify(void **state)
{
    struct fixture *fixture = *state;
    struct limits limits = {.given[LIMIT_IOPS] = true, .value[LIMIT_IOPS] = 500};

    make(fixture, MIB_BYTES);
    assert_int_equal(volume_modify(&fixture->a, volume_id, &limits, fixture_soon(), NULL), E_OK);
    assert_int_equal(made(fixture)->iops, 500);
    limits = (struct limits){.given[LIMIT_BANDWIDTH] = true, .value[LIMIT_BANDWIDTH] = 5 * MIB_BYTES};
    assert_int_equal(volume_modify(&fixture->a, volume_id, &limits, fixture_soon(), NULL), E_OK);
    assert_int_equal(made(fixture)->iops, 500); /* not named, not changed */
    assert_int_equal(made(fixture)->bytes_per_s, 5 * MIB_BYTES);
    limits = (struct limits){.given[LIMIT_IOPS] = true};
    assert_int_equal(volume_modify(&fixture->a, volume_id, &limits, fixture_soon(), NULL), E_OK);
    assert_int_equal(made(fixture)->iops, 0);
    limits = (struct limits){0};
    assert_int_equal(volume_modify(&fixture->a, volume_id, &limits, fixture_soon(), NULL),
                     E_INVALID_ARGUMENT);
    assert_int_equal(volume_modify(&fixture->a, OLD_ID_1, &limits, fixture_soon(), NULL), E_NOT_FOUND);
}

static int create_limited(struct fixture *fixture, uint64_t iops, char ret_id[ID_VOLUME_MAX + 1],
                          struct error *err)
{
    struct create_request request = {.name = NAME, .range = {.required_bytes = MIB_BYTES}};
    Mooring__Storage__V1__Volume *volume = NULL;
    int r;

    request.parameters.limits.given[LIMIT_IOPS] = true;
    request.parameters.limits.value[LIMIT_IOPS] = iops;
    r = volume_create(&fixture->a, &request, fixture_soon(), &volume, err);
    if (r == E_OK) {
        str_copy(ret_id, ID_VOLUME_MAX + 1, volume->volume_id);
        protobuf_c_message_free_unpacked(&volume->base, NULL);
    }
    return r;
}

static void test_create_limited(void **state)
{
    struct fixture *fixture = *state;
    char again[ID_VOLUME_MAX + 1];

    assert_int_equal(create_limited(fixture, 200, volume_id, NULL), E_OK);
    assert_int_equal(made(fixture)->iops, 200);
    assert_int_equal(create_limited(fixture, 200, again, NULL), E_OK);
    assert_string_equal(again, volume_id);
    assert_int_equal(create_limited(fixture, 300, again, NULL), E_EXISTS);
}

/* A server that does not know the field would make the volume without limits. */
static void test_create_limited_old(void **state)
{
    _cleanup_error_ struct error err = {0};
    struct fixture *fixture = *state;

    for (size_t i = 0; i < SERVERS; i++)
        fixture->peers[i].old = true;
    assert_int_equal(create_limited(fixture, 200, volume_id, &err), E_PRECONDITION);
    assert_non_null(strstr(error_text(&err), "storage server s"));
    assert_int_equal(fixture_count_volumes(fixture), 0);
    fixture_expect_claims(fixture, NAME, NULL);
}

/* ---- limits ---- */

static void test_limits_text(void **state)
{
    static const struct {
        const char *key, *value;
        int code;
    } cases[] = {
        {"iopsLimit", "0", E_OK},
        {"iopsLimit", "10", E_OK},
        {"iopsLimit", "9", E_INVALID_ARGUMENT},
        {"iopsLimit", "-1", E_INVALID_ARGUMENT},
        {"iopsLimit", "1000000001", E_INVALID_ARGUMENT},
        {"iopsLimit", "100x", E_INVALID_ARGUMENT},
        {"iopsLimit", "", E_INVALID_ARGUMENT},
        {"bandwidthLimit", "0", E_OK},
        {"bandwidthLimit", "20MiB", E_OK},
        {"bandwidthLimit", "1048576", E_OK},
        {"bandwidthLimit", "1048575", E_INVALID_ARGUMENT},
        {"bandwidthLimit", "1025TiB", E_INVALID_ARGUMENT},
        {"bandwidthLimit", "20MB", E_INVALID_ARGUMENT},
        {"burstSeconds", "0", E_OK},
        {"burstSeconds", "3600", E_OK},
        {"burstSeconds", "1s", E_INVALID_ARGUMENT},
        {"burstSeconds", "3601", E_INVALID_ARGUMENT},
        {"iops", "100", E_INVALID_ARGUMENT},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_error_ struct error err = {0};
        struct limits limits = {0};

        assert_int_equal(limits_take(&limits, cases[i].key, cases[i].value, &err), cases[i].code);
        assert_int_equal(limits_any(&limits), cases[i].code == E_OK);
        if (cases[i].code != E_OK)
            assert_non_null(strstr(error_text(&err), cases[i].key));
    }
}

/* ---- health ---- */

static void test_health(void **state)
{
    struct fixture *fixture = *state;
    Mooring__Storage__V1__Volume *volume = NULL;
    Csi__V1__VolumeHealth *health = NULL;

    make(fixture, MIB_BYTES);
    assert_int_equal(volume_health(&fixture->a, volume_id, fixture_soon(), &volume, NULL), E_OK);
    assert_int_equal(health_fill(volume, &health), E_OK);
    assert_string_equal(health->volume_id, volume_id);
    assert_int_equal(health->n_health_statuses, 0);
    protobuf_c_message_free_unpacked(&health->base, NULL);
    volume->write_failed = true;
    assert_int_equal(health_fill(volume, &health), E_OK);
    assert_int_equal(health->n_health_statuses, 1);
    assert_int_equal(health->health_statuses[0]->status, CSI__V1__VOLUME_HEALTH_ERROR_TYPE__INACCESSIBLE);
    assert_string_equal(health->health_statuses[0]->reason, "WriteFailed");
    protobuf_c_message_free_unpacked(&health->base, NULL);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    assert_int_equal(volume_health(&fixture->a, OLD_ID_2, fixture_soon(), &volume, NULL), E_NOT_FOUND);
}

/* Twice the same is one entry: CSI, VolumeHealthEntry. */
static void test_health_once(void **state)
{
    Mooring__Storage__V1__Volume volume = MOORING__STORAGE__V1__VOLUME__INIT;
    Mooring__Storage__V1__Health one = MOORING__STORAGE__V1__HEALTH__INIT;
    Mooring__Storage__V1__Health *list[] = {&one, &one};
    Csi__V1__VolumeHealth *health = NULL;

    (void)state;
    one.kind = MOORING__STORAGE__V1__HEALTH__KIND__WRITE_FAILED;
    volume.health = list;
    volume.n_health = 2;
    volume.write_failed = true;
    assert_int_equal(health_fill(&volume, &health), E_OK);
    assert_int_equal(health->n_health_statuses, 1);
    protobuf_c_message_free_unpacked(&health->base, NULL);
}

static void test_health_read_errors(void **state)
{
    Mooring__Storage__V1__Volume volume = MOORING__STORAGE__V1__VOLUME__INIT;
    Mooring__Storage__V1__Health one = MOORING__STORAGE__V1__HEALTH__INIT;
    Mooring__Storage__V1__Health *list[] = {&one};
    Csi__V1__VolumeHealth *health = NULL;

    (void)state;
    one.kind = MOORING__STORAGE__V1__HEALTH__KIND__READ_ERRORS;
    volume.health = list;
    volume.n_health = 1;
    assert_int_equal(health_fill(&volume, &health), E_OK);
    assert_int_equal(health->n_health_statuses, 1);
    assert_int_equal(health->health_statuses[0]->status, CSI__V1__VOLUME_HEALTH_ERROR_TYPE__DATA_LOSS);
    assert_string_equal(health->health_statuses[0]->reason, "ReadErrors");
    protobuf_c_message_free_unpacked(&health->base, NULL);
}

static int unreadable(struct peer *peer, const char *method, void *context)
{
    (void)peer, (void)context;
    return str_equal(method, "GetVolume") ? E_CORRUPT : E_OK;
}

static void test_health_unreadable(void **state)
{
    struct fixture *fixture = *state;
    Mooring__Storage__V1__Volume *volume = NULL;

    make(fixture, MIB_BYTES);
    fixture->peers[volume_id[1] - '1'].hook = unreadable;
    assert_int_equal(volume_health(&fixture->a, volume_id, fixture_soon(), &volume, NULL), E_OK);
    assert_true(health_speaks(volume));
    assert_string_equal(volume->volume_id, volume_id);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
}

static void test_health_list(void **state)
{
    struct fixture *fixture = *state;
    struct list_request request = {.kind = LIST_VOLUME_HEALTH, .max_entries = 2, .token = ""};
    char token[LIST_TOKEN_MAX + 1];
    struct list_page page;

    for (unsigned i = 0; i < 12; i++) {
        size_t server = i < 8 ? 0 : 2;
        char id[ID_VOLUME_MAX + 1];

        snprintf(id, sizeof(id), "%s.%016x", server ? "s3" : "s1", i);
        peer_add_volume(&fixture->peers[server], id, id, MIB_BYTES);
        peer_volume(&fixture->peers[server], id)->write_failed = i == 5 || i == 7 || i == 11;
    }
    assert_int_equal(list_page_get(&fixture->a, &request, fixture_soon(), &page, NULL), E_OK);
    assert_int_equal(page.count, 2);
    assert_string_equal(((Mooring__Storage__V1__Volume *)page.items[1])->volume_id, "s1.0000000000000007");
    str_copy(token, sizeof(token), page.next_token);
    list_page_done(&page);
    request.token = token;
    assert_int_equal(list_page_get(&fixture->a, &request, fixture_soon(), &page, NULL), E_OK);
    assert_int_equal(page.count, 1);
    assert_string_equal(((Mooring__Storage__V1__Volume *)page.items[0])->volume_id, "s3.000000000000000b");
    assert_string_equal(page.next_token, "");
    list_page_done(&page);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_expand),
        TEST(test_stale),
        TEST(test_expand_file_system),
        TEST(test_second_expand_aborted),
        TEST(test_modify),
        TEST(test_create_limited),
        TEST(test_create_limited_old),
        cmocka_unit_test(test_limits_text),
        TEST(test_health),
        cmocka_unit_test(test_health_once),
        cmocka_unit_test(test_health_read_errors),
        TEST(test_health_unreadable),
        TEST(test_health_list),
    };

    log_init("controller_change", LOG_LEVEL_ERROR); /* no access log of the peers */
    return cmocka_run_group_tests_name("controller_change", tests, NULL, NULL);
}
