/*
 * The controller's other calls against three storage servers over real gRPC: absence that is proven or not,
 * drains that fail, pages (invariants 2 and 9, as far as they are the controller's).
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
#include "controller/capacity.h"
#include "controller/list.h"
#include "tests/unit/controller_fixture.h"

/* ---- absence (invariant 9) ---- */

static void test_absence_unreachable(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, NULL), E_NOT_FOUND);
    peer_stop(&fixture->peers[1]);
    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, NULL), E_UNAVAILABLE);
    assert_int_equal(volume_delete(&fixture->a, OLD_ID_2, fixture_soon(), NULL), E_UNAVAILABLE);
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "node-1", fixture_soon(), NULL), E_UNAVAILABLE);
    assert_int_equal(fixture_publish(&fixture->a, OLD_ID_2, "node-1", NULL), E_UNAVAILABLE);
    fixture_declare_gone(fixture, 1);
    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, NULL), E_NOT_FOUND);
    assert_int_equal(volume_delete(&fixture->a, OLD_ID_2, fixture_soon(), NULL), E_OK);
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "node-1", fixture_soon(), NULL), E_OK);
}

static void test_absence_unknown_server(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_error_ struct error err = {0};

    assert_int_equal(fixture_find(&fixture->a, "s9.00000000000000aa", &err), E_UNAVAILABLE);
    assert_non_null(strstr(error_text(&err), "s9"));
    assert_int_equal(volume_delete(&fixture->a, "s9.00000000000000aa", fixture_soon(), NULL), E_UNAVAILABLE);
    /* An id that we never gave is no volume of anyone. */
    assert_int_equal(fixture_find(&fixture->a, "not-one-of-ours", NULL), E_NOT_FOUND);
    assert_int_equal(volume_delete(&fixture->a, "not-one-of-ours", fixture_soon(), NULL), E_OK);
    assert_int_equal(publish_undo(&fixture->a, "not-one-of-ours", "", fixture_soon(), NULL), E_OK);
}

static void test_absence_other_pool(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_error_ struct error err = {0};
    char id[ID_VOLUME_MAX + 1];

    fixture->peers[1].pool_uuid[35] = '9';
    peer_new_boot(&fixture->peers[1]);
    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, &err), E_UNAVAILABLE);
    assert_non_null(strstr(error_text(&err), "6f1f9f36-5f0e-4d0c-9a3b-000000000009"));
    assert_int_equal(volume_delete(&fixture->a, OLD_ID_2, fixture_soon(), NULL), E_UNAVAILABLE);
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "", fixture_soon(), NULL), E_UNAVAILABLE);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_UNAVAILABLE);
    fixture_expect_claims(fixture, "data", NULL);
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

    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, NULL), E_NOT_FOUND);
    fixture->peers[1].hook_context = &swaps;
    fixture->peers[1].hook = swap_pool;
    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, NULL), E_UNAVAILABLE);
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "", fixture_soon(), NULL), E_UNAVAILABLE);
    assert_true(swaps > 1);
}

/* An answer that states the boot that was proven is proven by that alone; any other is asked for. */
static void test_answer_states_its_boot(void **state)
{
    struct fixture *fixture = *state;
    struct peer *peer = &fixture->peers[1];
    unsigned before, swaps = 0;

    peer_stop(peer);
    peer->states_boot = true;
    peer_start(peer, peer->server_id, NULL);
    str_copy(peer->stated, sizeof(peer->stated), peer->boot_id);
    while (fixture_find(&fixture->a, OLD_ID_2, NULL) != E_NOT_FOUND) /* the connection is made anew */
        ;
    before = peer->calls;
    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, NULL), E_NOT_FOUND);
    assert_int_equal(peer->calls, before + 1);
    str_copy(peer->stated, sizeof(peer->stated), "another");
    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, NULL), E_NOT_FOUND);
    assert_int_equal(peer->calls, before + 3);
    peer->hook_context = &swaps;
    peer->hook = swap_pool;
    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, NULL), E_UNAVAILABLE);
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

    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    fixture->peers[0].hook = fail_release;
    assert_int_equal(volume_delete(&fixture->a, id, fixture_soon(), NULL), E_UNAVAILABLE);
    assert_int_equal(fixture_count_volumes(fixture), 0);
    assert_non_null(peer_name(&fixture->peers[0], "data"));
    fixture->peers[0].hook = NULL;
    assert_int_equal(volume_delete(&fixture->a, id, fixture_soon(), NULL), E_OK);
    fixture_expect_claims(fixture, "data", NULL);
    assert_int_equal(volume_delete(&fixture->a, id, fixture_soon(), NULL), E_OK);
}

static void test_delete_attached(void **state)
{
    struct fixture *fixture = *state;
    char id[ID_VOLUME_MAX + 1];

    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_int_equal(fixture_publish(&fixture->a, id, "node-1", NULL), E_OK);
    assert_int_equal(volume_delete(&fixture->a, id, fixture_soon(), NULL), E_PRECONDITION);
    fixture_expect_claims(fixture, "data", id);
    assert_int_equal(publish_undo(&fixture->a, id, "node-1", fixture_soon(), NULL), E_OK);
    assert_int_equal(volume_delete(&fixture->a, id, fixture_soon(), NULL), E_OK);
}

/* ---- publish and unpublish (invariant 2) ---- */

static void test_publish(void **state)
{
    struct fixture *fixture = *state;
    _cleanup_error_ struct error err = {0};
    char id[ID_VOLUME_MAX + 1];

    assert_int_equal(fixture_publish(&fixture->a, OLD_ID_1, "node-1", NULL), E_NOT_FOUND);
    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_int_equal(fixture_publish(&fixture->a, id, "node-1", NULL), E_OK);
    assert_int_equal(fixture_publish(&fixture->a, id, "node-1", NULL), E_OK);
    assert_int_equal(fixture_publish(&fixture->a, id, "node-2", &err), E_PRECONDITION);
    assert_non_null(strstr(error_text(&err), "node-1"));
    assert_int_equal(publish_undo(&fixture->a, id, "", fixture_soon(), NULL), E_OK);
    assert_int_equal(fixture_publish(&fixture->a, id, "node-2", NULL), E_OK);
}

static void test_publish_reader_is_readonly(void **state)
{
    struct fixture *fixture = *state;
    struct capability capability = {.block = true, .mode = 3, .fs_type = ""};
    Mooring__Storage__V1__AttachVolumeResponse *response = NULL;
    struct storage_server *server;
    char id[ID_VOLUME_MAX + 1];

    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_int_equal(publish_volume(&fixture->a, id, "node-1", &capability, false, fixture_soon(), &response,
                                    &server, NULL),
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

    undo->result = publish_undo(undo->controller, undo->id, "node-1", fixture_soon(), NULL);
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

    assert_int_equal(fixture_create(&fixture->a, "data", MIB_BYTES, NULL, id, NULL), E_OK);
    assert_int_equal(fixture_publish(&fixture->a, id, "node-1", NULL), E_OK);
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
    elsewhere = fixture_publish(&fixture->b, id, "node-2", NULL);
    pthread_mutex_lock(&drain.lock);
    drain.release = true;
    pthread_cond_broadcast(&drain.changed);
    pthread_mutex_unlock(&drain.lock);
    pthread_join(thread, NULL);
    assert_int_equal(early, E_UNAVAILABLE);
    assert_int_equal(elsewhere, E_PRECONDITION);
    assert_int_equal(undo.result, E_OK);
    assert_int_equal(fixture_publish(&fixture->b, id, "node-2", NULL), E_OK);
}

static int inside_detach(struct peer *peer, const char *method, void *context)
{
    struct fixture *fixture = context;

    if (!str_equal(method, "DetachVolume") || peer->hook_context != fixture)
        return E_OK;
    /* The same controller, while it unpublishes: a second operation of the volume is ABORTED. */
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "node-1", fixture_soon(), NULL), E_BUSY);
    assert_int_equal(volume_delete(&fixture->a, OLD_ID_2, fixture_soon(), NULL), E_BUSY);
    assert_int_equal(fixture_publish(&fixture->a, OLD_ID_2, "node-2", NULL), E_BUSY);
    return E_OK;
}

static void test_second_operation_aborted(void **state)
{
    struct fixture *fixture = *state;

    peer_add_volume(&fixture->peers[1], OLD_ID_2, "data", MIB_BYTES);
    fixture->peers[1].hook_context = fixture;
    fixture->peers[1].hook = inside_detach;
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "node-1", fixture_soon(), NULL), E_OK);
}

/* Between what the controller reads and what it asks for, another controller detached, and attached again. */
static int overtake(struct peer *peer, const char *method, void *context)
{
    struct peer_volume *volume = peer_volume(peer, OLD_ID_2);

    if (!str_equal(method, context))
        return E_OK;
    volume->epoch++;
    volume->record_generation += 2;
    return E_OK;
}

static void test_stale_changes_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct peer *peer = &fixture->peers[1];
    struct peer_volume *volume;
    int r;

    peer_add_volume(peer, OLD_ID_2, "data", MIB_BYTES);
    volume = peer_volume(peer, OLD_ID_2);
    peer->hook_context = (void *)"AttachVolume";
    peer->hook = overtake;
    r = fixture_publish(&fixture->a, OLD_ID_2, "node-1", NULL);
    assert_true(r == E_STALE || r == E_BUSY);
    assert_string_equal(volume->node_id, "");
    peer->hook = NULL;
    assert_int_equal(fixture_publish(&fixture->a, OLD_ID_2, "node-1", NULL), E_OK);
    peer->hook_context = (void *)"DetachVolume";
    peer->hook = overtake;
    r = publish_undo(&fixture->a, OLD_ID_2, "node-1", fixture_soon(), NULL);
    assert_true(r == E_STALE || r == E_BUSY);
    assert_string_equal(volume->node_id, "node-1");
    peer->hook = NULL;
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "node-1", fixture_soon(), NULL), E_OK);
    assert_string_equal(volume->node_id, "");
}

/* A detach of what is not attached reaches the server: it makes an attach that is still on its way stale. */
static void test_unpublish_of_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct peer_volume *volume;
    uint64_t before;

    peer_add_volume(&fixture->peers[1], OLD_ID_2, "data", MIB_BYTES);
    volume = peer_volume(&fixture->peers[1], OLD_ID_2);
    before = volume->record_generation;
    assert_int_equal(publish_undo(&fixture->a, OLD_ID_2, "node-1", fixture_soon(), NULL), E_OK);
    assert_int_equal(volume->record_generation, before + 1);
}

/* ---- ListVolumes, GetCapacity ---- */

static size_t walk_pages(struct controller *controller, uint32_t max_entries, size_t *ret_pages)
{
    char token[LIST_TOKEN_MAX + 1] = "", last[ID_VOLUME_MAX + 1] = "";
    size_t count = 0;

    *ret_pages = 0;
    do {
        struct list_request request = {.kind = LIST_VOLUMES, .max_entries = max_entries, .token = token};
        struct list_page page;

        assert_int_equal(list_page_get(controller, &request, fixture_soon(), &page, NULL), E_OK);
        assert_true(max_entries == 0 || page.count <= max_entries);
        for (size_t i = 0; i < page.count; i++) {
            const char *id = ((Mooring__Storage__V1__Volume *)page.items[i])->volume_id;

            assert_true(strcmp(id, last) > 0);
            str_copy(last, sizeof(last), id);
            count++;
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
    struct list_request request = {.kind = LIST_VOLUMES, .token = ""};
    struct list_page page;

    peer_add_volume(&fixture->peers[0], OLD_ID_1, "one", MIB_BYTES);
    peer_stop(&fixture->peers[2]);
    assert_int_equal(list_page_get(&fixture->a, &request, fixture_soon(), &page, NULL), E_UNAVAILABLE);
    fixture_declare_gone(fixture, 2);
    assert_int_equal(list_page_get(&fixture->a, &request, fixture_soon(), &page, NULL), E_OK);
    assert_int_equal(page.count, 1);
    list_page_done(&page);
    request.token = "bad";
    assert_int_equal(list_page_get(&fixture->a, &request, fixture_soon(), &page, NULL), E_BUSY);
}

/* ---- streams ---- */

#define STREAM_MS 7200000

static int count_extents(const ProtobufCMessage *message, void *context)
{
    size_t *count = context;

    *count += ((const Mooring__Storage__V1__ListExtentsResponse *)message)->n_extents;
    return E_OK;
}

static int stop_at_first(const ProtobufCMessage *message, void *context)
{
    count_extents(message, context);
    return E_OUT_OF_RANGE;
}

static int stream(struct fixture *fixture, int (*receive)(const ProtobufCMessage *, void *),
                  size_t *ret_count)
{
    Mooring__Storage__V1__ListExtentsRequest request = MOORING__STORAGE__V1__LIST_EXTENTS_REQUEST__INIT;

    *ret_count = 0;
    return storage_stream(storage_at(fixture->a.storage, 0), "ListExtents", &request.base,
                          time_now_ms() + STREAM_MS, receive, ret_count, NULL);
}

static int in_the_middle(struct peer *peer, const char *method, void *context)
{
    if (!str_equal(method, "second extent"))
        return E_OK;
    if (context) { /* another process answers from here on */
        peer_new_boot(peer);
        return E_OK;
    }
    return E_UNAVAILABLE;
}

/* What came of a stream counts only when it ended well, and one process of the right pool was there all the
 * while: else its end would claim that there is no more. */
static void test_stream(void **state)
{
    struct fixture *fixture = *state;
    struct peer *peer = &fixture->peers[0];
    size_t count;

    assert_int_equal(stream(fixture, count_extents, &count), E_OK);
    assert_int_equal(count, 2);
    assert_int_equal(stream(fixture, stop_at_first, &count), E_OUT_OF_RANGE);
    assert_int_equal(count, 1);
    peer->hook = in_the_middle;
    assert_int_equal(stream(fixture, count_extents, &count), E_UNAVAILABLE);
    assert_int_equal(count, 1);
    peer->hook_context = peer;
    assert_int_equal(stream(fixture, count_extents, &count), E_UNAVAILABLE);
    assert_int_equal(count, 2);
    peer->hook = NULL;
    str_copy(peer->pool_uuid, sizeof(peer->pool_uuid), "another");
    assert_int_equal(stream(fixture, count_extents, &count), E_UNAVAILABLE);
    assert_true(peer->stream_left_ms > STREAM_MS / 2); /* a backup reads for as long as it takes */
}

/* Readers of one server's streams keep no place from those of another's. */
static void test_streams_have_shares(void **state)
{
    struct fixture *fixture = *state;
    struct storage *storage = fixture->a.storage;
    struct share_place places[STORAGE_STREAMS_MAX], other;
    _cleanup_error_ struct error err = {0};
    size_t count = 0;
    int r = E_OK;

    while (count < STORAGE_STREAMS_MAX && r == E_OK) {
        r = storage_stream_enter(storage_at(storage, 0), "GetMetadataDelta", &places[count], &err);
        count += r == E_OK;
    }
    assert_int_equal(r, E_UNAVAILABLE);
    assert_int_equal(count, STORAGE_STREAMS_MAX / 2);
    assert_non_null(strstr(error_text(&err), "s1"));
    assert_int_equal(storage_stream_enter(storage_at(storage, 1), "GetMetadataDelta", &other, NULL), E_OK);
    share_leave(&other);
    while (count > 0)
        share_leave(&places[--count]);
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
    assert_int_equal(capacity_get(&fixture->a, &wish, false, fixture_soon(), &capacity, NULL), E_OK);
    assert_int_equal(capacity.available_bytes, 30 * MIB_BYTES);
    assert_int_equal(capacity.size_max_bytes, 20 * MIB_BYTES);
    /* What is free is what there is; what can be promised, and so made, is more where a server overcommits.
     */
    fixture->peers[0].promise_max_bytes = 500 * MIB_BYTES + 5;
    assert_int_equal(capacity_get(&fixture->a, &wish, false, fixture_soon(), &capacity, NULL), E_OK);
    assert_int_equal(capacity.available_bytes, 30 * MIB_BYTES);
    assert_int_equal(capacity.size_max_bytes, 500 * MIB_BYTES);
    assert_int_equal(capacity_get(&fixture->a, &wish, true, fixture_soon(), &capacity, NULL), E_OK);
    assert_int_equal(capacity.size_max_bytes, 20 * MIB_BYTES);
    peer_stop(&fixture->peers[1]);
    assert_int_equal(capacity_get(&fixture->a, &wish, false, fixture_soon(), &capacity, NULL), E_UNAVAILABLE);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_absence_unreachable),
        TEST(test_absence_unknown_server),
        TEST(test_absence_other_pool),
        TEST(test_absence_across_restart),
        TEST(test_answer_states_its_boot),
        TEST(test_delete_cut_short),
        TEST(test_delete_attached),
        TEST(test_publish),
        TEST(test_publish_reader_is_readonly),
        TEST(test_unpublish_waits_for_drain),
        TEST(test_second_operation_aborted),
        TEST(test_stale_changes_nothing),
        TEST(test_unpublish_of_nothing),
        TEST(test_list_pages),
        TEST(test_list_needs_all_servers),
        TEST(test_stream),
        TEST(test_streams_have_shares),
        TEST(test_capacity),
    };

    log_init("controller_calls", LOG_LEVEL_ERROR); /* no access log of the peers */
    return cmocka_run_group_tests_name("controller_calls", tests, NULL, NULL);
}
