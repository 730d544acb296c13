/*
 * The controller against three storage servers (controller_peer.h) over real gRPC: claims of names, two
 * controllers at once, absence that is proven or not, drains that fail. Invariants 2, 8 and 9 as far as they
 * are the controller's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "controller/capacity.h"
#include "controller/controller.h"
#include "controller/list.h"
#include "tests/unit/controller_peer.h"

#define SERVERS 3
#define MIB_BYTES UINT64_C(1048576)
#define OLD_ID_1 "s1.00000000000000aa"
#define OLD_ID_2 "s2.00000000000000aa"
#define OLD_ID_3 "s3.00000000000000aa"

static const char *const server_ids[SERVERS] = {"s1", "s2", "s3"};

struct fixture {
    char dir[32];
    struct peer peers[SERVERS];
    struct server_config configs[SERVERS];
    struct server_list list;
    struct controller a, b;
};

static void open_controller(struct fixture *fixture, struct controller *controller)
{
    assert_int_equal(operations_new(&controller->operations), E_OK);
    assert_int_equal(storage_new(&controller->storage, &fixture->list, NULL, NULL), E_OK);
}

static void close_controller(struct controller *controller)
{
    storage_free(controller->storage);
    operations_free(controller->operations);
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));

    str_copy(fixture->dir, sizeof(fixture->dir), "/tmp/mooring-ctl-XXXXXX");
    assert_non_null(mkdtemp(fixture->dir));
    for (size_t i = 0; i < SERVERS; i++) {
        peer_start(&fixture->peers[i], server_ids[i], fixture->dir);
        fixture->configs[i] = (struct server_config){.id = server_ids[i],
                                                     .address = fixture->peers[i].endpoint,
                                                     .pool_uuid = "6f1f9f36-5f0e-4d0c-9a3b-000000000001"};
    }
    fixture->list = (struct server_list){fixture->configs, SERVERS};
    open_controller(fixture, &fixture->a);
    open_controller(fixture, &fixture->b);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    close_controller(&fixture->a);
    close_controller(&fixture->b);
    for (size_t i = 0; i < SERVERS; i++)
        peer_stop(&fixture->peers[i]);
    rmdir(fixture->dir);
    free(fixture);
    return 0;
}

/* The same servers, with one of them declared gone: what an operator's restart of the controller does. */
static void declare_gone(struct fixture *fixture, size_t index)
{
    close_controller(&fixture->a);
    fixture->configs[index].gone = true;
    open_controller(fixture, &fixture->a);
}

/* ---- calls ---- */

static uint64_t soon(void)
{
    return time_now_ms() + 20000;
}

static int create(struct controller *controller, const char *name, uint64_t size_bytes, const char *fs_type,
                  char ret_id[ID_VOLUME_MAX + 1], struct error *err)
{
    struct create_request request = {.name = name, .range = {size_bytes, size_bytes}};
    Mooring__Storage__V1__Volume *volume = NULL;
    int r;

    request.parameters.text[PARAMETER_FS_TYPE] = fs_type;
    r = volume_create(controller, &request, soon(), &volume, err);
    if (r != E_OK)
        return r;
    str_copy(ret_id, ID_VOLUME_MAX + 1, volume->volume_id);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return E_OK;
}

static int find(struct controller *controller, const char *id, struct error *err)
{
    Mooring__Storage__V1__Volume *volume = NULL;
    int r = volume_find(controller, id, soon(), &volume, err);

    if (r == E_OK)
        protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}

static int publish(struct controller *controller, const char *id, const char *node_id, struct error *err)
{
    struct capability capability = {.block = true, .mode = 1, .fs_type = ""};
    Mooring__Storage__V1__AttachVolumeResponse *response = NULL;
    struct storage_server *server;
    int r = publish_volume(controller, id, node_id, &capability, false, soon(), &response, &server, err);

    if (r == E_OK)
        protobuf_c_message_free_unpacked(&response->base, NULL);
    return r;
}

static size_t all_volumes(struct fixture *fixture)
{
    size_t count = 0;

    for (size_t i = 0; i < SERVERS; i++)
        count += peer_count_volumes(&fixture->peers[i]);
    return count;
}

static void expect_claims(struct fixture *fixture, const char *name, const char *id)
{
    for (size_t i = 0; i < SERVERS; i++) {
        const struct peer_name *claim = peer_name(&fixture->peers[i], name);

        if (id) {
            assert_non_null(claim);
            assert_string_equal(claim->volume_id, id);
        } else {
            assert_null(claim);
        }
    }
}

/* ---- CreateVolume ---- */

static void test_create_and_repeat(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1], again[ID_VOLUME_MAX + 1];

    fixture->peers[1].free_bytes *= 2;
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, "ext4", id, NULL), E_OK);
    assert_true(str_starts_with(id, "s2."));
    expect_claims(fixture, "data", id);
    assert_int_equal(create(&fixture->b, "data", MIB_BYTES, "ext4", again, NULL), E_OK);
    assert_string_equal(id, again);
    assert_int_equal(create(&fixture->a, "data", 2 * MIB_BYTES, "ext4", again, NULL), E_EXISTS);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, "xfs", again, NULL), E_EXISTS);
    assert_int_equal(all_volumes(fixture), 1);
    /* A pool that filled up since does not turn a repeat into a refusal. */
    for (size_t i = 0; i < SERVERS; i++)
        fixture->peers[i].free_bytes = 0;
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, "ext4", again, NULL), E_OK);
    assert_string_equal(id, again);
}

static void test_create_finishes_claim(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    peer_claim(&fixture->peers[0], "data", OLD_ID_3);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_string_equal(id, OLD_ID_3);
    expect_claims(fixture, "data", OLD_ID_3);
    assert_int_equal(peer_count_volumes(&fixture->peers[2]), 1);
}

static void test_create_replaces_leftover(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    peer_claim(&fixture->peers[1], "data", OLD_ID_3);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_string_not_equal(id, OLD_ID_3);
    expect_claims(fixture, "data", id);
    assert_int_equal(all_volumes(fixture), 1);
}

/* A server that was added to the configuration brought a volume of that name. */
static void test_create_adopts_existing_elsewhere(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    peer_claim(&fixture->peers[2], "data", OLD_ID_3);
    peer_add_volume(&fixture->peers[2], OLD_ID_3, "data", MIB_BYTES);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_string_equal(id, OLD_ID_3);
    expect_claims(fixture, "data", OLD_ID_3);
    assert_int_equal(all_volumes(fixture), 1);
}

static void test_create_without_room(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    for (size_t i = 0; i < SERVERS; i++)
        fixture->peers[i].free_bytes = MIB_BYTES;
    assert_int_equal(create(&fixture->a, "data", 2 * MIB_BYTES, NULL, id, NULL), E_NO_SPACE);
    expect_claims(fixture, "data", NULL);
    assert_int_equal(all_volumes(fixture), 0);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
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
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_NO_SPACE);
    expect_claims(fixture, "data", NULL);
    fixture->peers[2].free_bytes = 0;
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_false(str_starts_with(id, "s3."));
}

static void test_create_needs_all_servers(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_error_ struct error err = {0};
    char id[ID_VOLUME_MAX + 1];

    peer_stop(&fixture->peers[2]);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, &err), E_UNAVAILABLE);
    assert_non_null(strstr(error_text(&err), "s3"));
    assert_int_equal(all_volumes(fixture), 0);
    declare_gone(fixture, 2);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
}

static void test_create_over_gone_claim(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    for (size_t i = 0; i < SERVERS; i++)
        peer_claim(&fixture->peers[i], "data", OLD_ID_3);
    peer_stop(&fixture->peers[2]);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_UNAVAILABLE);
    declare_gone(fixture, 2);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
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
    if (create(&meddle->fixture->b, "data", MIB_BYTES, NULL, id, NULL) == E_OK && meddle->remove)
        volume_delete(&meddle->fixture->b, id, soon(), NULL);
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
    r = create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL);
    if (r != E_BUSY) /* ABORTED: the CO tries again */
        assert_int_equal(r, E_OK);
    for (size_t i = 0; i < SERVERS; i++)
        fixture->peers[i].hook = NULL;
    assert_true(all_volumes(fixture) <= 1);
    assert_int_equal(create(&fixture->b, "data", MIB_BYTES, NULL, settled, NULL), E_OK);
    assert_int_equal(all_volumes(fixture), 1);
    expect_claims(fixture, "data", settled);
    if (r == E_OK && !remove)
        assert_string_equal(id, settled);
    assert_int_equal(volume_delete(&fixture->a, settled, soon(), NULL), E_OK);
    expect_claims(fixture, "data", NULL);
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

    uint64_t end_ms = soon(); /* only against a race without end */

    do {
        racer->result = create(racer->controller, racer->name, MIB_BYTES, NULL, racer->id, NULL);
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
        assert_int_equal(all_volumes(fixture), round + 1);
        expect_claims(fixture, racers[0].name, racers[0].id);
    }
}

/* ---- absence (invariant 9) ---- */

static void test_absence_unreachable(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(find(&fixture->a, OLD_ID_2, NULL), E_NOT_FOUND);
    peer_stop(&fixture->peers[1]);
    assert_int_equal(find(&fixture->a, OLD_ID_2, NULL), E_UNAVAILABLE);
    assert_int_equal(volume_delete(&fixture->a, OLD_ID_2, soon(), NULL), E_UNAVAILABLE);
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "node-1", soon(), NULL), E_UNAVAILABLE);
    assert_int_equal(publish(&fixture->a, OLD_ID_2, "node-1", NULL), E_UNAVAILABLE);
    declare_gone(fixture, 1);
    assert_int_equal(find(&fixture->a, OLD_ID_2, NULL), E_NOT_FOUND);
    assert_int_equal(volume_delete(&fixture->a, OLD_ID_2, soon(), NULL), E_OK);
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "node-1", soon(), NULL), E_OK);
}

static void test_absence_unknown_server(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_error_ struct error err = {0};

    assert_int_equal(find(&fixture->a, "s9.00000000000000aa", &err), E_UNAVAILABLE);
    assert_non_null(strstr(error_text(&err), "s9"));
    assert_int_equal(volume_delete(&fixture->a, "s9.00000000000000aa", soon(), NULL), E_UNAVAILABLE);
    /* An id that we never gave is no volume of anyone. */
    assert_int_equal(find(&fixture->a, "not-one-of-ours", NULL), E_NOT_FOUND);
    assert_int_equal(volume_delete(&fixture->a, "not-one-of-ours", soon(), NULL), E_OK);
    assert_int_equal(publish_undo(&fixture->a, "not-one-of-ours", "", soon(), NULL), E_OK);
}

static void test_absence_other_pool(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_error_ struct error err = {0};
    char id[ID_VOLUME_MAX + 1];

    fixture->peers[1].pool_uuid[35] = '9';
    peer_new_boot(&fixture->peers[1]);
    assert_int_equal(find(&fixture->a, OLD_ID_2, &err), E_UNAVAILABLE);
    assert_non_null(strstr(error_text(&err), "6f1f9f36-5f0e-4d0c-9a3b-000000000009"));
    assert_int_equal(volume_delete(&fixture->a, OLD_ID_2, soon(), NULL), E_UNAVAILABLE);
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "", soon(), NULL), E_UNAVAILABLE);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_UNAVAILABLE);
    expect_claims(fixture, "data", NULL);
}

/* The server restarts onto another pool right before it answers, and back onto its own right after. */
static int swap_pool(struct peer *peer, const char *method, void *context)
{
    unsigned *swaps = context;

    if (str_equal(method, "GetVolume") || str_equal(method, "DetachVolume")) {
        ++*swaps;
        peer_new_boot(peer);
        return E_NOT_FOUND;
    }
    return E_OK;
}

static void test_absence_across_restart(void **state)
{
    struct fixture *fixture = *state;
    unsigned swaps = 0;

    assert_int_equal(find(&fixture->a, OLD_ID_2, NULL), E_NOT_FOUND);
    fixture->peers[1].hook_context = &swaps;
    fixture->peers[1].hook = swap_pool;
    assert_int_equal(find(&fixture->a, OLD_ID_2, NULL), E_UNAVAILABLE);
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "", soon(), NULL), E_UNAVAILABLE);
    assert_true(swaps > 1);
}

/* ---- DeleteVolume ---- */

static int fail_release(struct peer *peer, const char *method, void *context)
{
    (void)peer, (void)context;
    return str_equal(method, "ReleaseName") ? E_UNAVAILABLE : E_OK;
}

static void test_delete_cut_short(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    fixture->peers[0].hook = fail_release;
    assert_int_equal(volume_delete(&fixture->a, id, soon(), NULL), E_UNAVAILABLE);
    assert_int_equal(all_volumes(fixture), 0);
    assert_non_null(peer_name(&fixture->peers[0], "data"));
    fixture->peers[0].hook = NULL;
    assert_int_equal(volume_delete(&fixture->a, id, soon(), NULL), E_OK);
    expect_claims(fixture, "data", NULL);
    assert_int_equal(volume_delete(&fixture->a, id, soon(), NULL), E_OK);
}

static void test_delete_attached(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_int_equal(publish(&fixture->a, id, "node-1", NULL), E_OK);
    assert_int_equal(volume_delete(&fixture->a, id, soon(), NULL), E_PRECONDITION);
    expect_claims(fixture, "data", id);
    assert_int_equal(publish_undo(&fixture->a, id, "node-1", soon(), NULL), E_OK);
    assert_int_equal(volume_delete(&fixture->a, id, soon(), NULL), E_OK);
}

/* ---- publish and unpublish (invariant 2) ---- */

static void test_publish(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_error_ struct error err = {0};
    char id[ID_VOLUME_MAX + 1];

    assert_int_equal(publish(&fixture->a, OLD_ID_1, "node-1", NULL), E_NOT_FOUND);
    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_int_equal(publish(&fixture->a, id, "node-1", NULL), E_OK);
    assert_int_equal(publish(&fixture->a, id, "node-1", NULL), E_OK);
    assert_int_equal(publish(&fixture->a, id, "node-2", &err), E_PRECONDITION);
    assert_non_null(strstr(error_text(&err), "node-1"));
    assert_int_equal(publish_undo(&fixture->a, id, "", soon(), NULL), E_OK);
    assert_int_equal(publish(&fixture->a, id, "node-2", NULL), E_OK);
}

static void test_publish_reader_is_readonly(void **state)
{
    struct fixture *fixture = *state;
    struct capability capability = {.block = true, .mode = 3, .fs_type = ""};
    Mooring__Storage__V1__AttachVolumeResponse *response = NULL;
    struct storage_server *server;
    char id[ID_VOLUME_MAX + 1];

    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_int_equal(
        publish_volume(&fixture->a, id, "node-1", &capability, false, soon(), &response, &server, NULL),
        E_OK);
    protobuf_c_message_free_unpacked(&response->base, NULL);
    for (size_t i = 0; i < SERVERS; i++) {
        const struct peer_volume *volume = peer_volume(&fixture->peers[i], id);

        assert_true(!volume || (volume->readonly && volume->access_mode == 3));
    }
}

/* A drain that takes longer than the caller waits: never OK, and no other operation gets in. */
struct drain {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool entered, release;
};

static int slow_detach(struct peer *peer, const char *method, void *context)
{
    struct drain *drain = context;

    (void)peer;
    if (!str_equal(method, "DetachVolume"))
        return E_OK;
    pthread_mutex_lock(&drain->lock);
    drain->entered = true;
    pthread_cond_broadcast(&drain->changed);
    while (!drain->release)
        pthread_cond_wait(&drain->changed, &drain->lock);
    pthread_mutex_unlock(&drain->lock);
    return E_OK;
}

struct undo {
    struct controller *controller;
    const char *id;
    int result;
};

static void *run_undo(void *context)
{
    struct undo *undo = context;

    undo->result = publish_undo(undo->controller, undo->id, "node-1", soon(), NULL);
    return NULL;
}

static void test_unpublish_waits_for_drain(void **state)
{
    struct fixture *fixture = *state;
    struct drain drain = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    char id[ID_VOLUME_MAX + 1];
    struct undo undo = {.controller = &fixture->a, .id = id, .result = -1};
    pthread_t thread;
    int early, elsewhere;

    assert_int_equal(create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_int_equal(publish(&fixture->a, id, "node-1", NULL), E_OK);
    for (size_t i = 0; i < SERVERS; i++) {
        fixture->peers[i].hook_context = &drain;
        fixture->peers[i].hook = slow_detach;
    }
    early = publish_undo(&fixture->a, id, "node-1", time_now_ms() + 100, NULL);
    assert_int_equal(pthread_create(&thread, NULL, run_undo, &undo), 0);
    pthread_mutex_lock(&drain.lock);
    while (!drain.entered)
        pthread_cond_wait(&drain.changed, &drain.lock);
    pthread_mutex_unlock(&drain.lock);
    elsewhere = publish(&fixture->b, id, "node-2", NULL);
    pthread_mutex_lock(&drain.lock);
    drain.release = true;
    pthread_cond_broadcast(&drain.changed);
    pthread_mutex_unlock(&drain.lock);
    pthread_join(thread, NULL);
    assert_int_equal(early, E_UNAVAILABLE);
    assert_int_equal(elsewhere, E_PRECONDITION);
    assert_int_equal(undo.result, E_OK);
    assert_int_equal(publish(&fixture->b, id, "node-2", NULL), E_OK);
}

static int inside_detach(struct peer *peer, const char *method, void *context)
{
    struct fixture *fixture = context;

    if (!str_equal(method, "DetachVolume") || peer->hook_context != fixture)
        return E_OK;
    /* The same controller, while it unpublishes: a second operation of the volume is ABORTED. */
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "node-1", soon(), NULL), E_BUSY);
    assert_int_equal(volume_delete(&fixture->a, OLD_ID_2, soon(), NULL), E_BUSY);
    assert_int_equal(publish(&fixture->a, OLD_ID_2, "node-2", NULL), E_BUSY);
    return E_OK;
}

static void test_second_operation_aborted(void **state)
{
    struct fixture *fixture = *state;

    peer_add_volume(&fixture->peers[1], OLD_ID_2, "data", MIB_BYTES);
    fixture->peers[1].hook_context = fixture;
    fixture->peers[1].hook = inside_detach;
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "node-1", soon(), NULL), E_OK);
}

/* ---- ListVolumes, GetCapacity ---- */

static size_t walk_pages(struct controller *controller, uint32_t max_entries, size_t *ret_pages)
{
    char token[LIST_TOKEN_MAX + 1] = "", last[ID_VOLUME_MAX + 1] = "";
    size_t count = 0;

    *ret_pages = 0;
    do {
        struct list_page page;

        assert_int_equal(list_volumes(controller, max_entries, token, soon(), &page, NULL), E_OK);
        assert_true(max_entries == 0 || page.volumes_count <= max_entries);
        for (size_t i = 0; i < page.parts_count; i++) {
            for (size_t j = 0; j < page.parts[i]->n_volumes; j++) {
                assert_true(strcmp(page.parts[i]->volumes[j]->volume_id, last) > 0);
                str_copy(last, sizeof(last), page.parts[i]->volumes[j]->volume_id);
                count++;
            }
        }
        str_copy(token, sizeof(token), page.next_token);
        list_page_done(&page);
        ++*ret_pages;
    } while (token[0] != '\0');
    return count;
}

static void test_list_pages(void **state)
{
    struct fixture *fixture = *state;
    size_t pages;

    assert_int_equal(walk_pages(&fixture->a, 0, &pages), 0);
    for (unsigned i = 0; i < 7; i++) {
        char id[ID_VOLUME_MAX + 1];

        snprintf(id, sizeof(id), "%s.%016x", i < 5 ? "s1" : "s3", i);
        peer_add_volume(&fixture->peers[i < 5 ? 0 : 2], id, id, MIB_BYTES);
    }
    for (uint32_t max_entries = 1; max_entries <= 8; max_entries++) {
        assert_int_equal(walk_pages(&fixture->a, max_entries, &pages), 7);
        assert_int_equal(pages, (7 + max_entries - 1) / max_entries); /* no empty page at the end */
    }
    assert_int_equal(walk_pages(&fixture->a, 0, &pages), 7);
    assert_int_equal(pages, 1);
}

static void test_list_needs_all_servers(void **state)
{
    struct fixture *fixture = *state;
    struct list_page page;

    peer_add_volume(&fixture->peers[0], OLD_ID_1, "one", MIB_BYTES);
    peer_stop(&fixture->peers[2]);
    assert_int_equal(list_volumes(&fixture->a, 0, "", soon(), &page, NULL), E_UNAVAILABLE);
    declare_gone(fixture, 2);
    assert_int_equal(list_volumes(&fixture->a, 0, "", soon(), &page, NULL), E_OK);
    assert_int_equal(page.volumes_count, 1);
    list_page_done(&page);
    assert_int_equal(list_volumes(&fixture->a, 0, "bad", soon(), &page, NULL), E_BUSY);
}

static void test_capacity(void **state)
{
    struct fixture *fixture = *state;
    struct topology_wish wish = {.zone = "a"};
    struct capacity capacity;

    for (size_t i = 0; i < SERVERS; i++)
        fixture->peers[i].free_bytes = (i + 1) * 10 * MIB_BYTES + 5;
    fixture->peers[0].zone = "a";
    fixture->peers[1].zone = "a";
    fixture->peers[2].zone = "b";
    assert_int_equal(capacity_get(&fixture->a, &wish, soon(), &capacity, NULL), E_OK);
    assert_int_equal(capacity.available_bytes, 30 * MIB_BYTES);
    assert_int_equal(capacity.size_max_bytes, 20 * MIB_BYTES);
    peer_stop(&fixture->peers[1]);
    assert_int_equal(capacity_get(&fixture->a, &wish, soon(), &capacity, NULL), E_UNAVAILABLE);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_create_and_repeat),
        TEST(test_create_finishes_claim),
        TEST(test_create_replaces_leftover),
        TEST(test_create_adopts_existing_elsewhere),
        TEST(test_create_without_room),
        TEST(test_create_refused_releases),
        TEST(test_create_needs_all_servers),
        TEST(test_create_over_gone_claim),
        TEST(test_two_controllers_create),
        TEST(test_two_controllers_create_delete),
        TEST(test_two_controllers_race),
        TEST(test_absence_unreachable),
        TEST(test_absence_unknown_server),
        TEST(test_absence_other_pool),
        TEST(test_absence_across_restart),
        TEST(test_delete_cut_short),
        TEST(test_delete_attached),
        TEST(test_publish),
        TEST(test_publish_reader_is_readonly),
        TEST(test_unpublish_waits_for_drain),
        TEST(test_second_operation_aborted),
        TEST(test_list_pages),
        TEST(test_list_needs_all_servers),
        TEST(test_capacity),
    };

    log_init("controller_calls", LOG_LEVEL_ERROR); /* no access log of the peers */
    return cmocka_run_group_tests_name("controller_calls", tests, NULL, NULL);
}
