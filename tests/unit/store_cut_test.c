/*
 * Cuts that are recorded before their snapshot is whole, on a real XFS: it becomes whole, or is lost and says
 * so, whatever ends the copying; and nothing is recorded where nobody asks for it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/copy.h"
#include "datapath/store/store_internal.h"
#include "tests/unit/store_bench.h"

#define SIZE (4 * MIB)
#define SNAPSHOT FIXTURE_SERVER ".s-0000000000000001"
#define VOLUME FIXTURE_SERVER ".0000000000000001"
#define POOL_LISTING "lock\nnames/\nnodes/\npool.json\n"
#define VOLUME_LISTING                                                                                       \
    "trash/\nvolumes/\nvolumes/" VOLUME "/\nvolumes/" VOLUME "/data\nvolumes/" VOLUME "/volume.json\n"
#define NO_SNAPSHOT POOL_LISTING "snapshots/\n" VOLUME_LISTING
#define LOST_SNAPSHOT                                                                                        \
    POOL_LISTING "snapshots/\nsnapshots/" SNAPSHOT "/\nsnapshots/" SNAPSHOT "/snapshot."                     \
                 "json\n" VOLUME_LISTING
#define WHOLE_SNAPSHOT                                                                                       \
    POOL_LISTING "snapshots/\nsnapshots/" SNAPSHOT "/\nsnapshots/" SNAPSHOT "/data\nsnapshots/" SNAPSHOT     \
                 "/snapshot.json\n" VOLUME_LISTING

/* ---- syncs are counted, and fail when they are to ---- */

static atomic_int syncs, syncs_fail;
static atomic_int renames_spared; /* so many more, and then one fails; negative: none */

int fsync(int fd)
{
    atomic_fetch_add(&syncs, 1);
    if (atomic_load(&syncs_fail) > 0 && atomic_fetch_sub(&syncs_fail, 1) > 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    if (atomic_load(&renames_spared) >= 0 && atomic_fetch_sub(&renames_spared, 1) == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

/* ---- parts ---- */

static uint64_t promised(struct bench *bench)
{
    struct store_capacity capacity;

    assert_int_equal(store_capacity(bench->store, &capacity, NULL), E_OK);
    return capacity.promised_bytes;
}

static int create(struct bench *bench, const char *name, struct error *err)
{
    struct snapshot_record spec = bench_snapshot_spec(1);
    struct snapshot *snapshot = NULL;
    int r;

    if (name)
        str_copy(spec.name, sizeof(spec.name), name);
    r = store_snapshot_create(bench->store, bench->volume, &spec, &snapshot, err);
    snapshot_unref(snapshot);
    return r;
}

/* With data in more extents than are shared at once, and a copy of it that is half-way for as long as nothing
 * is let through. */
static struct snapshot *begin(struct bench *bench, void **state)
{
    struct snapshot *snapshot;

    atomic_store(&syncs_fail, 0);
    atomic_store(&renames_spared, -1);
    bench_open(bench, state, SIZE);
    for (uint64_t offset = 0; offset < SIZE; offset += RANGE)
        bench_write(bench, offset, 4096, 'x');
    shares_allow(0);
    snapshot = bench_snapshot(bench, 1);
    shares_wait(1);
    return snapshot;
}

static void record(struct snapshot *snapshot)
{
    struct error err = {0};

    if (snapshot_record_cut(snapshot, &err) != E_OK)
        fail_msg("the record of a cut: %s", error_text(&err));
    assert_true(snapshot_cut_recorded(snapshot));
}

/* Each use of it is refused in words, a repeat of its creation among them; and then it is deleted. */
static void assert_lost(struct bench *bench, const char *why)
{
    struct snapshot *snapshot = store_snapshot_find(bench->store, SNAPSHOT);
    struct volume_record spec = fixture_spec(7);
    _cleanup_error_ struct error err = {0};
    struct copy *copy = NULL;
    uint64_t bytes = 1;

    assert_non_null(snapshot);
    assert_int_equal(snapshot_check_lost(snapshot, &err), E_CORRUPT);
    if (!strstr(error_text(&err), why) || !strstr(error_text(&err), "delete it"))
        fail_msg("not \"%s\", and the remedy: %s", why, error_text(&err));
    assert_int_equal(snapshot_progress_percent(snapshot), 0);
    assert_int_equal(snapshot_used_bytes(snapshot, &bytes, NULL), E_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(create(bench, NULL, &err), E_CORRUPT);
    assert_non_null(strstr(error_text(&err), why));
    assert_int_equal(create(bench, "another", NULL), E_EXISTS);
    assert_int_equal(snapshot_record_cut(snapshot, NULL), E_CORRUPT);
    spec.size_bytes = SIZE;
    assert_int_equal(store_copy_begin(bench->store, &spec, NULL, snapshot, &copy, NULL), E_CORRUPT);
    assert_int_equal(snapshot_exclusive_bytes(snapshot, &bytes, NULL), E_CORRUPT);
    assert_int_equal(snapshot_extents(snapshot, NULL, 0, NULL, NULL, NULL), E_CORRUPT);
    fixture_assert_listing(bench->fixture, LOST_SNAPSHOT);
    snapshot_unref(snapshot);
}

static void assert_deleted(struct bench *bench)
{
    assert_int_equal(store_snapshot_delete(bench->store, SNAPSHOT, NULL), E_OK);
    assert_int_equal(store_snapshot_delete(bench->store, SNAPSHOT, NULL), E_OK);
    assert_null(store_snapshot_find(bench->store, SNAPSHOT));
    fixture_assert_listing(bench->fixture, NO_SNAPSHOT);
}

/* No more is shared than what is at the door. */
static void cut_off(struct bench *bench)
{
    assert_int_equal(bench->store->copies_count, 1);
    atomic_store(&bench->store->copies[0]->cancelled_ms, time_now_ms());
    shares_allow(-1);
}

/* The server ends with the copy half-way; and starts again. */
static void restart(struct bench *bench)
{
    cut_off(bench);
    bench_reopen(bench);
}

/* ---- the tests ---- */

static void a_recorded_cut_becomes_whole(void **state)
{
    struct bench bench;
    struct snapshot *snapshot = begin(&bench, state);
    struct snapshot_record before, after;
    char *data;
    size_t size;

    assert_false(snapshot_cut_recorded(snapshot));
    record(snapshot);
    snapshot_copy_record(snapshot, &before);
    shares_allow(-1);
    bench_wait_ready(snapshot);
    snapshot_unref(snapshot);
    fixture_assert_listing(bench.fixture, WHOLE_SNAPSHOT);
    bench_write(&bench, 0, SIZE, 'y');
    bench_reopen(&bench);
    snapshot = store_snapshot_find(bench.store, SNAPSHOT);
    assert_non_null(snapshot);
    snapshot_copy_record(snapshot, &after);
    assert_int_equal(after.created_unix_ns, before.created_unix_ns);
    assert_int_equal(snapshot_check_lost(snapshot, NULL), E_OK);
    assert_int_equal(snapshot_progress_percent(snapshot), 100);
    data = bench_data(bench.fixture, "snapshots", SNAPSHOT, &size);
    assert_int_equal(size, SIZE);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(data[i], i % RANGE < 4096 ? 'x' : 0);
    free(data);
    snapshot_unref(snapshot);
    assert_deleted(&bench);
    bench_close(&bench);
}

static void a_restart_loses_it_and_says_so(void **state)
{
    struct snapshot_record before, after;
    struct bench bench;
    struct snapshot *snapshot = begin(&bench, state);
    uint64_t sequence;

    record(snapshot);
    snapshot_copy_record(snapshot, &before);
    snapshot_unref(snapshot);
    restart(&bench);
    snapshot = store_snapshot_find(bench.store, SNAPSHOT);
    assert_non_null(snapshot);
    snapshot_copy_record(snapshot, &after);
    assert_int_equal(after.created_unix_ns, before.created_unix_ns);
    assert_int_equal(after.size_bytes, SIZE);
    assert_string_equal(after.source_volume_id, VOLUME);
    assert_string_equal(after.name, before.name);
    assert_int_equal(snapshot_wait(snapshot, time_now_ms(), NULL), E_CORRUPT);
    snapshot_unref(snapshot);
    assert_int_equal(promised(&bench), SIZE); /* the volume's alone */
    assert_lost(&bench, "its storage server ended");
    sequence = after.sequence;
    assert_deleted(&bench);
    snapshot = bench_snapshot(&bench, 1);
    bench_wait_ready(snapshot);
    snapshot_copy_record(snapshot, &after);
    assert_true(after.created_unix_ns > before.created_unix_ns);
    assert_true(after.sequence >= sequence);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

static void an_unrecorded_cut_vanishes(void **state)
{
    struct bench bench;

    snapshot_unref(begin(&bench, state));
    restart(&bench);
    assert_null(store_snapshot_find(bench.store, SNAPSHOT));
    fixture_assert_listing(bench.fixture, NO_SNAPSHOT);
    assert_int_equal(create(&bench, NULL, NULL), E_OK);
    bench_close(&bench);
}

/* In this life of the server, and in the next one. */
static void a_failure_loses_it_with_its_reason(void **state)
{
    static const struct {
        int errnum;
        const char *words;
    } failures[] = {{EIO, "Input/output error"}, {ENOSPC, "file system is full"}};

    for (size_t i = 0; i < ARRAY_SIZE(failures); i++) {
        struct bench bench;
        struct snapshot *snapshot = begin(&bench, state);

        shares_fail(0, failures[i].errnum);
        record(snapshot);
        shares_allow(-1);
        assert_int_not_equal(snapshot_wait(snapshot, UINT64_MAX, NULL), E_OK);
        snapshot_unref(snapshot);
        assert_int_equal(promised(&bench), SIZE);
        assert_lost(&bench, failures[i].words);
        shares_reset();
        bench_reopen(&bench);
        assert_lost(&bench, failures[i].words);
        assert_deleted(&bench);
        bench_close(&bench);
    }
}

static void a_write_failed_volume_loses_it(void **state)
{
    struct bench bench;
    struct snapshot *snapshot = begin(&bench, state);

    record(snapshot);
    assert_int_equal(volume_mark_write_failed(bench.volume, NULL), E_OK);
    shares_allow(-1);
    assert_int_equal(snapshot_wait(snapshot, UINT64_MAX, NULL), E_PRECONDITION);
    snapshot_unref(snapshot);
    assert_lost(&bench, "write-failed");
    assert_deleted(&bench);
    bench_close(&bench);
}

static void deleting_takes_the_record_too(void **state)
{
    struct bench bench;
    struct snapshot *snapshot = begin(&bench, state);

    record(snapshot);
    cut_off(&bench);
    assert_deleted(&bench);
    assert_int_equal(snapshot_record_cut(snapshot, NULL), E_BUSY); /* who still had it */
    snapshot_unref(snapshot);
    assert_int_equal(promised(&bench), SIZE);
    bench_reopen(&bench);
    assert_null(store_snapshot_find(bench.store, SNAPSHOT));
    bench_close(&bench);
}

/* What could not be recorded was answered with an error: nothing of it stays, not even on a disk that would
 * not take the record back either. */
static void what_is_not_recorded_is_nothing(void **state)
{
    for (int undone = 0; undone < 2; undone++) {
        struct bench bench;
        struct snapshot *snapshot = begin(&bench, state);

        atomic_store(&syncs_fail, 1);
        atomic_store(&renames_spared, undone ? -1 : 1);
        assert_int_equal(snapshot_record_cut(snapshot, NULL), -EIO);
        assert_int_equal(atomic_load(&renames_spared), -1);
        assert_false(snapshot_cut_recorded(snapshot));
        shares_fail(0, EIO);
        shares_allow(-1);
        assert_int_equal(snapshot_wait(snapshot, UINT64_MAX, NULL), -EIO);
        assert_int_equal(snapshot_record_cut(snapshot, NULL), E_BUSY);
        snapshot_unref(snapshot);
        fixture_assert_listing(bench.fixture, NO_SNAPSHOT);
        assert_int_equal(promised(&bench), SIZE);
        shares_reset();
        bench_close(&bench);
    }
}

static void it_costs_nothing_that_is_not_asked_for(void **state)
{
    struct bench bench;
    struct snapshot *snapshot;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, SIZE, 'x');
    atomic_store(&syncs, 0);
    snapshot = bench_snapshot(&bench, 1);
    bench_wait_ready(snapshot);
    assert_int_equal(atomic_load(&syncs), 2); /* its data; its name */
    record(snapshot);
    assert_int_equal(atomic_load(&syncs), 2); /* it is ready */
    snapshot_unref(snapshot);
    bench_close(&bench);
    snapshot = begin(&bench, state);
    atomic_store(&syncs, 0);
    record(snapshot);
    assert_int_equal(atomic_load(&syncs), 1);
    record(snapshot);
    assert_int_equal(atomic_load(&syncs), 1);
    shares_allow(-1);
    bench_wait_ready(snapshot);
    assert_int_equal(atomic_load(&syncs), 3);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

static void a_member_of_a_group_is_not_recorded(void **state)
{
    struct snapshot_record spec = bench_snapshot_spec(1);
    struct snapshot *snapshot = NULL;
    struct bench bench;

    bench_open(&bench, state, SIZE);
    spec.name[0] = '\0';
    str_copy(spec.group_id, sizeof(spec.group_id), "g-0000000000000001");
    assert_int_equal(store_snapshot_create(bench.store, bench.volume, &spec, &snapshot, NULL), E_OK);
    assert_int_equal(snapshot_record_cut(snapshot, NULL), E_INVALID_ARGUMENT);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_recorded_cut_becomes_whole),
        cmocka_unit_test(a_restart_loses_it_and_says_so),
        cmocka_unit_test(an_unrecorded_cut_vanishes),
        cmocka_unit_test(a_failure_loses_it_with_its_reason),
        cmocka_unit_test(a_write_failed_volume_loses_it),
        cmocka_unit_test(deleting_takes_the_record_too),
        cmocka_unit_test(what_is_not_recorded_is_nothing),
        cmocka_unit_test(it_costs_nothing_that_is_not_asked_for),
        cmocka_unit_test(a_member_of_a_group_is_not_recorded),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
