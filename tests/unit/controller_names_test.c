/*
 * CreateVolume of one controller and of two at once, against three storage servers over real gRPC: one name,
 * one volume (invariant 8).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "tests/unit/controller_fixture.h"

/* ---- CreateVolume ---- */

static void test_create_and_repeat(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1], again[ID_VOLUME_MAX + 1];

    fixture->peers[1].free_bytes *= 2;
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, "ext4", id, NULL), E_OK);
    assert_true(str_starts_with(id, "s2."));
    fixture_expect_claims(fixture, "data", id);
    assert_int_equal(fixture_create(&fixture->b, "data", MIB_BYTES, "ext4", again, NULL), E_OK);
    assert_string_equal(id, again);
    assert_int_equal(fixture_create(&fixture->a, "data", 2 * MIB_BYTES, "ext4", again, NULL), E_EXISTS);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, "xfs", again, NULL), E_EXISTS);
    assert_int_equal(fixture_count_volumes(fixture), 1);
    /* A pool that filled up since does not turn a repeat into a refusal. */
    for (size_t i = 0; i < SERVERS; i++)
        fixture->peers[i].free_bytes = 0;
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, "ext4", again, NULL), E_OK);
    assert_string_equal(id, again);
}

static void test_create_finishes_claim(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    peer_claim(&fixture->peers[0], "data", OLD_ID_3);
    peer_claim(&fixture->peers[2], "data", OLD_ID_3);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_string_equal(id, OLD_ID_3);
    fixture_expect_claims(fixture, "data", OLD_ID_3);
    assert_int_equal(peer_count_volumes(&fixture->peers[2]), 1);
}

/* Of servers that overcommit, the one with the most space left gets a volume that is larger than that; what
 * is allocated at once gets what there is. */
static void test_create_beyond_free(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];
    struct create_request thick = {
        .name = "thick", .range = {.required_bytes = 5 * MIB_BYTES}, .parameters.thick = true};
    Mooring__Storage__V1__Volume *volume = NULL;

    for (size_t i = 0; i < SERVERS; i++) {
        fixture->peers[i].free_bytes = (i == 1 ? 6 : 4) * MIB_BYTES;
        fixture->peers[i].promise_max_bytes = (i == 1 ? 60 : 80) * MIB_BYTES;
    }
    assert_int_equal(fixture_create(&fixture->a, "large", 50 * MIB_BYTES, "ext4", id, NULL), E_OK);
    assert_true(str_starts_with(id, "s2."));
    assert_int_equal(fixture_create(&fixture->a, "larger", 70 * MIB_BYTES, "ext4", id, NULL), E_OK);
    assert_false(str_starts_with(id, "s2."));
    assert_int_equal(fixture_create(&fixture->a, "largest", 90 * MIB_BYTES, "ext4", id, NULL), E_NO_SPACE);
    assert_int_equal(volume_create(&fixture->a, &thick, fixture_soon(), &volume, NULL), E_OK);
    assert_true(str_starts_with(volume->volume_id, "s2."));
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    thick.name = "thicker";
    thick.range.required_bytes = 7 * MIB_BYTES;
    assert_int_equal(volume_create(&fixture->a, &thick, fixture_soon(), &volume, NULL), E_NO_SPACE);
}

/* What a delete left that was cut off: the id's own server has no claim of it any more. */
static void test_create_revives_no_id(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    peer_claim(&fixture->peers[0], "data", OLD_ID_3);
    peer_claim(&fixture->peers[1], "data", OLD_ID_3);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_string_not_equal(id, OLD_ID_3);
    fixture_expect_claims(fixture, "data", id);
    assert_int_equal(fixture_count_volumes(fixture), 1);
}

static void test_create_replaces_leftover(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    peer_claim(&fixture->peers[1], "data", OLD_ID_3);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_string_not_equal(id, OLD_ID_3);
    fixture_expect_claims(fixture, "data", id);
    assert_int_equal(fixture_count_volumes(fixture), 1);
}

/* A server that was added to the configuration brought a volume of that name. */
static void test_create_adopts_existing_elsewhere(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    peer_claim(&fixture->peers[2], "data", OLD_ID_3);
    peer_add_volume(&fixture->peers[2], OLD_ID_3, "data", MIB_BYTES);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_string_equal(id, OLD_ID_3);
    fixture_expect_claims(fixture, "data", OLD_ID_3);
    assert_int_equal(fixture_count_volumes(fixture), 1);
}

static void test_create_without_room(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    for (size_t i = 0; i < SERVERS; i++)
        fixture->peers[i].free_bytes = MIB_BYTES;
    assert_int_equal(fixture_create(&fixture->a, "data", 2 * MIB_BYTES, NULL, id, NULL), E_NO_SPACE);
    fixture_expect_claims(fixture, "data", NULL);
    assert_int_equal(fixture_count_volumes(fixture), 0);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
}

static int refuse_create(struct peer *peer, const char *method, void *context)
{
    (void)peer, (void)context;
    return str_equal(method, "CreateVolume") ? E_NO_SPACE : E_OK;
}

/* The server that was chosen filled up in between: the claim must not bind the name to it. */
static void test_create_refused_releases(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    fixture->peers[2].free_bytes *= 2;
    fixture->peers[2].hook = refuse_create;
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_NO_SPACE);
    fixture_expect_claims(fixture, "data", NULL);
    fixture->peers[2].free_bytes = 0;
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_false(str_starts_with(id, "s3."));
}

static void test_create_needs_all_servers(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_error_ struct error err = {0};
    char id[ID_VOLUME_MAX + 1];

    peer_stop(&fixture->peers[2]);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, &err), E_UNAVAILABLE);
    assert_non_null(strstr(error_text(&err), "s3"));
    assert_int_equal(fixture_count_volumes(fixture), 0);
    fixture_declare_gone(fixture, 2);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
}

static int count_method(struct peer *peer, const char *method, void *context)
{
    unsigned *count = context;

    (void)peer;
    *count += str_equal(method, "GetServer");
    return E_OK;
}

/* One server is not asked for its room each time; where what it said last is too little, it is. */
static void test_create_on_one_server(void **state)
{
    struct fixture *fixture = *state;
    struct peer *peer = &fixture->peers[0];
    char id[ID_VOLUME_MAX + 1];
    unsigned surveys = 0;

    fixture_declare_gone(fixture, 1);
    fixture_declare_gone(fixture, 2);
    peer_stop(peer);
    peer->states_boot = true;
    peer_start(peer, peer->server_id, NULL);
    str_copy(peer->stated, sizeof(peer->stated), peer->boot_id);
    while (fixture_create(&fixture->a, "first", MIB_BYTES, NULL, id, NULL) == E_UNAVAILABLE)
        ; /* the connection is made anew */
    peer->hook_context = &surveys;
    peer->hook = count_method;
    assert_int_equal(fixture_create(&fixture->a, "second", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_int_equal(surveys, 0);
    peer->free_bytes = MIB_BYTES;
    assert_int_equal(fixture_create(&fixture->a, "large", 2 * MIB_BYTES, NULL, id, NULL), E_NO_SPACE);
    fixture_expect_claims(fixture, "large", NULL);
    assert_int_equal(storage_get_server(storage_at(fixture->a.storage, 0), fixture_soon(), NULL, NULL), E_OK);
    peer->free_bytes = 4 * MIB_BYTES;
    surveys = 0;
    assert_int_equal(fixture_create(&fixture->a, "large", 2 * MIB_BYTES, NULL, id, NULL), E_OK);
    assert_int_equal(surveys, 1);
}

static void test_create_over_gone_claim(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    for (size_t i = 0; i < SERVERS; i++)
        peer_claim(&fixture->peers[i], "data", OLD_ID_3);
    peer_stop(&fixture->peers[2]);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_UNAVAILABLE);
    fixture_declare_gone(fixture, 2);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_string_not_equal(id, OLD_ID_3);
    assert_string_equal(peer_name(&fixture->peers[0], "data")->volume_id, id);
    assert_string_equal(peer_name(&fixture->peers[1], "data")->volume_id, id);
}

/* ---- two controllers at once: B does something whole, in the middle of A's CreateVolume ---- */

struct meddle {
    struct fixture *fixture;
    unsigned countdown; /* of calls that arrive at any server, until B acts; 0: it acted */
    bool busy;          /* B's own calls are not counted */
    bool remove;        /* B also deletes what it made */
    pthread_mutex_t lock;
};

static bool meddle_now(struct meddle *meddle)
{
    bool now = false;

    pthread_mutex_lock(&meddle->lock);
    if (!meddle->busy && meddle->countdown > 0 && --meddle->countdown == 0)
        now = meddle->busy = true;
    pthread_mutex_unlock(&meddle->lock);
    return now;
}

static int meddle_hook(struct peer *peer, const char *method, void *context)
{
    struct meddle *meddle = context;
    char id[ID_VOLUME_MAX + 1];

    (void)peer, (void)method;
    if (!meddle_now(meddle))
        return E_OK;
    if (fixture_create(&meddle->fixture->b, "data", MIB_BYTES, NULL, id, NULL) == E_OK && meddle->remove)
        volume_delete(&meddle->fixture->b, id, fixture_soon(), NULL);
    pthread_mutex_lock(&meddle->lock);
    meddle->busy = false;
    pthread_mutex_unlock(&meddle->lock);
    return E_OK;
}

/* False when A's call was over before B could act. */
static bool meddle_at(struct fixture *fixture, unsigned call, bool remove)
{
    struct meddle meddle = {.fixture = fixture, .countdown = call, .remove = remove};
    char id[ID_VOLUME_MAX + 1], settled[ID_VOLUME_MAX + 1];
    int r;

    pthread_mutex_init(&meddle.lock, NULL);
    for (size_t i = 0; i < SERVERS; i++) {
        fixture->peers[i].hook = meddle_hook;
        fixture->peers[i].hook_context = &meddle;
    }
    r = fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL);
    if (r != E_BUSY) /* ABORTED: the CO tries again */
        assert_int_equal(r, E_OK);
    for (size_t i = 0; i < SERVERS; i++)
        fixture->peers[i].hook = NULL;
    assert_true(fixture_count_volumes(fixture) <= 1);
    assert_int_equal(fixture_create(&fixture->b, "data", MIB_BYTES, NULL, settled, NULL), E_OK);
    assert_int_equal(fixture_count_volumes(fixture), 1);
    fixture_expect_claims(fixture, "data", settled);
    if (r == E_OK && !remove)
        assert_string_equal(id, settled);
    assert_int_equal(volume_delete(&fixture->a, settled, fixture_soon(), NULL), E_OK);
    fixture_expect_claims(fixture, "data", NULL);
    return meddle.countdown == 0;
}

static void test_two_controllers_create(void **state)
{
    unsigned call = 1;

    while (meddle_at(*state, call, false))
        call++;
    assert_true(call > 8); /* the survey, three claims, the look and the making, each with its proof */
}

static void test_two_controllers_create_delete(void **state)
{
    unsigned call = 1;

    while (meddle_at(*state, call, true))
        call++;
    assert_true(call > 8);
}

struct racer {
    struct controller *controller;
    char name[16];
    char id[ID_VOLUME_MAX + 1];
    int result;
};

static void *race(void *context)
{
    struct racer *racer = context;

    uint64_t end_ms = fixture_soon(); /* only against a race without end */

    do {
        racer->result = fixture_create(racer->controller, racer->name, MIB_BYTES, NULL, racer->id, NULL);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    } while (racer->result == E_BUSY && time_now_ms() < end_ms);
    return NULL;
}

static void test_two_controllers_race(void **state)
{
    struct fixture *fixture = *state;

    for (unsigned round = 0; round < 8; round++) {
        struct racer racers[4] = {0};
        pthread_t threads[4];

        for (size_t i = 0; i < ARRAY_SIZE(racers); i++) {
            racers[i].controller = i % 2 ? &fixture->a : &fixture->b;
            snprintf(racers[i].name, sizeof(racers[i].name), "race-%u", round);
            assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
        }
        for (size_t i = 0; i < ARRAY_SIZE(racers); i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(racers[i].result, E_OK);
            assert_string_equal(racers[i].id, racers[0].id);
        }
        assert_int_equal(fixture_count_volumes(fixture), round + 1);
        fixture_expect_claims(fixture, racers[0].name, racers[0].id);
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_create_and_repeat),
        TEST(test_create_finishes_claim),
        TEST(test_create_beyond_free),
        TEST(test_create_revives_no_id),
        TEST(test_create_replaces_leftover),
        TEST(test_create_adopts_existing_elsewhere),
        TEST(test_create_without_room),
        TEST(test_create_refused_releases),
        TEST(test_create_needs_all_servers),
        TEST(test_create_over_gone_claim),
        TEST(test_create_on_one_server),
        TEST(test_two_controllers_create),
        TEST(test_two_controllers_create_delete),
        TEST(test_two_controllers_race),
    };

    log_init("controller_names", LOG_LEVEL_ERROR); /* no access log of the peers */
    return cmocka_run_group_tests_name("controller_names", tests, NULL, NULL);
}
