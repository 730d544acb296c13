/* Unit test of flush.c: a flush that fails concerns each volume of the pool that had something to lose, and
 * no other. */
#include "tests/unit/image_test.h"

#include <string.h>

static _Alignas(4096) char buffer[BENCH_BLOCK];

/* What becomes of single operations. */
struct plan {
    const struct command *held[2];
    const struct command *fails; /* once */
    int result;
};

static struct plan plan;

static bool is_of(const struct fake_op *op, const struct command *command)
{
    return command && op->kind != FAKE_WORK && op->op == &command->io.op;
}

static enum fake_verdict plan_hook(void *context, const struct fake_op *op, int *ret_res)
{
    struct bench *bench = context;

    for (int i = 0; i < 2; i++)
        if (is_of(op, plan.held[i]))
            return FAKE_HOLD;
    bench->tried[op->kind]++;
    if (!is_of(op, plan.fails))
        return FAKE_GO;
    plan.fails = NULL;
    *ret_res = plan.result;
    return FAKE_FAIL;
}

static int setup(void **state)
{
    struct bench *bench;
    int r = bench_setup(state);

    bench = *state;
    plan = (struct plan){.result = -EIO};
    bench->other_saved.content = VOLUME_DATA;
    bench_set_content(bench, VOLUME_DATA, 0, 0);
    for (int i = 0; i < 2; i++)
        fake_loop_hook(bench->loops[i], plan_hook, bench);
    return r;
}

static void fail_flush(struct bench *bench)
{
    struct command flush;

    plan.fails = &flush;
    command_submit(&flush, bench, 0, IMAGE_FLUSH, 0, 0, false, NULL);
    bench_settle(bench);
    assert_int_equal(flush.result, plan.result);
}

static void check_other_failed(struct bench *bench)
{
    int syncs = bench->tried[FAKE_FDATASYNC], writes = bench->tried[FAKE_WRITE];

    assert_true(volume_write_failed(bench->other));
    assert_true(bench->other_saved.write_failed);
    assert_int_equal(command_run_other(bench, IMAGE_FLUSH, 0, 0, false, NULL), E_WRITE_FAILED);
    assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, false, buffer), E_WRITE_FAILED);
    assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, true, buffer), E_WRITE_FAILED);
    assert_int_equal(bench->tried[FAKE_FDATASYNC], syncs);
    assert_int_equal(bench->tried[FAKE_WRITE], writes);
}

static void check_other_alone(struct bench *bench)
{
    assert_false(volume_write_failed(bench->other));
    assert_false(bench->other_saved.write_failed);
    assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
    assert_int_equal(command_run_other(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
}

/* ---- the other volume at the moment of the failure ---- */

static void test_answered_and_not_flushed(void **state)
{
    static const enum image_verb verbs[] = {IMAGE_WRITE, IMAGE_UNMAP, IMAGE_WRITE_ZEROES};
    struct bench *bench = *state;

    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        bench->saved.write_failed = bench->other_saved.write_failed = false;
        bench_restart(bench);
        assert_int_equal(command_run_other(bench, verbs[i], 0, 1, false, buffer), 0);
        fail_flush(bench);
        assert_true(volume_write_failed(bench->volume));
        check_other_failed(bench);
    }
    bench_restart(bench);
    check_other_failed(bench);
}

static void test_all_stable(void **state)
{
    struct bench *bench = *state;

    for (unsigned i = 0; i < 3; i++) {
        bench->saved.write_failed = false;
        assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, i == 1, buffer), 0);
        if (i != 1) /* its first flush is one, whatever was written */
            assert_int_equal(command_run_other(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
        fail_flush(bench);
        check_other_alone(bench);
        bench->saved.write_failed = false;
        bench_restart(bench);
    }
    fail_flush(bench); /* nobody has written to the other since it was opened */
    check_other_alone(bench);
}

static void test_in_flight(void **state)
{
    static const struct {
        enum image_verb verb;
        bool fua;
        int result;
    } cases[] = {{IMAGE_WRITE, false, 0},
                 {IMAGE_WRITE, true, E_WRITE_FAILED},
                 {IMAGE_WRITE_ZEROES, true, E_WRITE_FAILED},
                 {IMAGE_FLUSH, false, E_WRITE_FAILED}};
    struct bench *bench = *state;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        bool flushes = cases[i].verb == IMAGE_FLUSH;
        struct command command;
        int syncs;

        bench->saved.write_failed = bench->other_saved.write_failed = false;
        bench_restart(bench);
        if (flushes) /* with something to keep */
            assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
        plan.held[0] = &command;
        command_submit_other(&command, bench, 1, cases[i].verb, 0, !flushes, cases[i].fua, buffer);
        fail_flush(bench);
        assert_int_equal(command.answers, 0);
        syncs = bench->tried[FAKE_FDATASYNC];
        plan.held[0] = NULL;
        bench_settle(bench);
        assert_int_equal(command.result, cases[i].result);
        assert_true(command.saved_write_failed);
        assert_int_equal(bench->tried[FAKE_FDATASYNC], syncs + flushes);
        check_other_failed(bench);
    }
}

/* The disk may have carried it out after the flush whose failure is told of later. */
static void test_stable_since_the_flush_began(void **state)
{
    struct bench *bench = *state;

    for (unsigned i = 0; i < 4; i++) {
        struct command flush;

        bench->saved.write_failed = bench->other_saved.write_failed = false;
        bench_restart(bench);
        if (i == 3) /* before it began */
            assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, true, buffer), 0);
        plan.held[0] = plan.fails = &flush;
        command_submit(&flush, bench, 0, IMAGE_FLUSH, 0, 0, false, NULL);
        if (i < 2)
            assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, i == 1, buffer), 0);
        if (i != 1) /* in 2 and 3 it keeps nothing */
            assert_int_equal(command_run_other(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
        plan.held[0] = NULL;
        bench_settle(bench);
        assert_int_equal(flush.result, -EIO);
        if (i < 2)
            check_other_failed(bench);
        else
            check_other_alone(bench);
    }
}

static void test_a_flush_that_never_began(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
    plan.result = -EBUSY;
    fail_flush(bench);
    check_other_alone(bench);
}

/* In memory at once, and on disk as soon as the records can be written. */
static void test_a_failure_that_cannot_be_recorded(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
    bench->save_result = -EIO;
    fail_flush(bench);
    assert_true(volume_write_failed(bench->other));
    assert_false(bench->other_saved.write_failed);
    assert_int_equal(command_run_other(bench, IMAGE_FLUSH, 0, 0, false, NULL), E_WRITE_FAILED);
    bench->save_result = 0;
    assert_int_equal(command_run_other(bench, IMAGE_FLUSH, 0, 0, false, NULL), E_WRITE_FAILED);
    check_other_failed(bench);
}

/* ---- the flush that comes with a write ---- */

static void become_lone(struct bench *bench)
{
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
        assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
    }
}

/* The same write succeeds without it: it was the flush. Of its own volume only FUA has others rely on it. */
static void test_a_stable_write_whose_flush_fails(void **state)
{
    struct bench *bench = *state;

    for (unsigned fua = 0; fua < 2; fua++) {
        struct command write;

        bench->saved.write_failed = bench->other_saved.write_failed = false;
        bench_restart(bench);
        become_lone(bench);
        assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
        plan.fails = &write;
        command_submit(&write, bench, 0, IMAGE_WRITE, 0, 1, fua, buffer);
        assert_true(write.io.stable);
        bench_settle(bench);
        assert_int_equal(write.answers, 1);
        assert_int_equal(write.result, -EIO);
        assert_int_equal(write.saved_write_failed, fua);
        assert_int_equal(bench->saved.write_failed, fua);
        check_other_failed(bench);
    }
}

/* It fails without the flush as well: a bad block is no business of other volumes. */
static void test_a_stable_write_that_fails(void **state)
{
    struct bench *bench = *state;

    for (unsigned fua = 0; fua < 2; fua++) {
        int result;

        bench->saved.write_failed = bench->other_saved.write_failed = false;
        bench_restart(bench);
        become_lone(bench);
        assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
        fake_loop_chances(bench->loops[0], 1000, 0);
        result = command_run(bench, IMAGE_WRITE, 0, 1, fua, buffer);
        fake_loop_chances(bench->loops[0], 0, 0);
        assert_int_equal(result, -EIO);
        assert_int_equal(bench->saved.write_failed, fua);
        check_other_alone(bench);
    }
}

/* While it is looked into, no flush of its own volume lies; the other's that answers is not relied on for
 * long. */
static void test_flushes_while_a_failed_write_is_looked_into(void **state)
{
    struct bench *bench = *state;
    struct command write, flush;

    assert_int_equal(command_run(bench, IMAGE_WRITE, 1, 1, false, buffer), 0);
    assert_int_equal(command_run_other(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
    plan.fails = &write;
    command_submit(&write, bench, 0, IMAGE_WRITE, 0, 1, true, buffer);
    while (write.io.step != IMAGE_STEP_PROBE)
        assert_true(fake_loop_step(bench->loops[0]));
    plan.held[0] = &write;
    command_submit(&flush, bench, 1, IMAGE_FLUSH, 0, 0, false, NULL);
    bench_settle(bench);
    assert_int_equal(flush.result, E_WRITE_FAILED);
    assert_true(flush.saved_write_failed);
    assert_int_equal(command_run_other(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
    plan.held[0] = NULL;
    bench_settle(bench);
    assert_int_equal(write.result, -EIO);
    check_other_failed(bench);
}

int image_flush_tests_run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answered_and_not_flushed, setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_all_stable, setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_in_flight, setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_stable_since_the_flush_began, setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_flush_that_never_began, setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_failure_that_cannot_be_recorded, setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_stable_write_whose_flush_fails, setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_stable_write_that_fails, setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_flushes_while_a_failed_write_is_looked_into, setup,
                                        bench_teardown),
    };

    return cmocka_run_group_tests_name("image_flush", tests, NULL, NULL);
}
