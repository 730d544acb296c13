/*
 * All or nothing (invariant 7), on a real XFS. Each operation of the store is run with its Nth system call
 * failing, for N = 1, 2, … until it runs to its end; then with the process killed at its Nth call, half-way
 * through it where that is a write. Afterwards the pool, opened again, is what it was before or what it is
 * after, to the last file; or, where an operation has a third state that it may be left in, that. An
 * operation that answered success is never lost. Whether content is on the disk before its name is, no such
 * test can see: the order of the calls is compared with what it has to be, and
 * tests/integration/test_power_loss.py takes the power away.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/store/fence.h"
#include "datapath/store/pool/pool_internal.h"
#include "datapath/store/snapshot.h"
#include "datapath/store/store_internal.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/store_gate.h"
#include "tests/unit/store_strike.h"

/* ---- operations ---- */

struct operation {
    const char *name;
    void (*prepare)(struct store *store); /* the state before */
    int (*run)(struct store *store, struct error *err);
    const char *order; /* the calls that must be made, in order, others between them left out */
    const char *of;    /* the letters that count for it */
    bool undone;       /* what failed is undone at once, not at the next opening */
    int (*between)(struct store *store, struct error *err); /* makes the third state, or NULL */
};

static struct volume_record spec_of(unsigned n, bool thick)
{
    struct volume_record spec = fixture_spec(n);

    spec.thick = thick;
    return spec;
}

static int run_create(struct store *store, struct error *err)
{
    struct volume_record spec = spec_of(1, false);
    struct volume *volume = NULL;
    int r = store_volume_create(store, &spec, &volume, err);

    volume_unref(volume);
    return r;
}

static int run_create_thick(struct store *store, struct error *err)
{
    struct volume_record spec = spec_of(2, true);
    struct volume *volume = NULL;
    int r = store_volume_create(store, &spec, &volume, err);

    volume_unref(volume);
    return r;
}

static void prepare_nothing(struct store *store)
{
    (void)store;
}

static void prepare_volume(struct store *store)
{
    assert_int_equal(run_create(store, NULL), E_OK);
    fixture_register(store, "node-a");
}

static int run_attach(struct store *store, struct error *err)
{
    char id[ID_VOLUME_MAX + 1];
    struct volume *volume = store_volume_find(store, fixture_id(1, id));
    struct attachment attachment;
    int r = store_attach(store, volume, "node-a", ACCESS_SINGLE_NODE_WRITER, false,
                         fixture_generation(volume), &attachment, err);

    volume_unref(volume);
    return r;
}

static int run_delete(struct store *store, struct error *err)
{
    char id[ID_VOLUME_MAX + 1];

    return store_volume_delete(store, fixture_id(1, id), err);
}

static void prepare_thick(struct store *store)
{
    assert_int_equal(run_create_thick(store, NULL), E_OK);
}

static int expand(struct store *store, unsigned n, struct error *err)
{
    char id[ID_VOLUME_MAX + 1];
    struct volume *volume = store_volume_find(store, fixture_id(n, id));
    int r = volume_expand(volume, 3 << 20, fixture_generation(volume), err);

    assert_int_equal(volume_size_bytes(volume), r == E_OK ? 3 << 20 : 1 << 20);
    volume_unref(volume);
    return r;
}

static int run_expand(struct store *store, struct error *err)
{
    return expand(store, 1, err);
}

static int run_expand_thick(struct store *store, struct error *err)
{
    return expand(store, 2, err);
}

static int run_write_failed(struct store *store, struct error *err)
{
    char id[ID_VOLUME_MAX + 1];
    struct volume *volume = store_volume_find(store, fixture_id(1, id));
    int r = volume_mark_write_failed(volume, err);

    assert_true(volume_write_failed(volume)); /* whatever became of the commit */
    volume_unref(volume);
    return r;
}

/* A volume with a MiB of data. */
static void prepare_data(struct store *store)
{
    static char bytes[1 << 20];
    char path[ID_VOLUME_MAX + 16], id[ID_VOLUME_MAX + 1];
    int fd;

    assert_int_equal(run_create(store, NULL), E_OK);
    snprintf(path, sizeof(path), "%s/" POOL_DATA_FILE, fixture_id(1, id));
    fd = openat(store->backend->volumes_fd, path, O_WRONLY | O_CLOEXEC);
    memset(bytes, 'x', sizeof(bytes));
    assert_int_equal(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
    close(fd);
}

#define SNAPSHOT FIXTURE_SERVER ".s-0000000000000001"

static int run_snapshot(struct store *store, struct error *err)
{
    struct snapshot_record spec = {.id = SNAPSHOT, .group_id = "g-0000000000000001"};
    char id[ID_VOLUME_MAX + 1];
    struct volume *volume = store_volume_find(store, fixture_id(1, id));
    struct snapshot *snapshot = NULL;
    int r = store_snapshot_create(store, volume, &spec, &snapshot, err);

    if (r == E_OK)
        r = snapshot_wait(snapshot, UINT64_MAX, err);
    snapshot_unref(snapshot);
    volume_unref(volume);
    return r;
}

static const struct snapshot_record recorded = {.id = SNAPSHOT, .name = "recorded"};

static int run_recorded(struct store *store, struct error *err)
{
    char id[ID_VOLUME_MAX + 1];

    return gate_snapshot(store, fixture_id(1, id), &recorded, err);
}

static int record_alone(struct store *store, struct error *err)
{
    char id[ID_VOLUME_MAX + 1];

    return gate_record_alone(store, fixture_id(1, id), &recorded, err);
}

static void prepare_snapshot(struct store *store)
{
    prepare_data(store);
    assert_int_equal(run_snapshot(store, NULL), E_OK);
}

static int run_held(struct store *store, struct error *err)
{
    struct snapshot *snapshot = store_snapshot_find(store, SNAPSHOT);
    int r = snapshot_mark_held(snapshot, err);

    snapshot_unref(snapshot);
    return r;
}

static void prepare_held(struct store *store)
{
    prepare_snapshot(store);
    assert_int_equal(run_held(store, NULL), E_OK);
}

static int run_commit(struct store *store, struct error *err)
{
    struct snapshot *snapshot = store_snapshot_find(store, SNAPSHOT);
    int r = snapshot_commit(snapshot, err);

    snapshot_unref(snapshot);
    return r;
}

static int run_delete_snapshot(struct store *store, struct error *err)
{
    return store_snapshot_delete(store, SNAPSHOT, err);
}

static int run_restore(struct store *store, struct error *err)
{
    struct volume_record spec = spec_of(3, false);
    struct snapshot *snapshot = store_snapshot_find(store, SNAPSHOT);
    struct copy *copy = NULL;
    int r;

    spec.size_bytes *= 2;
    r = store_copy_begin(store, &spec, NULL, snapshot, &copy, err);
    if (r == E_OK && copy)
        r = copy_wait(copy, UINT64_MAX, err);
    copy_unref(copy);
    snapshot_unref(snapshot);
    return r;
}

static int fence_edit(struct node_record *record, void *context, struct error *err)
{
    (void)context;
    return record->fenced ? VOLUME_UNCHANGED : fence_set(record, "lost", NULL, 0, err);
}

static int run_fence(struct store *store, struct error *err)
{
    return store_node_update(store, "node-b", fence_edit, NULL, err);
}

static int run_claim(struct store *store, struct error *err)
{
    char id[ID_VOLUME_MAX + 1], holder[STORE_HOLDER_MAX + 1];

    return store_name_claim(store, NAME_VOLUME, "data", fixture_id(1, id), holder, err);
}

static void prepare_claim(struct store *store)
{
    assert_int_equal(run_claim(store, NULL), E_OK);
}

static int run_release(struct store *store, struct error *err)
{
    char id[ID_VOLUME_MAX + 1];

    return store_name_release(store, NAME_VOLUME, "data", fixture_id(1, id), err);
}

static const struct operation operations[] = {
    {"create", prepare_nothing, run_create, "mtwyRd", "mtawyfrdR", true, NULL},
    {"create thick", prepare_nothing, run_create_thick, "mawyRd", "mtawyfrdR", true, NULL},
    {"attach", prepare_volume, run_attach, "wyrd", "mtawyfrdR", true, NULL},
    {"expand", prepare_volume, run_expand, "tfwyrd", "mtawyfrdR", false, NULL},
    {"expand thick", prepare_thick, run_expand_thick, "afwyrd", "mtawyfrdR", false, NULL},
    {"write-failed", prepare_volume, run_write_failed, "wyrd", "mtawyfrdR", false, NULL},
    {"delete", prepare_volume, run_delete, "Rd", "mtawyfrdR", true, NULL},
    {"snapshot", prepare_data, run_snapshot, "mtstfwyRd", "mtawyfrdRs", true, NULL},
    {"snapshot, its cut recorded", prepare_data, run_recorded, "mtmwyRdstfwyRRd", "mtawyfrdRs", false,
     record_alone},
    {"hold in a group", prepare_snapshot, run_held, "wyrd", "mtawyfrdRs", true, NULL},
    {"commit of a group", prepare_held, run_commit, "wyrd", "mtawyfrdRs", true, NULL},
    {"restore", prepare_snapshot, run_restore, "mtsttfwyRd", "mtawyfrdRs", true, NULL},
    {"delete a snapshot", prepare_snapshot, run_delete_snapshot, "Rd", "mtawyfrdR", true, NULL},
    {"fence", prepare_volume, run_fence, "wyrd", "mtawyfrdR", false, NULL},
    {"claim a name", prepare_nothing, run_claim, "wyrd", "mtawyfrdR", false, NULL},
    {"release a name", prepare_claim, run_release, "ud", "mtawyfrdRu", false, NULL},
};

/* They stay open once they are: no descriptor too many, and no call of the operation's. */
static void open_images(struct store *store)
{
    char after[ID_VOLUME_MAX + 1] = "";
    struct volume *volume;
    struct image *image;

    while ((volume = store_volume_next(store, after))) {
        str_copy(after, sizeof(after), volume_id(volume));
        assert_int_equal(volume_image(volume, &image, NULL), E_OK);
        volume_unref(volume);
    }
}

static struct store *prepared(struct fixture *fixture, const struct operation *operation)
{
    struct store *store;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    operation->prepare(store);
    open_images(store);
    return store;
}

struct states {
    char *before, *after, *between;
    int calls; /* that the operation makes */
};

static struct states states_of(struct fixture *fixture, const struct operation *operation)
{
    struct states states = {0};
    struct store *store;

    store_close(prepared(fixture, operation));
    states.before = fixture_state(fixture);
    if (operation->between) {
        store = prepared(fixture, operation);
        assert_int_equal(operation->between(store, NULL), E_OK);
        store_close(store);
        states.between = fixture_state(fixture);
    }
    store = prepared(fixture, operation);
    strike_arm(0, 0);
    assert_int_equal(operation->run(store, NULL), E_OK);
    strike_disarm();
    states.calls = strike_state.calls;
    store_close(store);
    states.after = fixture_state(fixture);
    assert_string_not_equal(states.before, states.after);
    return states;
}

static void states_done(struct states *states)
{
    free(states->before);
    free(states->after);
    free(states->between);
}

/* What an operation that did not end may have left. */
static bool is_left(const char *found, const struct states *states)
{
    return str_equal(found, states->before) || (states->between && str_equal(found, states->between));
}

static int open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* ---- the tests ---- */

static void calls_are_in_order(void **state)
{
    struct fixture *fixture = fixture_ready(state);

    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        struct store *store = prepared(fixture, &operations[i]);
        char made[sizeof(strike_state.trace)] = "";
        size_t count = 0;

        strike_arm(0, 0);
        assert_int_equal(operations[i].run(store, NULL), E_OK);
        strike_disarm();
        for (size_t j = 0; j < strike_state.traced; j++) {
            if (strchr(operations[i].of, strike_state.trace[j]))
                made[count++] = strike_state.trace[j];
        }
        store_close(store);
        if (!str_equal(made, operations[i].order))
            fail_msg("%s made %s (all: %s), not %s", operations[i].name, made, strike_state.trace,
                     operations[i].order);
    }
}

/* One failure at call `turn`; then, with retry, the operation again in the same process. */
static void fail_once(struct fixture *fixture, const struct operation *operation, const struct states *states,
                      int turn, int errnum, bool retry)
{
    struct store *store = prepared(fixture, operation);
    int descriptors = open_descriptors(), r;
    _cleanup_error_ struct error err = {0};
    _cleanup_free_ char *found = NULL;

    strike_arm(turn, errnum);
    r = operation->run(store, &err);
    strike_disarm();
    assert_true(strike_state.struck);
    assert_true(open_descriptors() <= descriptors); /* fewer: a deleted volume's image */
    if (r != E_OK && r != (errnum == ENOSPC ? E_NO_SPACE : -errnum) && r != -errnum)
        fail_msg("%s, call %d: %s, %s", operation->name, turn, error_name(r), error_text(&err));
    if (retry) {
        r = operation->run(store, &err);
        if (r != E_OK)
            fail_msg("%s, again after call %d failed: %s", operation->name, turn, error_text(&err));
    }
    store_close(store);
    found = fixture_state(fixture);
    if (!str_equal(found, states->before) && r != E_OK && operation->undone)
        fail_msg("%s, call %d failed, was not undone:\n%s", operation->name, turn, found);
    if (!str_equal(found, states->after) && (r == E_OK || !is_left(found, states)))
        fail_msg("%s, call %d failed (%s), answered %s, then:\n%s", operation->name, turn, strerror(errnum),
                 error_name(r), found);
}

static void each_call_fails(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    static const int errnums[] = {EIO, ENOSPC};

    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        struct states states = states_of(fixture, &operations[i]);

        for (int turn = 1; turn <= states.calls; turn++) {
            for (size_t j = 0; j < ARRAY_SIZE(errnums); j++)
                fail_once(fixture, &operations[i], &states, turn, errnums[j], j == 1);
            if (!operations[i].between) /* the longest one: what differs is the undoing, which is above */
                fail_once(fixture, &operations[i], &states, turn, EIO, true);
        }
        print_message("%s: %d calls, each failed\n", operations[i].name, states.calls);
        states_done(&states);
    }
}

/* The child's exit status is the operation's answer; killed, there was none. */
static void die_once(struct fixture *fixture, const struct operation *operation, const struct states *states,
                     int turn)
{
    _cleanup_free_ char *found = NULL;
    int status;
    pid_t pid;

    store_close(prepared(fixture, operation));
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct store *store = NULL;

        if (store_open(&store, &fixture->options, NULL) != E_OK)
            _exit(99);
        open_images(store);
        strike_arm(turn, 0);
        _exit(operation->run(store, NULL) == E_OK ? 0 : 98);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (turn <= states->calls)
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    else
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    found = fixture_state(fixture);
    if (!str_equal(found, states->after) && (turn > states->calls || !is_left(found, states)))
        fail_msg("%s, killed at call %d:\n%s", operation->name, turn, found);
}

static void each_call_kills(void **state)
{
    struct fixture *fixture = fixture_ready(state);

    for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
        struct states states = states_of(fixture, &operations[i]);

        for (int turn = 1; turn <= states.calls + 1; turn++)
            die_once(fixture, &operations[i], &states, turn);
        states_done(&states);
    }
}

/* Opening sweeps; it, too, may fail or be killed anywhere, and the next one finishes. */
static void litter(const struct fixture *fixture)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/trash/old.x", fixture->pool);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/trash/old.x/data", fixture->pool);
    fclose(fopen(path, "w"));
    snprintf(path, sizeof(path), "%s/nodes/.node-a.json.tmp", fixture->pool);
    fclose(fopen(path, "w"));
}

static void opening_fails_anywhere(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct operation operation = {.name = "open", .prepare = prepare_volume};
    _cleanup_free_ char *expected = NULL;
    struct store *store;
    int failures = 0;

    store_close(prepared(fixture, &operation));
    expected = fixture_state(fixture);
    for (int turn = 1;; turn++) {
        _cleanup_free_ char *found = NULL;
        int descriptors = open_descriptors(), r;

        litter(fixture);
        strike_arm(turn, EIO);
        r = store_open(&store, &fixture->options, NULL);
        strike_disarm();
        if (r == E_OK)
            store_close(store);
        failures += r != E_OK;
        assert_int_equal(open_descriptors(), descriptors);
        found = fixture_state(fixture);
        assert_string_equal(found, expected);
        if (!strike_state.struck)
            break;
        if (r != E_OK)
            assert_int_equal(r, -EIO);
    }
    assert_true(failures > 10);
}

/* Making a pool fails anywhere: what stands then is a whole pool, or a repeat makes one. */
static void making_fails_anywhere(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    _cleanup_free_ char *path = str_format("%s/inner", fixture->pool);
    struct store_options options = {.path = path, .server_id = FIXTURE_SERVER};
    int failures = 0, pool_fd = open(fixture->pool, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    for (int turn = 1; turn == 1 || strike_state.struck; turn++) {
        char uuid[37] = "", again[37] = "";
        struct store *store;
        int r, repeated;

        assert_int_equal(mkdir(path, 0700), 0);
        strike_arm(turn, EIO);
        r = store_pool_create(path, FIXTURE_SERVER, uuid, NULL);
        strike_disarm();
        failures += r != E_OK;
        repeated = store_pool_create(path, FIXTURE_SERVER, again, NULL);
        assert_true(repeated == E_EXISTS || (r != E_OK && repeated == E_OK));
        options.pool_uuid = repeated == E_OK ? again : uuid;
        if (options
                .pool_uuid[0]) { /* "": it stands, though the answer was an error that kept its UUID back */
            assert_int_equal(store_open(&store, &options, NULL), E_OK);
            store_close(store);
        }
        assert_int_equal(pool_tree_remove(pool_fd, "inner", NULL), E_OK);
    }
    assert_true(failures > 5);
    close(pool_fd);
}

/* A write-failed mark whose commit failed is carried by the next commit, whatever that is for. */
static void unsaved_mark_is_carried(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct operation operation = {.name = "mark", .prepare = prepare_volume};
    struct store *store = prepared(fixture, &operation);
    char id[ID_VOLUME_MAX + 1];
    struct volume *volume;

    strike_arm(3, EIO);
    assert_int_equal(run_write_failed(store, NULL), -EIO);
    strike_disarm();
    assert_int_equal(run_attach(store, NULL), E_OK);
    store_close(store);
    store = fixture_open(fixture);
    volume = store_volume_find(store, fixture_id(1, id));
    assert_true(volume_write_failed(volume));
    volume_unref(volume);
    store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_are_in_order),    cmocka_unit_test(each_call_fails),
        cmocka_unit_test(each_call_kills),       cmocka_unit_test(opening_fails_anywhere),
        cmocka_unit_test(making_fails_anywhere), cmocka_unit_test(unsaved_mark_is_carried),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
