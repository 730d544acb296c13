/* Snapshots that are answered before they are ready, and what is lost after such an answer; and groups
 * of more volumes than a server holds: over three storage servers of the tests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "controller/group.h"
#include "controller/snapshot.h"
#include "tests/unit/controller_fixture.h"

#define NAME "nightly"
#define VOLUME "s1.0000000000000001"
#define NEVER 1000000u

static int setup(void **state)
{
    struct fixture *fixture;
    int r = fixture_setup(state);

    fixture = *state;
    peer_add_volume(&fixture->peers[0], VOLUME, "one", 2 * MIB_BYTES);
    return r;
}

static int snap(struct controller *controller, uint64_t deadline_ms, char ret_id[ID_SNAPSHOT_MAX + 1],
                bool *ret_ready, struct error *err)
{
    struct snapshot_request request = {.name = NAME, .source_volume_id = VOLUME};
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    int r = snapshot_create(controller, &request, deadline_ms, &snapshot, err);

    if (r != E_OK)
        return r;
    str_copy(ret_id, ID_SNAPSHOT_MAX + 1, snapshot->snapshot_id);
    *ret_ready = snapshot->ready;
    protobuf_c_message_free_unpacked(&snapshot->base, NULL);
    return E_OK;
}

/* With little time, which is up before it is ready; again where it was too little for anything. */
static int snap_briefly(struct controller *controller, char ret_id[ID_SNAPSHOT_MAX + 1], bool *ret_ready)
{
    int r;

    do {
        r = snap(controller, time_now_ms() + 1000, ret_id, ret_ready, NULL);
    } while (r == E_DEADLINE || r == E_UNAVAILABLE);
    return r;
}

static void expect_claim(struct fixture *fixture, const char *id)
{
    for (size_t i = 0; i < SERVERS; i++) {
        const struct peer_name *claim =
            peer_name_of(&fixture->peers[i], MOORING__STORAGE__V1__NAME_KIND__NAME_SNAPSHOT, NAME);

        assert_true(id ? claim && str_equal(claim->volume_id, id) : !claim);
    }
}

/* ---- the record ---- */

static void test_ready_is_not_recorded(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1];
    bool ready = false;

    fixture->peers[0].not_ready = 2;
    assert_int_equal(snap(&fixture->a, fixture_soon(), id, &ready, NULL), E_OK);
    assert_true(ready);
    assert_int_equal(fixture->peers[0].records, 0);
}

static void test_answered_is_recorded(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1], again[ID_SNAPSHOT_MAX + 1];
    bool ready = true;
    unsigned records;

    fixture->peers[0].not_ready = NEVER;
    assert_int_equal(snap_briefly(&fixture->a, id, &ready), E_OK);
    assert_false(ready);
    records = fixture->peers[0].records;
    assert_true(records > 0);
    assert_true(peer_snapshot(&fixture->peers[0], id)->recorded);
    peer_snapshot(&fixture->peers[0], id)->not_ready = 0;
    assert_int_equal(snap(&fixture->b, fixture_soon(), again, &ready, NULL), E_OK);
    assert_true(ready);
    assert_string_equal(again, id);
    assert_int_equal(fixture->peers[0].records, records);
}

/* It became ready while it was recorded: the answer has the news. */
static int ready_when_recorded(struct peer *peer, const char *method, void *context)
{
    char *id = context;

    if (str_equal(method, "GetSnapshot"))
        snprintf(id, ID_SNAPSHOT_MAX + 1, "%s", peer->snapshots[0].id);
    if (str_equal(method, "CreateSnapshot") && id[0] != '\0')
        peer->snapshots[0].not_ready = 0;
    return E_OK;
}

static void test_ready_at_the_last_moment(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1], seen[ID_SNAPSHOT_MAX + 1] = "";
    bool ready = false;

    fixture->peers[0].not_ready = NEVER;
    fixture->peers[0].hook_context = seen;
    fixture->peers[0].hook = ready_when_recorded;
    assert_int_equal(snap_briefly(&fixture->a, id, &ready), E_OK);
    assert_true(ready);
    fixture->peers[0].hook = NULL;
}

/* An older server would cut anew after its end: what it has is not answered before it is ready. */
static void test_not_recorded_is_not_answered(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1];
    bool ready = false;

    fixture->peers[0].not_ready = NEVER;
    fixture->peers[0].records_none = true;
    assert_int_equal(snap_briefly(&fixture->a, id, &ready), E_BUSY);
    assert_int_equal(peer_count_snapshots(&fixture->peers[0]), 1);
    for (size_t i = 0; i < PEER_ITEMS_MAX; i++)
        fixture->peers[0].snapshots[i].not_ready = 0;
    assert_int_equal(snap(&fixture->a, fixture_soon(), id, &ready, NULL), E_OK);
    assert_true(ready);
    assert_int_equal(peer_count_snapshots(&fixture->peers[0]), 1);
}

/* ---- lost ---- */

static void test_lost(void **state)
{
    struct fixture *fixture = *state;
    struct create_request clone = {.name = "c"};
    Mooring__Storage__V1__Snapshot *found = NULL;
    Mooring__Storage__V1__Volume *volume = NULL;
    char id[ID_SNAPSHOT_MAX + 1], again[ID_SNAPSHOT_MAX + 1];
    _cleanup_error_ struct error err = {0};
    bool ready = true;

    fixture->peers[0].not_ready = NEVER;
    assert_int_equal(snap_briefly(&fixture->a, id, &ready), E_OK);
    peer_snapshot(&fixture->peers[0], id)->lost = true;
    for (int repeat = 0; repeat < 2; repeat++)
        assert_int_equal(snap(repeat ? &fixture->b : &fixture->a, fixture_soon(), again, &ready, &err),
                         E_CORRUPT);
    assert_string_equal(error_text(&err), "it is lost");
    assert_int_equal(peer_count_snapshots(&fixture->peers[0]), 1);
    expect_claim(fixture, id);
    assert_int_equal(snapshot_find(&fixture->a, id, fixture_soon(), &found, NULL), E_OK);
    assert_false(found->ready);
    protobuf_c_message_free_unpacked(&found->base, NULL);
    clone.source_snapshot_id = id;
    assert_int_equal(volume_create(&fixture->a, &clone, fixture_soon(), &volume, &err), E_CORRUPT);
    assert_string_equal(error_text(&err), "it is lost");
    fixture_expect_claims(fixture, "c", NULL);
    assert_int_equal(snapshot_delete(&fixture->b, id, fixture_soon(), NULL), E_OK);
    assert_int_equal(snapshot_delete(&fixture->a, id, fixture_soon(), NULL), E_OK);
    expect_claim(fixture, NULL);
    fixture->peers[0].not_ready = 0;
    assert_int_equal(snap(&fixture->a, fixture_soon(), again, &ready, NULL), E_OK);
    assert_string_not_equal(again, id);
}

/* Amid a call that waits: told at once, not when its time is up. */
static int lose_it(struct peer *peer, const char *method, void *context)
{
    (void)context;
    if (str_equal(method, "GetSnapshot"))
        peer->snapshots[0].lost = true;
    return E_OK;
}

static void test_lost_while_waited_for(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1];
    bool ready = true;

    fixture->peers[0].not_ready = NEVER;
    fixture->peers[0].hook = lose_it;
    assert_int_equal(snap(&fixture->a, fixture_soon(), id, &ready, NULL), E_CORRUPT);
    assert_int_equal(fixture->peers[0].records, 0);
    fixture->peers[0].hook = NULL;
}

/* ---- groups ---- */

/* One more than a server holds: refused before any server is asked for anything. */
static void test_group_of_too_many_on_one_server(void **state)
{
    static char ids[GROUP_SERVER_VOLUMES_MAX + 2][ID_VOLUME_MAX + 1];
    char *sources[GROUP_SERVER_VOLUMES_MAX + 2];
    struct fixture *fixture = *state;
    struct group_request request = {.name = NAME, .source_volume_ids = sources};
    struct group group = {0};
    _cleanup_error_ struct error err = {0};
    unsigned calls = fixture->peers[0].calls;

    for (unsigned i = 0; i < GROUP_SERVER_VOLUMES_MAX + 2; i++) {
        snprintf(ids[i], sizeof(ids[i]), "%s.%016x", i == 0 ? "s2" : "s1", 100 + i);
        sources[i] = ids[i];
    }
    request.sources_count = GROUP_SERVER_VOLUMES_MAX + 2;
    assert_int_equal(group_create(&fixture->a, &request, fixture_soon(), &group, &err), E_INVALID_ARGUMENT);
    assert_non_null(strstr(error_text(&err), "64 volumes of storage server s1"));
    assert_int_equal(fixture->peers[0].calls, calls);
    request.sources_count--; /* as many as there may be: only that they are not there */
    assert_int_equal(group_create(&fixture->a, &request, fixture_soon(), &group, NULL), E_NOT_FOUND);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_ready_is_not_recorded),
        TEST(test_answered_is_recorded),
        TEST(test_ready_at_the_last_moment),
        TEST(test_not_recorded_is_not_answered),
        TEST(test_lost),
        TEST(test_lost_while_waited_for),
        TEST(test_group_of_too_many_on_one_server),
    };

    log_init("controller_cut", LOG_LEVEL_ERROR); /* no access log of the peers */
    return cmocka_run_group_tests_name("controller_cut", tests, NULL, NULL);
}
