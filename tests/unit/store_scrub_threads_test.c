/*
 * The scrub on its thread, on a real XFS: a disk that does not answer it keeps nobody else, and it finds its
 * way while volumes and snapshots come and go under it on a disk that fails now and then.
 */
#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/store/scrub_internal.h"
#include "tests/unit/store_bench.h"

#define SIZE (8 * MIB)
#define BLOCK 4096u
#define FIRST FIXTURE_SERVER ".0000000000000001" /* the bench's volume */
#define ROUNDS 40u

static struct backend_ops ops;
static sem_t at_the_door, door;
static atomic_bool closed; /* the door */
static atomic_uint flaky;  /* each so-manieth read fails; 0: none */
static atomic_uint reads;

static int read_there(struct backend_image *image, void *buffer, uint64_t offset, size_t length,
                      size_t *ret_length)
{
    unsigned every = atomic_load(&flaky);

    if (atomic_load(&closed)) {
        sem_post(&at_the_door);
        while (sem_wait(&door) < 0)
            ;
    }
    if (every && atomic_fetch_add(&reads, 1) % every == 0)
        return -EIO;
    return pool_backend.scrub_read(image, buffer, offset, length, ret_length);
}

static void open_there(struct bench *bench, void **state)
{
    const struct scrub_options options = {.bytes_per_s = GIB, .interval_s = 86400};
    char path[160];

    bench_open(bench, state, SIZE);
    snprintf(path, sizeof(path), "%s/scrub.json", bench->fixture->pool);
    unlink(path);
    ops = pool_backend;
    ops.scrub_read = read_there;
    bench->store->ops = &ops;
    assert_int_equal(store_scrub_open(bench->store, &options, NULL), E_OK);
}

/* ---- a disk that does not answer ---- */

static void while_it_reads(void **state)
{
    struct volume_record spec = fixture_spec(2);
    struct scrub_status status;
    struct snapshot *snapshot;
    struct volume *second;
    struct bench bench;

    open_there(&bench, state);
    bench_write(&bench, 0, SIZE, 'x');
    sem_init(&at_the_door, 0, 0);
    sem_init(&door, 0, 0);
    atomic_store(&closed, true);
    assert_int_equal(store_scrub_start(bench.store, NULL), E_OK);
    assert_int_equal(store_scrub_request(bench.store, NULL), E_OK);
    while (sem_wait(&at_the_door) < 0)
        ;
    bench_write(&bench, 0, BLOCK, 'y');
    test_io_run(&bench.loop, bench.image, IMAGE_UNMAP, MIB, MIB, 0, NULL);
    snapshot = bench_snapshot(&bench, 1);
    bench_wait_ready(snapshot);
    snapshot_unref(snapshot);
    assert_int_equal(volume_expand(bench.volume, 2 * SIZE, fixture_generation(bench.volume), NULL), E_OK);
    second = fixture_create(bench.store, &spec);
    volume_unref(second);
    store_scrub_status(bench.store, &status);
    assert_true(status.running);
    assert_int_equal(store_volume_delete(bench.store, FIRST, NULL), E_OK);
    atomic_store(&closed, false);
    sem_post(&door);
    store_scrub_stop(bench.store);
    sem_destroy(&at_the_door);
    sem_destroy(&door);
    bench_close(&bench);
}

/* ---- all at once ---- */

static void write_volume(struct bench *bench, struct volume *volume)
{
    struct image *image;

    assert_int_equal(volume_image(volume, &image, NULL), E_OK);
    test_io_run(&bench->loop, image, IMAGE_WRITE, 0, 512 * KIB, 'z', NULL);
}

static void come_and_go(struct bench *bench, unsigned n)
{
    struct volume_record spec = fixture_spec(n + 10);
    struct volume *volume = fixture_create(bench->store, &spec);
    struct snapshot *snapshot = bench_snapshot(bench, n + 10);
    char id[ID_VOLUME_MAX + 1];

    write_volume(bench, volume);
    volume_unref(volume);
    bench_write(bench, (uint64_t)n % 8 * MIB, 256 * KIB, 'a' + (int)n % 20);
    test_io_run(&bench->loop, bench->image, IMAGE_UNMAP, (uint64_t)(n + 3) % 8 * MIB, 64 * KIB, 0, NULL);
    if (n % 2)
        bench_wait_ready(snapshot);
    snapshot_unref(snapshot);
    if (n < 5)
        return;
    assert_int_equal(store_volume_delete(bench->store, fixture_id(n + 5, id), NULL), E_OK);
    assert_int_equal(store_snapshot_delete(bench->store, bench_snapshot_spec(n + 5).id, NULL), E_OK);
}

static void wait_for_copies(struct bench *bench)
{
    char after[ID_SNAPSHOT_MAX + 1] = "";
    struct snapshot *snapshot;

    while ((snapshot = store_snapshot_next(bench->store, after))) {
        struct snapshot_record record;

        snapshot_copy_record(snapshot, &record);
        str_copy(after, sizeof(after), record.id);
        bench_wait_ready(snapshot);
        snapshot_unref(snapshot);
    }
}

/* Once the disk is well, one round says so, and of what is there alone. */
static void all_is_well(struct bench *bench)
{
    struct scrub_status status;

    atomic_store(&flaky, 0);
    wait_for_copies(bench);
    do { /* what is under way may have begun before */
        usleep((useconds_t)MIN(store_scrub_step(bench->store) / 1000, (uint64_t)1000));
        store_scrub_status(bench->store, &status);
    } while (status.running);
    assert_int_equal(store_scrub_request(bench->store, NULL), E_OK);
    do {
        usleep((useconds_t)MIN(store_scrub_step(bench->store) / 1000, (uint64_t)1000));
        store_scrub_status(bench->store, &status);
    } while (status.running);
    assert_int_equal(status.unreadable, 0);
    assert_int_equal(status.last.unreadable_bytes, 0);
    assert_int_equal(status.last.files_count, bench->store->volumes.count + bench->store->snapshots.count);
    assert_int_equal(bench->store->scrub->entries.count, status.last.files_count);
}

static void while_all_comes_and_goes(void **state)
{
    struct scrub_status status;
    struct bench bench;

    open_there(&bench, state);
    bench_write(&bench, 0, SIZE, 'x');
    atomic_store(&flaky, 7);
    assert_int_equal(store_scrub_start(bench.store, NULL), E_OK);
    for (unsigned n = 0; n < ROUNDS; n++) {
        assert_int_equal(store_scrub_request(bench.store, NULL), E_OK);
        come_and_go(&bench, n);
        store_scrub_status(bench.store, &status);
        store_scrub_errors(bench.store, FIRST, NULL, 0);
    }
    store_scrub_stop(bench.store);
    print_message("%u reads, %zu ranges of %zu files could not be read\n", atomic_load(&reads),
                  status.unreadable, status.unreadable_of);
    all_is_well(&bench);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(while_it_reads),
        cmocka_unit_test(while_all_comes_and_goes),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
