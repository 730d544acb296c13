/*
 * The pool's own syncs of data that fail, on a real XFS: each volume that had something to lose is told, and
 * no copy is made of what may be lost. That a volume has something to lose is said to its image's counts
 * alone; image_flush_test.c has the commands.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/store/image_internal.h"
#include "datapath/store/snapshot.h"
#include "datapath/store/store_internal.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/store_strike.h"

#define SNAPSHOT FIXTURE_SERVER ".s-0000000000000001"

static struct volume *find(struct store *store, unsigned n)
{
    char id[ID_VOLUME_MAX + 1];
    struct volume *volume = store_volume_find(store, fixture_id(n, id));

    assert_non_null(volume);
    return volume;
}

/* As after a change that was answered and not flushed. */
static void write_unflushed(struct volume *volume)
{
    struct image *image;

    assert_int_equal(volume_image(volume, &image, NULL), E_OK);
    atomic_fetch_add(&image->stable.loose, 1);
}

static int run_snapshot(struct store *store, struct error *err)
{
    struct snapshot_record spec = {.id = SNAPSHOT, .name = "one"};
    struct volume *volume = find(store, 1);
    struct snapshot *snapshot = NULL;
    int r = store_snapshot_create(store, volume, &spec, &snapshot, err);

    if (r == E_OK)
        r = snapshot_wait(snapshot, UINT64_MAX, err);
    snapshot_unref(snapshot);
    volume_unref(volume);
    return r;
}

static int run_expand(struct store *store, struct error *err)
{
    struct volume *volume = find(store, 1);
    int r = volume_expand(volume, 2 * MIB, fixture_generation(volume), err);

    volume_unref(volume);
    return r;
}

static int run_discard(struct store *store, struct error *err)
{
    struct volume *volume = find(store, 1);
    struct image *image;
    int r = volume_image(volume, &image, err);

    if (r == E_OK)
        r = image_discard_all(image, err);
    volume_unref(volume);
    return r;
}

/* Volume 1 is the operation's; 2 has something to lose, too; 3 is open, and has not. */
static struct store *prepared(struct fixture *fixture)
{
    struct store *store;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    for (unsigned n = 1; n <= 3; n++) {
        struct volume_record spec = fixture_spec(n);
        struct volume *volume = fixture_create(store, &spec);
        struct image *image;

        if (n < 3)
            write_unflushed(volume);
        assert_int_equal(volume_image(volume, &image, NULL), E_OK);
        volume_unref(volume);
    }
    return store;
}

static void check_failed(struct store *store, bool failed)
{
    for (unsigned n = 1; n <= 3; n++) {
        struct volume *volume = find(store, n);

        assert_int_equal(volume_write_failed(volume), failed && n < 3);
        volume_unref(volume);
    }
}

/* The call that syncs data fails, and any other before it: only the sync tells of the disk's cache. */
static void a_failed_sync_of_data_is_told(void **state)
{
    int (*const runs[])(struct store *, struct error *) = {run_snapshot, run_expand, run_discard};
    struct fixture *fixture = fixture_ready(state);

    for (size_t i = 0; i < ARRAY_SIZE(runs); i++) {
        bool synced = false;

        for (int turn = 1; !synced; turn++) {
            struct store *store = prepared(fixture);
            int r;

            strike_arm(turn, EIO);
            r = runs[i](store, NULL);
            strike_disarm();
            assert_true(strike_state.struck);
            synced = strike_state.letter == 'f';
            if (synced)
                assert_int_equal(r, -EIO);
            check_failed(store, synced);
            store_close(store);
            store = fixture_open(fixture);
            check_failed(store, synced);
            store_close(store);
        }
    }
}

static struct store *losing;

/* It was synced, and then another volume's flush tells that the disk lost its cache before. */
static int complete_before_a_failure(struct backend_copy *copy, const struct volume_record *record,
                                     struct error *err)
{
    int r = pool_backend.copy_complete(copy, record, err);

    store_flush_failed(losing, store_flush_begin(losing), "another", NULL);
    return r;
}

static void a_copy_is_not_made_of_what_is_lost(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct backend_ops ops = pool_backend;
    _cleanup_error_ struct error err = {0};

    losing = prepared(fixture);
    ops.copy_complete = complete_before_a_failure;
    losing->ops = &ops;
    assert_int_equal(run_snapshot(losing, &err), E_PRECONDITION);
    assert_non_null(strstr(error_text(&err), "write-failed"));
    assert_null(store_snapshot_find(losing, SNAPSHOT));
    check_failed(losing, true);
    losing->ops = &pool_backend;
    store_close(losing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_sync_of_data_is_told),
        cmocka_unit_test(a_copy_is_not_made_of_what_is_lost),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
