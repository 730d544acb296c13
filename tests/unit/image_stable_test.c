/* Unit test of image_stable.c: which writes are made stable by themselves, and that no flush is answered
 * without need to be. */
#include "tests/unit/image_test.h"

#include <string.h>

#define COMMANDS 60u
#define SEEDS 200u

static _Alignas(4096) char buffer[BENCH_BLOCK];

static void commit(struct bench *bench, unsigned writes)
{
    for (unsigned i = 0; i < writes; i++)
        assert_int_equal(command_run(bench, IMAGE_WRITE, i, 1, false, buffer), 0);
    assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
}

static void test_commits_cost_no_sync(void **state)
{
    struct bench *bench = *state;

    for (unsigned i = 0; i < 2; i++)
        commit(bench, 1);
    assert_int_equal(bench->tried[FAKE_FDATASYNC], 2);
    assert_int_equal(bench->stable_writes, 0);
    for (unsigned i = 0; i < 3; i++)
        commit(bench, 1);
    assert_int_equal(bench->tried[FAKE_FDATASYNC], 2);
    assert_int_equal(bench->stable_writes, 3);
    commit(bench, 2); /* the first of them looked like a commit, and cost one more */
    assert_int_equal(bench->tried[FAKE_FDATASYNC], 3);
    assert_int_equal(bench->stable_writes, 4);
    commit(bench, 1);
    assert_int_equal(bench->stable_writes, 4);
    assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
    assert_int_equal(bench->tried[FAKE_FDATASYNC], 4);
}

/* What an earlier process answered may not be stable. */
static void test_the_first_flush_is_one(void **state)
{
    struct bench *bench = *state;

    bench->kind = FAKE_FDATASYNC;
    bench->verdict = FAKE_FAIL;
    bench->result = -EBUSY; /* it never began */
    assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), -EBUSY);
    bench->kind = FAKE_KINDS;
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
    assert_int_equal(bench->tried[FAKE_FDATASYNC], 2);
    bench_restart(bench);
    assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
    assert_int_equal(bench->tried[FAKE_FDATASYNC], 3);
}

/* Alone it is a write that failed. Beside others, the error may have been due to their flush. */
static void test_a_failed_commit(void **state)
{
    struct bench *bench = *state;
    struct command commands[2];

    for (unsigned i = 0; i < 4; i++)
        commit(bench, 1);
    bench->kind = FAKE_WRITE;
    bench->verdict = FAKE_FAIL;
    bench->result = -EIO;
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), -EIO);
    assert_false(volume_write_failed(bench->volume));
    bench->kind = FAKE_KINDS;
    for (unsigned i = 0; i < 4; i++)
        commit(bench, 1);
    bench->kind = FAKE_WRITE;
    for (unsigned i = 0; i < 2; i++)
        command_submit(&commands[i], bench, i, IMAGE_WRITE, i, 1, false, buffer);
    assert_true(commands[0].io.stable);
    assert_false(commands[1].io.stable);
    bench_settle(bench);
    assert_int_equal(commands[0].result, -EIO);
    assert_true(commands[0].saved_write_failed);
}

/* ---- any order, two volumes, against a disk that forgets ---- */

struct model {
    struct bench *bench;
    struct command commands[COMMANDS];
    struct {
        unsigned submitted_at, carried_at, answered_at; /* moments; 0: not yet */
        unsigned sync_at;                               /* its sync was submitted */
        bool other;                                     /* of the other volume */
        bool stable, lost;
        bool bad; /* the disk cannot write there */
    } facts[COMMANDS];
    unsigned count, now, seed;
    unsigned chosen;      /* writes made stable by choice */
    bool probed[2];       /* a stable write of the volume failed, and is looked into */
    bool lie[2];          /* meanwhile the volume's flush answered 0, and what it should have kept is lost */
    bool innocent[2];     /* has nothing to lose at the failure that comes next */
    unsigned lies, saved; /* of all seeds: such flushes; volumes that were left alone */
};

static struct model model;

static unsigned index_of(const struct loop_op *op)
{
    const struct image_io *io = container_of(op, struct image_io, op);

    return (unsigned)(container_of(io, struct command, io) - model.commands);
}

static bool has_failed(bool other)
{
    return volume_write_failed(other ? model.bench->other : model.bench->volume);
}

/* The disk's cache is gone, of both volumes, and nobody will be told again. What is in flight may have been
 * in it by then. */
static void forget_all_but(unsigned index)
{
    for (unsigned i = 0; i < model.count; i++) {
        if (i != index && model.commands[i].io.ticket > 0 && !model.facts[i].stable)
            model.facts[i].lost = true;
    }
}

/* A good flush that was submitted after this one's answer had its own before `until`. */
static bool was_flushed(unsigned index, unsigned until)
{
    for (unsigned i = 0; i < model.count; i++) {
        if (model.commands[i].io.verb == IMAGE_FLUSH && model.facts[i].other == model.facts[index].other &&
            model.commands[i].result == 0 && model.facts[i].answered_at > 0 &&
            model.facts[i].answered_at < until &&
            model.facts[i].submitted_at > model.facts[index].answered_at)
            return true;
    }
    return false;
}

/* Nothing of the volume's was in flight, or not stable, from `since` on: it must not be taken for failed. */
static bool is_innocent(bool other, unsigned since)
{
    for (unsigned i = 0; i < model.count; i++) {
        if (model.facts[i].other != other || model.commands[i].io.verb == IMAGE_FLUSH)
            continue;
        if (model.facts[i].answered_at == 0 || model.facts[i].answered_at >= since)
            return false;
        if (!(model.commands[i].io.stable && model.commands[i].result == 0) && !was_flushed(i, since))
            return false;
    }
    return !has_failed(other);
}

static enum fake_verdict carry_write(const struct fake_op *op, unsigned index)
{
    bool syncs = op->flags & LOOP_RWF_DSYNC, other = model.facts[index].other;

    if (model.commands[index].io.step == IMAGE_STEP_PROBE)
        model.probed[other] = false;
    if (model.facts[index].bad)
        return FAKE_FAIL;
    if (syncs && rand_r(&model.seed) % 30 == 0) {
        model.facts[index].bad = rand_r(&model.seed) % 2;
        model.probed[other] = true;
        if (!model.facts[index].bad)
            forget_all_but(index);
        return FAKE_FAIL;
    }
    model.facts[index].carried_at = model.now;
    model.facts[index].stable = syncs;
    model.chosen += syncs && !model.commands[index].io.fua;
    return FAKE_GO;
}

static enum fake_verdict carry_sync(unsigned index)
{
    bool other = model.facts[index].other;

    if (rand_r(&model.seed) % 30 == 0) {
        model.innocent[!other] = is_innocent(!other, model.facts[index].submitted_at);
        forget_all_but(index);
        return FAKE_FAIL;
    }
    for (unsigned i = 0; i < model.count; i++) {
        if (model.facts[i].other == other && model.facts[i].carried_at > 0 &&
            model.facts[i].carried_at < model.facts[index].sync_at && !model.facts[i].lost)
            model.facts[i].stable = true;
    }
    return FAKE_GO;
}

static enum fake_verdict model_hook(void *context, const struct fake_op *op, int *ret_res)
{
    (void)context;
    *ret_res = -EIO;
    if (op->kind == FAKE_WRITE)
        return carry_write(op, index_of(op->op));
    return op->kind == FAKE_FDATASYNC ? carry_sync(index_of(op->op)) : FAKE_GO;
}

/* A flush or a stable write answered 0 without need to be? Only while the other volume's failed write is
 * looked into, and then this volume fails as soon as it is known. */
static void check_kept(unsigned index, bool kept)
{
    bool other = model.facts[index].other;

    if (kept)
        return;
    assert_true(model.probed[!other]);
    model.lie[other] = true;
    model.lies++;
}

static void check_flush(unsigned flush)
{
    for (unsigned i = 0; i < model.count; i++) {
        if (model.facts[i].other == model.facts[flush].other && model.commands[i].io.verb == IMAGE_WRITE &&
            model.commands[i].result == 0 && model.facts[i].answered_at > 0 &&
            model.facts[i].answered_at < model.facts[flush].submitted_at)
            check_kept(flush, model.facts[i].stable && !model.facts[i].lost);
    }
}

static void look_at_volumes(void)
{
    for (int other = 0; other < 2; other++) {
        assert_false(model.innocent[other] && has_failed(other));
        model.saved += model.innocent[other];
        model.innocent[other] = false;
        assert_false(model.lie[other] && !model.probed[!other] && !has_failed(other));
    }
}

/* After each thing that happened. */
static void look(void)
{
    model.now++;
    for (unsigned i = 0; i < model.count; i++) {
        struct command *command = &model.commands[i];

        if (command->io.step == IMAGE_STEP_SYNC && command->answers == 0 && model.facts[i].sync_at == 0)
            model.facts[i].sync_at = model.now;
        if (command->answers == 0 || model.facts[i].answered_at > 0)
            continue;
        model.facts[i].answered_at = model.now;
        if (command->io.verb == IMAGE_FLUSH && command->result == 0)
            check_flush(i);
        else if (command->io.stable && command->result == 0)
            check_kept(i, model.facts[i].stable);
    }
    look_at_volumes();
}

static void submit(unsigned loop, bool other, enum image_verb verb)
{
    unsigned index = model.count++;
    bool fua = rand_r(&model.seed) % 8 == 0;

    model.facts[index].other = other;
    (other ? command_submit_other : command_submit)(&model.commands[index], model.bench, loop, verb,
                                                    index % BENCH_BLOCKS, verb == IMAGE_WRITE ? 1 : 0, fua,
                                                    buffer);
    model.now++;
    model.facts[index].submitted_at = model.now;
    look();
}

static void run_some(unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        fake_loop_step(model.bench->loops[rand_r(&model.seed) % 2]);
        look();
    }
}

static void model_start(struct bench *bench, unsigned seed)
{
    unsigned chosen = model.chosen, lies = model.lies, saved = model.saved;

    memset(&model, 0, sizeof(model));
    model.bench = bench;
    model.seed = seed;
    model.chosen = chosen;
    model.lies = lies;
    model.saved = saved;
    bench->saved.write_failed = bench->other_saved.write_failed = false;
    bench->other_saved.content = VOLUME_DATA;
    bench_set_content(bench, VOLUME_DATA, 0, 0);
    for (unsigned i = 0; i < 2; i++) {
        fake_loop_seed(bench->loops[i], seed * 2 + i);
        fake_loop_hook(bench->loops[i], model_hook, NULL);
    }
}

/* Commits one after the other, and now and then others beside them, of this volume and of the other. */
static void test_seeds(void **state)
{
    unsigned flushes = 0, syncs = 0, failed = 0;

    memset(&model, 0, sizeof(model));
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        model_start(*state, seed);
        while (model.count < COMMANDS) {
            bool calm = model.count < COMMANDS / 3 || rand_r(&model.seed) % 3 > 0;

            submit(0, false, model.count % 2 ? IMAGE_FLUSH : IMAGE_WRITE);
            if (model.count < COMMANDS && rand_r(&model.seed) % 10 == 0)
                submit(1, false, rand_r(&model.seed) % 3 ? IMAGE_WRITE : IMAGE_FLUSH);
            if (model.count < COMMANDS && rand_r(&model.seed) % 3 == 0)
                submit(1, true, rand_r(&model.seed) % 2 ? IMAGE_WRITE : IMAGE_FLUSH);
            run_some(calm ? 12 : (unsigned)rand_r(&model.seed) % 3);
        }
        run_some(1000);
        for (unsigned i = 0; i < COMMANDS; i++) {
            assert_int_equal(model.commands[i].answers, 1);
            flushes += model.commands[i].io.verb == IMAGE_FLUSH && model.commands[i].result == 0;
            syncs += model.commands[i].io.verb == IMAGE_FLUSH && model.facts[i].sync_at > 0;
        }
        assert_int_equal(model.bench->saved.write_failed, has_failed(false));
        assert_int_equal(model.bench->other_saved.write_failed, has_failed(true));
        failed += has_failed(true);
    }
    print_message(
        "%u writes made stable, %u syncs for %u flushes; the other volume failed %u times and was left "
        "alone %u times; %u flushes answered while a failure was looked into\n",
        model.chosen, syncs, flushes, failed, model.saved, model.lies);
    assert_true(model.chosen > SEEDS && syncs < flushes);
    assert_true(failed > SEEDS / 8 && model.saved > SEEDS / 8 && model.lies > 0);
}

int image_stable_tests_run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_commits_cost_no_sync, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_the_first_flush_is_one, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_failed_commit, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_seeds, bench_setup, bench_teardown),
    };

    return cmocka_run_group_tests_name("image_stable", tests, NULL, NULL);
}
