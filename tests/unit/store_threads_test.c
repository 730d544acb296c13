/*
 * Many threads on one store, on a real XFS: what each was answered agrees with what is there in the end, in
 * memory and opened again; and a fence that was answered is passed by no attach. Built with
 * -fsanitize=thread it also looks for data races.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/store/fence.h"
#include "datapath/store/store_internal.h"
#include "tests/unit/store_fixture.h"

#define THREADS 6
#define STEPS 150
#define VOLUMES 5
#define NODES 3

static const char *const node_names[NODES] = {"node-a", "node-b", "node-c"};

/* ---- anything at once ---- */

struct worker {
    struct store *store;
    unsigned seed;
    pthread_t thread;
    const char *problem; /* cmocka's assertions are for the main thread */
};

static void expect(struct worker *worker, bool true_that, const char *what)
{
    if (!true_that && !worker->problem)
        worker->problem = what;
}

static int detach_edit(struct volume_record *record, void *context, struct error *err)
{
    const char *node = context;
    struct attachment *attachment = volume_record_attachment(record, node);
    int r = attach_remove_begin(record, node, 0, err);

    return r == E_OK ? attach_remove_finish(record, attachment->epoch, err) : r;
}

static void try_create(struct worker *worker, unsigned n)
{
    struct volume_record spec = fixture_spec(n);
    struct volume *volume = NULL;
    int r = store_volume_create(worker->store, &spec, &volume, NULL);

    expect(worker, r == E_OK || r == E_BUSY, "a creation failed");
    volume_unref(volume);
}

static void try_delete(struct worker *worker, const char *id)
{
    int r = store_volume_delete(worker->store, id, NULL);

    expect(worker, r == E_OK || r == E_PRECONDITION || r == E_BUSY, "a deletion failed");
}

static void try_attach(struct worker *worker, struct volume *volume, const char *node)
{
    struct attachment attachment;
    int r = store_attach(worker->store, volume, node, ACCESS_SINGLE_NODE_WRITER, false,
                         fixture_generation(volume), &attachment, NULL);

    expect(worker, r == E_OK || r == E_PRECONDITION || r == E_NOT_FOUND || r == E_STALE, "an attach failed");
}

static void try_detach(struct worker *worker, struct volume *volume, const char *node)
{
    int r = volume_update(volume, detach_edit, (void *)node, NULL);

    expect(worker, r == E_OK || r == E_NOT_FOUND, "a detach failed");
}

static void try_slot(struct worker *worker, struct volume *volume)
{
    _cleanup_error_ struct error err = {0};
    int r = volume_operation_begin(volume, "test", &err);

    expect(worker, r == E_OK || r == E_BUSY, "the slot failed");
    if (r == E_OK)
        volume_operation_end(volume);
}

static void try_look(struct worker *worker, struct volume *volume)
{
    struct volume_record record;

    expect(worker, volume_snapshot_record(volume, &record) == 0, "no copy of a record");
    expect(worker, record.attachments_count <= 1, "two nodes hold a single-node volume");
    volume_record_done(&record);
}

static void try_name(struct worker *worker, const char *id)
{
    char holder[STORE_HOLDER_MAX + 1] = "";

    expect(worker, store_name_claim(worker->store, NAME_VOLUME, "shared", id, holder, NULL) == E_OK,
           "a claim failed");
    expect(worker, id_volume_valid(holder), "nobody holds the name");
    if (str_equal(holder, id))
        expect(worker, store_name_release(worker->store, NAME_VOLUME, "shared", id, NULL) == E_OK,
               "a release failed");
}

static void step(struct worker *worker)
{
    unsigned n = 1 + (unsigned)rand_r(&worker->seed) % VOLUMES;
    const char *node = node_names[rand_r(&worker->seed) % NODES];
    char id[ID_VOLUME_MAX + 1];
    struct volume *volume = store_volume_find(worker->store, fixture_id(n, id));
    int choice = rand_r(&worker->seed) % 8;

    if (choice == 0 || !volume)
        try_create(worker, n);
    else if (choice == 1)
        try_delete(worker, id);
    else if (choice <= 3)
        try_attach(worker, volume, node);
    else if (choice == 4)
        try_detach(worker, volume, node);
    else if (choice == 5)
        try_slot(worker, volume);
    else if (choice == 6)
        try_look(worker, volume);
    else
        try_name(worker, id);
    volume_unref(volume);
}

static void *work(void *context)
{
    struct worker *worker = context;

    for (int i = 0; i < STEPS; i++)
        step(worker);
    return NULL;
}

static char *content(struct store *store)
{
    char after[ID_VOLUME_MAX + 1] = "", *text = NULL;
    struct store_capacity capacity;
    struct volume *volume;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    while ((volume = store_volume_next(store, after))) {
        _cleanup_json_ json_t *object = NULL;
        struct volume_record record;

        str_copy(after, sizeof(after), volume_id(volume));
        assert_int_equal(volume_snapshot_record(volume, &record), 0);
        assert_int_equal(volume_record_to_json(&record, &object), 0);
        json_dumpf(object, out, JSON_SORT_KEYS);
        fputc('\n', out);
        volume_record_done(&record);
        volume_unref(volume);
    }
    assert_int_equal(store_capacity(store, &capacity, NULL), E_OK);
    fprintf(out, "%" PRIu64 " volumes, %" PRIu64 " promised\n", capacity.volumes_count,
            capacity.promised_bytes);
    fclose(out);
    return text;
}

static void anything_at_once(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    const char *given = getenv("MOORING_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    _cleanup_free_ char *before = NULL, *after = NULL;
    struct worker workers[THREADS] = {0};
    struct store *store;

    print_message("seed %u (MOORING_SEED repeats it, but for the threads' order)\n", seed);
    fixture_empty(fixture);
    store = fixture_open(fixture);
    for (size_t i = 0; i < NODES; i++)
        fixture_register(store, node_names[i]);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.store = store, .seed = seed + i};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        if (workers[i].problem)
            fail_msg("%s", workers[i].problem);
    }
    before = content(store);
    store_close(store);
    store = fixture_open(fixture);
    after = content(store);
    store_close(store);
    assert_string_equal(before, after);
}

/* ---- a fence and an attach ---- */

struct race {
    struct store *store;
    struct volume *volume;
    atomic_bool stop;
};

static void *attach_and_detach(void *context)
{
    struct race *race = context;
    struct attachment attachment;

    while (!atomic_load(&race->stop)) {
        store_attach(race->store, race->volume, "node-a", ACCESS_SINGLE_NODE_WRITER, false,
                     fixture_generation(race->volume), &attachment, NULL);
        volume_update(race->volume, detach_edit, (void *)"node-a", NULL);
    }
    return NULL;
}

static int fence_edit(struct node_record *record, void *context, struct error *err)
{
    return context ? fence_set(record, "test", NULL, 0, err) : (fence_clear(record), E_OK);
}

static uint64_t newest_epoch(struct volume *volume)
{
    struct volume_record record;
    uint64_t epoch;

    assert_int_equal(volume_snapshot_record(volume, &record), 0);
    epoch = record.epoch_last;
    volume_record_done(&record);
    return epoch;
}

static void no_attach_passes_a_fence(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1);
    struct race race = {0};
    uint64_t before, attached = 0;
    pthread_t threads[2];

    fixture_empty(fixture);
    race.store = fixture_open(fixture);
    assert_int_equal(store_volume_create(race.store, &spec, &race.volume, NULL), E_OK);
    fixture_register(race.store, "node-a");
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, attach_and_detach, &race), 0);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(store_node_update(race.store, "node-a", fence_edit, &race, NULL), E_OK);
        before = newest_epoch(race.volume);
        for (int j = 0; j < 3; j++) /* commits of another record: time in which an attach could land */
            fixture_register(race.store, "node-b");
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        assert_int_equal(newest_epoch(race.volume), before);
        assert_int_equal(store_node_update(race.store, "node-a", fence_edit, NULL, NULL), E_OK);
        fixture_register(race.store, "node-a");
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        attached = newest_epoch(race.volume);
    }
    atomic_store(&race.stop, true);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        pthread_join(threads[i], NULL);
    print_message("%" PRIu64 " attachments between the fences\n", attached);
    volume_unref(race.volume);
    store_close(race.store);
    assert_true(attached > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(anything_at_once),
        cmocka_unit_test(no_attach_passes_a_fence),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
