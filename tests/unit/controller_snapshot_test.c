/* Snapshots, clones and group snapshots, over three storage servers of the tests whose calls a test can bend.
 */
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
#include "common/time.h"
#include "controller/group.h"
#include "controller/list.h"
#include "controller/snapshot.h"
#include "tests/unit/controller_fixture.h"

#define NAME "nightly"
#define VOLUME_1 "s1.0000000000000001"
#define VOLUME_2 "s2.0000000000000002"
#define VOLUME_3 "s3.0000000000000003"
#define OLD_SNAPSHOT "s2.s-00000000000000aa"
#define SNAPSHOT_KIND MOORING__STORAGE__V1__NAME_KIND__NAME_SNAPSHOT
#define GROUP_KIND MOORING__STORAGE__V1__NAME_KIND__NAME_GROUP

static char *const sources[] = {(char *)VOLUME_1, (char *)VOLUME_3};

static int setup(void **state)
{
    struct fixture *fixture;
    int r = fixture_setup(state);

    fixture = *state;
    peer_add_volume(&fixture->peers[0], VOLUME_1, "one", 2 * MIB_BYTES);
    peer_add_volume(&fixture->peers[1], VOLUME_2, "two", 2 * MIB_BYTES);
    peer_add_volume(&fixture->peers[2], VOLUME_3, "three", 2 * MIB_BYTES);
    return r;
}

static size_t count_snapshots(struct fixture *fixture)
{
    size_t count = 0;

    for (size_t i = 0; i < SERVERS; i++)
        count += peer_count_snapshots(&fixture->peers[i]);
    return count;
}

static void expect_claims(struct fixture *fixture, int kind, const char *name, const char *id)
{
    for (size_t i = 0; i < SERVERS; i++) {
        const struct peer_name *claim = peer_name_of(&fixture->peers[i], kind, name);

        assert_true(id ? claim && str_equal(claim->volume_id, id) : !claim);
    }
}

/* ---- snapshots ---- */

static int snap(struct controller *controller, const char *name, const char *volume_id, uint64_t deadline_ms,
                char ret_id[ID_SNAPSHOT_MAX + 1], bool *ret_ready)
{
    struct snapshot_request request = {.name = name, .source_volume_id = volume_id};
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    int r = snapshot_create(controller, &request, deadline_ms, &snapshot, NULL);

    if (r != E_OK)
        return r;
    str_copy(ret_id, ID_SNAPSHOT_MAX + 1, snapshot->snapshot_id);
    if (ret_ready)
        *ret_ready = snapshot->ready;
    protobuf_c_message_free_unpacked(&snapshot->base, NULL);
    return E_OK;
}

static void test_create(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1], again[ID_SNAPSHOT_MAX + 1];

    assert_int_equal(snap(&fixture->a, NAME, VOLUME_2, fixture_soon(), id, NULL), E_OK);
    assert_true(id_snapshot_valid(id) && str_starts_with(id, "s2."));
    expect_claims(fixture, SNAPSHOT_KIND, NAME, id);
    expect_claims(fixture, 0, NAME, NULL); /* a volume may have the same name */
    assert_int_equal(snap(&fixture->b, NAME, VOLUME_2, fixture_soon(), again, NULL), E_OK);
    assert_string_equal(again, id);
    assert_int_equal(snap(&fixture->b, NAME, VOLUME_1, fixture_soon(), again, NULL), E_EXISTS);
    assert_int_equal(count_snapshots(fixture), 1);
    assert_int_equal(snapshot_delete(&fixture->b, id, fixture_soon(), NULL), E_OK);
    assert_int_equal(snapshot_delete(&fixture->a, id, fixture_soon(), NULL), E_OK);
    expect_claims(fixture, SNAPSHOT_KIND, NAME, NULL);
    assert_int_equal(count_snapshots(fixture), 0);
}

static void test_create_refused(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1];

    assert_int_equal(snap(&fixture->a, NAME, OLD_ID_1, fixture_soon(), id, NULL), E_NOT_FOUND);
    expect_claims(fixture, SNAPSHOT_KIND, NAME, NULL);
    assert_int_equal(snap(&fixture->a, NAME, "not-ours", fixture_soon(), id, NULL), E_NOT_FOUND);
    peer_stop(&fixture->peers[2]);
    assert_int_equal(snap(&fixture->a, NAME, VOLUME_1, fixture_soon(), id, NULL), E_UNAVAILABLE);
    assert_int_equal(count_snapshots(fixture), 0);
}

/* A server that does not know kinds of names would take the claim for a volume's. */
static void test_create_old_server(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1];

    fixture->peers[2].old = true;
    assert_int_equal(snap(&fixture->a, NAME, VOLUME_1, fixture_soon(), id, NULL), E_PRECONDITION);
    assert_int_equal(count_snapshots(fixture), 0);
    expect_claims(fixture, 0, NAME, NULL);
}

/* What a call for another volume left behind when it was cut short: a claim on all servers, and no snapshot.
 */
static void test_create_after_cut_off_call(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1];

    for (size_t i = 0; i < SERVERS; i++)
        peer_claim_of(&fixture->peers[i], SNAPSHOT_KIND, NAME, OLD_SNAPSHOT);
    assert_int_equal(snap(&fixture->a, NAME, VOLUME_1, fixture_soon(), id, NULL), E_OK);
    assert_true(str_starts_with(id, "s1."));
    expect_claims(fixture, SNAPSHOT_KIND, NAME, id);
}

/* A claim for a snapshot that exists, beyond a first server that knows nothing of it: it is the one. */
static void test_create_rival(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1], again[ID_SNAPSHOT_MAX + 1];

    assert_int_equal(snap(&fixture->a, NAME, VOLUME_2, fixture_soon(), id, NULL), E_OK);
    peer_name_of(&fixture->peers[0], SNAPSHOT_KIND, NAME)->volume_id[0] = '\0';
    assert_int_equal(snap(&fixture->b, NAME, VOLUME_2, fixture_soon(), again, NULL), E_OK);
    assert_string_equal(again, id);
    expect_claims(fixture, SNAPSHOT_KIND, NAME, id);
    assert_int_equal(count_snapshots(fixture), 1);
}

static void test_create_waits(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_SNAPSHOT_MAX + 1], again[ID_SNAPSHOT_MAX + 1];
    bool ready = false;

    fixture->peers[0].not_ready = 3;
    assert_int_equal(snap(&fixture->a, NAME, VOLUME_1, fixture_soon(), id, &ready), E_OK);
    assert_true(ready);
    fixture->peers[0].not_ready = 1000000;
    assert_int_equal(snap(&fixture->a, "slow", VOLUME_1, time_now_ms() + 1000, id, &ready), E_OK);
    assert_false(ready);
    peer_snapshot(&fixture->peers[0], id)->not_ready = 0;
    assert_int_equal(snap(&fixture->a, "slow", VOLUME_1, fixture_soon(), again, &ready), E_OK);
    assert_true(ready);
    assert_string_equal(again, id);
}

static void test_list(void **state)
{
    struct fixture *fixture = *state;
    struct list_request request = {
        .kind = LIST_SNAPSHOTS, .max_entries = 4, .token = "", .source_volume_id = ""};
    char id[ID_SNAPSHOT_MAX + 1], token[LIST_TOKEN_MAX + 1], name[16];
    struct list_page page;
    size_t count = 0;

    for (unsigned i = 0; i < 10; i++) {
        snprintf(name, sizeof(name), "n%u", i);
        assert_int_equal(snap(&fixture->a, name, i < 7 ? VOLUME_1 : VOLUME_3, fixture_soon(), id, NULL),
                         E_OK);
    }
    str_copy(token, sizeof(token), "");
    do {
        request.token = token;
        assert_int_equal(list_page_get(&fixture->a, &request, fixture_soon(), &page, NULL), E_OK);
        assert_true(page.count <= 4 && page.count > 0);
        count += page.count;
        str_copy(token, sizeof(token), page.next_token);
        list_page_done(&page);
    } while (token[0] != '\0');
    assert_int_equal(count, 10);
    request.token = "";
    request.source_volume_id = VOLUME_3;
    assert_int_equal(list_page_get(&fixture->a, &request, fixture_soon(), &page, NULL), E_OK);
    assert_int_equal(page.count, 3);
    list_page_done(&page);
    peer_stop(&fixture->peers[1]); /* it could hold one, by any other name */
    request.source_volume_id = "";
    request.max_entries = 0;
    assert_int_equal(list_page_get(&fixture->a, &request, fixture_soon(), &page, NULL), E_UNAVAILABLE);
}

/* ---- clones ---- */

static int make_clone(struct fixture *fixture, const char *name, const char *volume_id,
                      const char *snapshot_id, uint64_t required, char ret_id[ID_VOLUME_MAX + 1],
                      struct error *err)
{
    struct create_request request = {.name = name,
                                     .range = {.required_bytes = required},
                                     .source_volume_id = volume_id,
                                     .source_snapshot_id = snapshot_id};
    Mooring__Storage__V1__Volume *volume = NULL;
    int r = volume_create(&fixture->a, &request, fixture_soon(), &volume, err);

    if (r != E_OK)
        return r;
    str_copy(ret_id, ID_VOLUME_MAX + 1, volume->volume_id);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return E_OK;
}

static void test_clone(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1], again[ID_VOLUME_MAX + 1], snapshot_id[ID_SNAPSHOT_MAX + 1];

    fixture->peers[1].free_bytes = 100 * MIB_BYTES; /* the fullest, and yet the clone's */
    assert_int_equal(make_clone(fixture, "c", VOLUME_2, NULL, 3 * MIB_BYTES, id, NULL), E_OK);
    assert_true(str_starts_with(id, "s2."));
    assert_string_equal(peer_volume(&fixture->peers[1], id)->source, VOLUME_2);
    assert_int_equal(peer_volume(&fixture->peers[1], id)->size_bytes, 3 * MIB_BYTES);
    assert_int_equal(make_clone(fixture, "c", VOLUME_2, NULL, 3 * MIB_BYTES, again, NULL), E_OK);
    assert_string_equal(again, id);
    assert_int_equal(make_clone(fixture, "c", VOLUME_1, NULL, 3 * MIB_BYTES, again, NULL), E_EXISTS);
    assert_int_equal(make_clone(fixture, "c", NULL, NULL, 3 * MIB_BYTES, again, NULL), E_EXISTS);
    assert_int_equal(make_clone(fixture, "d", VOLUME_2, NULL, MIB_BYTES, again, NULL), E_OUT_OF_RANGE);
    assert_int_equal(snap(&fixture->a, NAME, VOLUME_2, fixture_soon(), snapshot_id, NULL), E_OK);
    assert_int_equal(make_clone(fixture, "d", NULL, snapshot_id, 0, id, NULL), E_OK);
    assert_int_equal(peer_volume(&fixture->peers[1], id)->size_bytes, 2 * MIB_BYTES); /* the source's */
    assert_int_equal(make_clone(fixture, "d", VOLUME_2, NULL, 0, again, NULL), E_EXISTS);
    fixture->peers[1].free_bytes = MIB_BYTES;
    assert_int_equal(make_clone(fixture, "e", VOLUME_2, NULL, 0, again, NULL), E_NO_SPACE);
    fixture_expect_claims(fixture, "e", NULL);
}

/* The source is gone: a repeat still finds what was made of it, and a new name nothing. */
static void test_clone_source_gone(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1], again[ID_VOLUME_MAX + 1];

    assert_int_equal(make_clone(fixture, "c", VOLUME_2, NULL, 0, id, NULL), E_OK);
    peer_volume(&fixture->peers[1], VOLUME_2)->id[0] = '\0';
    assert_int_equal(make_clone(fixture, "c", VOLUME_2, NULL, 2 * MIB_BYTES, again, NULL), E_OK);
    assert_string_equal(again, id);
    assert_int_equal(make_clone(fixture, "d", VOLUME_2, NULL, 0, again, NULL), E_NOT_FOUND);
    assert_int_equal(make_clone(fixture, "d", NULL, OLD_SNAPSHOT, 0, again, NULL), E_NOT_FOUND);
    assert_int_equal(make_clone(fixture, "d", NULL, "not-ours", 0, again, NULL), E_NOT_FOUND);
    fixture_expect_claims(fixture, "d", NULL);
}

static void test_clone_topology(void **state)
{
    struct fixture *fixture = *state;
    struct create_request request = {.name = "c", .source_volume_id = VOLUME_2, .wish = {.zone = "a"}};
    Mooring__Storage__V1__Volume *volume = NULL;

    fixture->peers[0].zone = "a";
    fixture->peers[1].zone = "b";
    assert_int_equal(volume_create(&fixture->a, &request, fixture_soon(), &volume, NULL), E_EXHAUSTED);
    request.wish.zone = "b";
    assert_int_equal(volume_create(&fixture->a, &request, fixture_soon(), &volume, NULL), E_OK);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
}

/* An older server would make an empty volume. */
static void test_clone_old_server(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    fixture->peers[1].old = true;
    assert_int_equal(make_clone(fixture, "c", VOLUME_2, NULL, 0, id, NULL), E_PRECONDITION);
    assert_int_equal(fixture_count_volumes(fixture), 3);
    fixture_expect_claims(fixture, "c", NULL);
}

/* ---- groups ---- */

static int make_group(struct controller *controller, char *const *volume_ids, size_t count, struct group *ret,
                      struct error *err)
{
    struct group_request request = {.name = NAME, .source_volume_ids = volume_ids, .sources_count = count};

    *ret = (struct group){0};
    return group_create(controller, &request, fixture_soon(), ret, err);
}

static void expect_nothing_left(struct fixture *fixture)
{
    assert_int_equal(count_snapshots(fixture), 0);
    expect_claims(fixture, GROUP_KIND, NAME, NULL);
    for (size_t i = 0; i < SERVERS; i++)
        assert_string_equal(fixture->peers[i].hold, "");
}

static void test_group(void **state)
{
    struct fixture *fixture = *state;
    char *strangers[3] = {NULL, NULL, (char *)OLD_SNAPSHOT}, *members[2];
    struct group group, again;

    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_OK);
    assert_int_equal(group.count, 2);
    expect_claims(fixture, GROUP_KIND, NAME, group.id);
    assert_int_equal(fixture->peers[1].holds, 0); /* nothing of its volumes is asked for */
    for (size_t i = 0; i < 2; i++) {
        members[i] = strangers[i] = group.snapshots[i]->snapshot_id;
        assert_false(group.snapshots[i]->provisional);
    }
    assert_int_equal(make_group(&fixture->b, sources, 2, &again, NULL), E_OK);
    assert_string_equal(again.id, group.id);
    assert_int_equal(again.count, 2);
    group_done(&again);
    assert_int_equal(make_group(&fixture->b, sources, 1, &again, NULL), E_EXISTS);
    assert_int_equal(fixture->peers[0].holds, 1);
    assert_int_equal(group_get(&fixture->b, group.id, members, 2, fixture_soon(), &again, NULL), E_OK);
    group_done(&again);
    assert_int_equal(group_get(&fixture->b, group.id, members, 1, fixture_soon(), &again, NULL),
                     E_INVALID_ARGUMENT);
    assert_int_equal(group_get(&fixture->b, group.id, strangers, 3, fixture_soon(), &again, NULL),
                     E_INVALID_ARGUMENT);
    assert_int_equal(snapshot_delete(&fixture->a, members[0], fixture_soon(), NULL), E_INVALID_ARGUMENT);
    assert_int_equal(group_delete(&fixture->a, group.id, members, 1, fixture_soon(), NULL),
                     E_INVALID_ARGUMENT);
    assert_int_equal(count_snapshots(fixture), 2);
    peer_snapshot(&fixture->peers[0], members[0])->id[0] = '\0'; /* as a delete that was cut short */
    assert_int_equal(group_delete(&fixture->b, group.id, members, 2, fixture_soon(), NULL), E_OK);
    expect_nothing_left(fixture);
    assert_int_equal(group_delete(&fixture->a, group.id, members, 2, fixture_soon(), NULL), E_OK);
    assert_int_equal(group_get(&fixture->a, group.id, members, 2, fixture_soon(), &again, NULL), E_NOT_FOUND);
    group_done(&group);
}

static int fail_at(struct peer *peer, const char *method, void *context)
{
    const char *const *what = context;

    if (!str_equal(peer->server_id, "s3") || !str_equal(method, what[0]))
        return E_OK;
    if (what[1]) { /* the hold ended by itself */
        peer->hold[0] = '\0';
        return E_OK;
    }
    return E_UNAVAILABLE;
}

/* One server that fails at a step: all of it fails, nothing is left, and everybody is let go. */
static void test_group_fails_whole(void **state)
{
    static const char *cases[][2] = {
        {"HoldVolumes", NULL}, {"CreateSnapshot", NULL}, {"CreateSnapshot", "x"}, {"ReleaseVolumes", "x"}};
    struct fixture *fixture = *state;
    struct group group;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        fixture->peers[2].hook_context = cases[i];
        fixture->peers[2].hook = fail_at;
        assert_int_not_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_OK);
        fixture->peers[2].hook = NULL;
        assert_int_equal(group.count, 0);
        fixture->peers[2].hold[0] = '\0';
        expect_nothing_left(fixture);
    }
    assert_int_equal(make_group(&fixture->b, sources, 2, &group, NULL), E_OK);
    group_done(&group);
}

static void test_group_source_missing(void **state)
{
    char *const missing[] = {(char *)VOLUME_1, (char *)OLD_ID_3};
    struct fixture *fixture = *state;
    struct group group;

    assert_int_equal(make_group(&fixture->a, missing, 2, &group, NULL), E_NOT_FOUND);
    expect_nothing_left(fixture);
}

/* Cut short between the two commits: the decision stands, and a repeat finishes it. */
static void test_group_finishes_commit(void **state)
{
    static const char *at[2] = {"CommitSnapshots", NULL};
    struct fixture *fixture = *state;
    struct group group;

    fixture->peers[2].hook_context = at;
    fixture->peers[2].hook = fail_at;
    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_UNAVAILABLE);
    fixture->peers[2].hook = NULL;
    assert_int_equal(count_snapshots(fixture), 2);
    assert_int_equal(make_group(&fixture->b, sources, 2, &group, NULL), E_OK);
    assert_int_equal(fixture->peers[0].holds, 1); /* nothing was cut anew */
    assert_int_equal(group.count, 2);
    group_done(&group);
}

static struct peer_snapshot *leave(struct peer *peer, const char *id, const char *source, const char *group,
                                   bool held, bool provisional)
{
    struct peer_snapshot *one = peer_snapshot(peer, "");

    *one = (struct peer_snapshot){.held = held, .provisional = provisional, .size_bytes = MIB_BYTES};
    str_copy(one->id, sizeof(one->id), id);
    str_copy(one->source, sizeof(one->source), source);
    str_copy(one->group, sizeof(one->group), group);
    return one;
}

#define GROUP_ID "g-00000000000000bb"

static void claim_group(struct fixture *fixture)
{
    for (size_t i = 0; i < SERVERS; i++)
        peer_claim_of(&fixture->peers[i], GROUP_KIND, NAME, GROUP_ID);
}

/* Members that an earlier call cut and held: of one attempt they are committed, of two they are not. */
static void test_group_attempts(void **state)
{
    struct fixture *fixture = *state;
    struct group group;

    claim_group(fixture);
    leave(&fixture->peers[0], "s1.s-1111111100000001", VOLUME_1, GROUP_ID, true, true);
    leave(&fixture->peers[2], "s3.s-2222222200000001", VOLUME_3, GROUP_ID, true, true);
    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_OK);
    assert_string_equal(group.id, GROUP_ID);
    assert_null(peer_snapshot(&fixture->peers[0], "s1.s-1111111100000001"));
    assert_int_equal(fixture->peers[0].holds, 1); /* cut anew */
    assert_int_equal(count_snapshots(fixture), 2);
    group_done(&group);
}

static void test_group_held_is_committed(void **state)
{
    struct fixture *fixture = *state;
    struct group group;

    claim_group(fixture);
    leave(&fixture->peers[0], "s1.s-1111111100000001", VOLUME_1, GROUP_ID, true, true);
    leave(&fixture->peers[2], "s3.s-1111111100000002", VOLUME_3, GROUP_ID, true, true);
    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_OK);
    assert_int_equal(fixture->peers[0].holds, 0);
    assert_false(peer_snapshot(&fixture->peers[0], "s1.s-1111111100000001")->provisional);
    group_done(&group);
}

/* One that was not held until the end is of no use, however whole it is. */
static void test_group_not_held(void **state)
{
    struct fixture *fixture = *state;
    struct group group;

    claim_group(fixture);
    leave(&fixture->peers[0], "s1.s-1111111100000001", VOLUME_1, GROUP_ID, true, true);
    leave(&fixture->peers[2], "s3.s-1111111100000002", VOLUME_3, GROUP_ID, false, true);
    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_OK);
    assert_int_equal(fixture->peers[2].holds, 1);
    assert_null(peer_snapshot(&fixture->peers[2], "s3.s-1111111100000002"));
    group_done(&group);
}

#define OTHERS_1 "s1.s-1111111100000001"

/* Another controller commits what it made, just before this call would drop it. */
static int commit_before_delete(struct peer *peer, const char *method, void *context)
{
    struct peer_snapshot *others = peer_snapshot(peer, OTHERS_1);

    (void)context;
    if (str_equal(method, "DeleteSnapshot") && others)
        others->provisional = false;
    return E_OK;
}

static void test_group_never_takes_committed(void **state)
{
    struct fixture *fixture = *state;
    struct group group;

    claim_group(fixture);
    leave(&fixture->peers[0], OTHERS_1, VOLUME_1, GROUP_ID, true, true);
    fixture->peers[0].hook = commit_before_delete;
    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_BUSY);
    assert_non_null(peer_snapshot(&fixture->peers[0], OTHERS_1));
    assert_int_equal(count_snapshots(fixture), 1); /* nothing of ours */
    expect_claims(fixture, GROUP_KIND, NAME, GROUP_ID);
}

/* One of two is taken away by another call before it is committed: the other one has to go too. */
static int lose_before_commit(struct peer *peer, const char *method, void *context)
{
    (void)context;
    if (str_equal(method, "CommitSnapshots")) {
        for (size_t i = 0; i < PEER_ITEMS_MAX; i++)
            peer->snapshots[i].id[0] = '\0';
    }
    return E_OK;
}

static void test_group_broken(void **state)
{
    struct fixture *fixture = *state;
    struct group group;

    fixture->peers[2].hook = lose_before_commit;
    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_BUSY);
    expect_nothing_left(fixture);
}

/* Until a group is made its members are nobody's: they may go again. */
static void test_group_provisional(void **state)
{
    struct fixture *fixture = *state;
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    char *members[] = {(char *)OTHERS_1}, id[ID_VOLUME_MAX + 1];
    struct group group;

    leave(&fixture->peers[0], members[0], VOLUME_1, GROUP_ID, true, true);
    assert_int_equal(snapshot_find(&fixture->a, members[0], fixture_soon(), &snapshot, NULL), E_NOT_FOUND);
    assert_int_equal(make_clone(fixture, "c", NULL, members[0], 0, id, NULL), E_NOT_FOUND);
    assert_int_equal(group_get(&fixture->a, GROUP_ID, members, 1, fixture_soon(), &group, NULL), E_NOT_FOUND);
}

/* A server is away when a group that stands is asked for again: nothing of it may be touched. */
static void test_group_stands_while_server_away(void **state)
{
    struct fixture *fixture = *state;
    struct group group;

    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_OK);
    group_done(&group);
    peer_stop(&fixture->peers[1]);
    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_UNAVAILABLE);
    peer_stop(&fixture->peers[2]);
    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_UNAVAILABLE);
    assert_int_equal(count_snapshots(fixture), 2);
}

static void test_group_waits(void **state)
{
    struct fixture *fixture = *state;
    struct group_request request = {.name = NAME, .source_volume_ids = sources, .sources_count = 2};
    struct group group = {0};

    fixture->peers[2].not_ready = 1000000;
    assert_int_equal(group_create(&fixture->a, &request, time_now_ms() + 1500, &group, NULL), E_BUSY);
    assert_int_equal(count_snapshots(fixture), 2);
    for (size_t i = 0; i < PEER_ITEMS_MAX; i++)
        fixture->peers[2].snapshots[i].not_ready = 0;
    assert_int_equal(make_group(&fixture->a, sources, 2, &group, NULL), E_OK);
    assert_int_equal(fixture->peers[2].holds, 1);
    group_done(&group);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_create),
        TEST(test_create_refused),
        TEST(test_create_old_server),
        TEST(test_create_after_cut_off_call),
        TEST(test_create_rival),
        TEST(test_create_waits),
        TEST(test_list),
        TEST(test_clone),
        TEST(test_clone_source_gone),
        TEST(test_clone_topology),
        TEST(test_clone_old_server),
        TEST(test_group),
        TEST(test_group_fails_whole),
        TEST(test_group_source_missing),
        TEST(test_group_finishes_commit),
        TEST(test_group_attempts),
        TEST(test_group_held_is_committed),
        TEST(test_group_not_held),
        TEST(test_group_never_takes_committed),
        TEST(test_group_broken),
        TEST(test_group_provisional),
        TEST(test_group_stands_while_server_away),
        TEST(test_group_waits),
    };

    log_init("controller_snapshot", LOG_LEVEL_ERROR); /* no access log of the peers */
    return cmocka_run_group_tests_name("controller_snapshot", tests, NULL, NULL);
}
