/* Unit test of image_stable.c: which writes are made stable by themselves, and that no flush is answered
 * without need to be. */
#include "tests/unit/image_test.h"

#include <string.h>

#define COMMANDS 60u
#define SEEDS 150u

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

/* ---- any order, against a disk that forgets ---- */

struct model {
    struct bench *bench;
    struct command commands[COMMANDS];
    struct {
        unsigned submitted_at, carried_at, answered_at; /* moments; 0: not yet */
        unsigned sync_at;                               /* its sync was submitted */
        bool stable, lost;
    } facts[COMMANDS];
    unsigned count, now, seed;
    unsigned chosen, needless; /* writes made stable by choice; flushes without a sync */
};

static struct model model;

static unsigned index_of(const struct loop_op *op)
{
    const struct image_io *io = container_of(op, struct image_io, op);

    return (unsigned)(container_of(io, struct command, io) - model.commands);
}

/* A sync that failed: nobody will be told again of what was to become stable. What is in flight may have been
 * in the disk's cache by then. */
static void forget_all_but(unsigned index)
{
    for (unsigned i = 0; i < model.count; i++) {
        if (i != index && model.commands[i].io.ticket > 0 && !model.facts[i].stable)
            model.facts[i].lost = true;
    }
}

static enum fake_verdict model_hook(void *context, const struct fake_op *op, int *ret_res)
{
    bool syncs = op->kind == FAKE_FDATASYNC || (op->kind == FAKE_WRITE && (op->flags & LOOP_RWF_DSYNC));
    unsigned index = op->kind == FAKE_WORK ? 0 : index_of(op->op);

    (void)context;
    *ret_res = -EIO;
    if (syncs && rand_r(&model.seed) % 40 == 0) {
        forget_all_but(index);
        return FAKE_FAIL;
    }
    if (op->kind == FAKE_WRITE) {
        model.facts[index].carried_at = model.now;
        model.facts[index].stable = syncs;
        model.chosen += syncs && !model.commands[index].io.fua;
    }
    for (unsigned i = 0; i < model.count && op->kind == FAKE_FDATASYNC; i++) {
        if (model.facts[i].carried_at > 0 && model.facts[i].carried_at < model.facts[index].sync_at &&
            !model.facts[i].lost)
            model.facts[i].stable = true;
    }
    return FAKE_GO;
}

static void check_flush(unsigned flush)
{
    for (unsigned i = 0; i < model.count; i++) {
        if (model.commands[i].io.verb == IMAGE_WRITE && model.commands[i].result == 0 &&
            model.facts[i].answered_at > 0 && model.facts[i].answered_at < model.facts[flush].submitted_at)
            assert_true(model.facts[i].stable && !model.facts[i].lost);
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
    }
}

static void submit(unsigned loop, enum image_verb verb)
{
    unsigned index = model.count++;

    command_submit(&model.commands[index], model.bench, loop, verb, index % BENCH_BLOCKS,
                   verb == IMAGE_WRITE ? 1 : 0, rand_r(&model.seed) % 8 == 0, buffer);
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

/* Commits one after the other, and now and then others beside them. */
static void test_seeds(void **state)
{
    unsigned chosen = 0, flushes = 0, syncs = 0;

    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        memset(&model, 0, sizeof(model));
        model.bench = *state;
        model.seed = seed;
        model.bench->saved.write_failed = false;
        bench_set_content(model.bench, VOLUME_DATA, 0, 0);
        for (unsigned i = 0; i < 2; i++) {
            fake_loop_seed(model.bench->loops[i], seed * 2 + i);
            fake_loop_hook(model.bench->loops[i], model_hook, NULL);
        }
        while (model.count < COMMANDS) {
            bool calm = model.count < COMMANDS / 3 || rand_r(&model.seed) % 3 > 0;

            submit(0, model.count % 2 ? IMAGE_FLUSH : IMAGE_WRITE);
            if (model.count < COMMANDS && rand_r(&model.seed) % 10 == 0)
                submit(1, rand_r(&model.seed) % 3 ? IMAGE_WRITE : IMAGE_FLUSH);
            run_some(calm ? 12 : (unsigned)rand_r(&model.seed) % 3);
        }
        run_some(1000);
        for (unsigned i = 0; i < COMMANDS; i++) {
            assert_int_equal(model.commands[i].answers, 1);
            flushes += model.commands[i].io.verb == IMAGE_FLUSH && model.commands[i].result == 0;
            syncs += model.commands[i].io.verb == IMAGE_FLUSH && model.facts[i].sync_at > 0;
        }
        chosen += model.chosen;
    }
    print_message("%u writes made stable, %u syncs for %u flushes\n", chosen, syncs, flushes);
    assert_true(chosen > SEEDS && syncs < flushes);
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
