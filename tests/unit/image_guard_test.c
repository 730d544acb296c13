/* Unit test of the image's guards: invariants 1 (a failed flush) and 5 (blank, formatting, data). */
#include "tests/unit/image_test.h"

#include <string.h>

static _Alignas(4096) char buffer[4 * BENCH_BLOCK];

/* ---- invariant 5 ---- */

static void test_the_record_says_data_before_the_first_change(void **state)
{
    static const enum image_verb verbs[] = {IMAGE_WRITE, IMAGE_UNMAP, IMAGE_WRITE_ZEROES};
    struct bench *bench = *state;

    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
        bench_set_content(bench, VOLUME_BLANK, 0, 0);
        assert_int_equal(command_run(bench, IMAGE_READ, 0, 1, false, buffer), 0);
        assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
        assert_int_equal(bench->saved.content, VOLUME_BLANK);
        bench->check_marked = true; /* the hook looks when the file is about to change */
        assert_int_equal(command_run(bench, verbs[i], 0, 1, false, buffer), 0);
        assert_int_equal(bench->saved.content, VOLUME_DATA);
        bench->check_marked = false;
    }
}

static void test_many_first_writes_need_one_record(void **state)
{
    struct bench *bench = *state;
    struct command commands[8];

    bench->check_marked = true;
    for (unsigned i = 0; i < 8; i++)
        command_submit(&commands[i], bench, i % 2, IMAGE_WRITE, i, 1, false, buffer);
    bench_settle(bench);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(commands[i].answers, 1);
        assert_int_equal(commands[i].result, 0);
    }
    assert_int_equal(bench->saves, 1);
}

static void test_no_record_no_change(void **state)
{
    struct bench *bench = *state;

    bench->save_result = E_NO_SPACE;
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), E_NO_SPACE);
    assert_int_equal(bench->tried[FAKE_WRITE], 0);
    bench->save_result = 0;
    bench->check_marked = true;
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
}

static void test_the_formatting_writer_keeps_formatting(void **state)
{
    struct bench *bench = *state;

    bench_set_content(bench, VOLUME_FORMATTING, 1, 1); /* what command_run() writes as */
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
    assert_int_equal(command_run(bench, IMAGE_WRITE_ZEROES, 0, 1, true, NULL), 0);
    assert_int_equal(bench->saves, 0);
    assert_int_equal(bench->saved.content, VOLUME_FORMATTING);
    bench_set_content(bench, VOLUME_FORMATTING, 1, 2);
    bench->check_marked = true;
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), 0);
    assert_int_equal(bench->saved.content, VOLUME_DATA);
}

/* ---- invariant 1 ---- */

static void bench_hold_syncs(struct bench *bench)
{
    bench->kind = FAKE_FDATASYNC;
    bench->verdict = FAKE_HOLD;
}

static void bench_end_syncs(struct bench *bench, int result)
{
    bench->verdict = result ? FAKE_FAIL : FAKE_GO;
    bench->result = result;
    bench_settle(bench);
}

static void check_write_failed(struct bench *bench)
{
    int syncs = bench->tried[FAKE_FDATASYNC], writes = bench->tried[FAKE_WRITE];

    assert_true(volume_write_failed(bench->volume));
    assert_true(bench->saved.write_failed);
    assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), E_WRITE_FAILED);
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), E_WRITE_FAILED);
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, true, buffer), E_WRITE_FAILED);
    assert_int_equal(command_run(bench, IMAGE_UNMAP, 0, 1, false, NULL), E_WRITE_FAILED);
    assert_int_equal(command_run(bench, IMAGE_WRITE_ZEROES, 0, 1, true, NULL), E_WRITE_FAILED);
    assert_int_equal(command_run(bench, IMAGE_READ, 0, 1, false, buffer), 0);
    assert_int_equal(bench->tried[FAKE_FDATASYNC], syncs); /* no second, lying flush */
    assert_int_equal(bench->tried[FAKE_WRITE], writes);
}

static int clear_write_failed(struct volume_record *record, void *context, struct error *err)
{
    (void)context;
    (void)err;
    record->write_failed = false;
    return 0;
}

static void test_a_failed_flush_is_everybodys_and_stays(void **state)
{
    struct bench *bench = *state;
    struct command commands[5];

    bench_set_content(bench, VOLUME_DATA, 0, 0);
    bench_hold_syncs(bench);
    for (unsigned i = 0; i < 4; i++)
        command_submit(&commands[i], bench, i % 2, IMAGE_FLUSH, 0, 0, false, NULL);
    command_submit(&commands[4], bench, 1, IMAGE_UNMAP, 0, 1, true, NULL);
    bench_settle(bench);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(commands[i].answers, 0);
    bench_end_syncs(bench, -EIO);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(commands[i].answers, 1);
        assert_int_equal(commands[i].result, i == 0 ? -EIO : E_WRITE_FAILED);
        assert_true(commands[i].saved_write_failed); /* durable before anyone is answered */
    }
    assert_int_equal(bench->tried[FAKE_FDATASYNC], 1);
    bench->kind = FAKE_KINDS;
    check_write_failed(bench);
    bench_restart(bench);
    check_write_failed(bench);
    assert_int_equal(volume_update(bench->volume, clear_write_failed, NULL, NULL), 0);
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, true, buffer), 0);
    assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
    bench_restart(bench);
    assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), 0);
}

/* Commands that come while the failure is being recorded are not answered before it is. */
static void test_nobody_is_answered_before_the_record(void **state)
{
    struct bench *bench = *state;
    struct command flush, late[2];

    bench_set_content(bench, VOLUME_DATA, 0, 0);
    bench_hold_syncs(bench);
    command_submit(&flush, bench, 0, IMAGE_FLUSH, 0, 0, false, NULL);
    bench_settle(bench);
    bench->verdict = FAKE_FAIL;
    bench->result = -EIO;
    assert_true(fake_loop_step(bench->loops[0])); /* the sync fails */
    bench->kind = FAKE_WORK;
    bench->verdict = FAKE_HOLD; /* the record hangs */
    assert_false(bench->saved.write_failed);
    command_submit(&late[0], bench, 1, IMAGE_WRITE, 0, 1, false, buffer);
    command_submit(&late[1], bench, 0, IMAGE_FLUSH, 0, 0, false, NULL);
    bench_settle(bench);
    assert_int_equal(flush.answers + late[0].answers + late[1].answers, 0);
    bench->verdict = FAKE_GO;
    bench_settle(bench);
    assert_int_equal(flush.result, -EIO);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(late[i].answers, 1);
        assert_int_equal(late[i].result, E_WRITE_FAILED);
        assert_true(late[i].saved_write_failed);
    }
    assert_int_equal(bench->tried[FAKE_WRITE], 0);
    assert_int_equal(bench->saves, 1);
}

/* An operator clears an older failure while a new one is being recorded: nothing is accepted in between. */
static void test_a_clear_beside_a_new_failure(void **state)
{
    struct bench *bench = *state;
    struct command flush, late[2];

    bench_set_content(bench, VOLUME_DATA, 0, 0);
    bench_hold_syncs(bench);
    command_submit(&flush, bench, 0, IMAGE_FLUSH, 0, 0, false, NULL);
    bench_settle(bench);
    bench->verdict = FAKE_FAIL;
    bench->result = -EIO;
    assert_true(fake_loop_step(bench->loops[0])); /* the sync fails */
    bench->kind = FAKE_WORK;
    bench->verdict = FAKE_HOLD; /* the record hangs */
    assert_int_equal(volume_update(bench->volume, clear_write_failed, NULL, NULL), 0);
    command_submit(&late[0], bench, 1, IMAGE_WRITE, 0, 1, false, buffer);
    command_submit(&late[1], bench, 0, IMAGE_FLUSH, 0, 0, false, NULL);
    bench_settle(bench);
    assert_int_equal(late[0].answers + late[1].answers, 0);
    bench->verdict = FAKE_GO;
    bench_settle(bench);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(late[i].result, E_WRITE_FAILED);
        assert_true(late[i].saved_write_failed);
    }
    assert_int_equal(bench->tried[FAKE_WRITE], 0);
    bench->kind = FAKE_KINDS;
    check_write_failed(bench);
}

/* A failed record leaves the volume refusing, and each refusal tries again. */
static void test_a_failure_that_cannot_be_recorded(void **state)
{
    struct bench *bench = *state;

    bench_set_content(bench, VOLUME_DATA, 0, 0);
    bench_hold_syncs(bench);
    bench->verdict = FAKE_FAIL;
    bench->result = -EIO;
    bench->save_result = -EIO;
    assert_int_equal(command_run(bench, IMAGE_FLUSH, 0, 0, false, NULL), -EIO);
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), E_WRITE_FAILED);
    assert_int_equal(bench->saves, 0);
    bench->save_result = 0;
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), E_WRITE_FAILED);
    assert_int_equal(bench->saves, 2); /* the record that stands is put back, then the mark is made */
    bench->kind = FAKE_KINDS;
    check_write_failed(bench);
}

static void test_failed_stable_writes(void **state)
{
    struct bench *bench = *state;

    bench_set_content(bench, VOLUME_DATA, 0, 0);
    bench->kind = FAKE_WRITE;
    bench->verdict = FAKE_FAIL;
    bench->result = -EIO; /* not stable, and nobody was told it would be */
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), -EIO);
    bench->result = -ENOSPC; /* a full disk lost nothing */
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, true, buffer), E_NO_SPACE);
    bench->result = -EDQUOT;
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, false, buffer), E_NO_SPACE);
    bench->result = -EBUSY; /* never began */
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, true, buffer), -EBUSY);
    assert_false(volume_write_failed(bench->volume));
    assert_int_equal(bench->saves, 0);
    bench->result = -EIO;
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 1, true, buffer), -EIO);
    bench->kind = FAKE_KINDS;
    check_write_failed(bench);
}

/* Those that come while a sync runs share the next one, and are not answered by the one that runs. */
static void test_flushes_share_only_a_later_sync(void **state)
{
    struct bench *bench = *state;
    struct command first, later[3];

    bench_hold_syncs(bench);
    command_submit(&first, bench, 0, IMAGE_FLUSH, 0, 0, false, NULL);
    for (unsigned i = 0; i < 3; i++)
        command_submit(&later[i], bench, (i + 1) % 2, IMAGE_FLUSH, 0, 0, false, NULL);
    bench->verdict = FAKE_GO;
    assert_true(fake_loop_step(bench->loops[0])); /* the sync in flight ends */
    bench->verdict = FAKE_HOLD;
    bench_settle(bench);
    assert_int_equal(first.answers, 1);
    assert_int_equal(later[0].answers + later[1].answers + later[2].answers, 0);
    bench_end_syncs(bench, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(later[i].answers, 1);
        assert_int_equal(later[i].result, 0);
    }
    assert_int_equal(first.result, 0);
    assert_int_equal(bench->tried[FAKE_FDATASYNC], 2);
}

/* A stable write that fails while a sync runs makes that sync's success worth nothing. */
static void test_a_sync_beside_a_failed_stable_write(void **state)
{
    struct bench *bench = *state;
    struct command flush;

    bench_set_content(bench, VOLUME_DATA, 0, 0);
    bench_hold_syncs(bench);
    command_submit(&flush, bench, 1, IMAGE_FLUSH, 0, 0, false, NULL);
    bench_settle(bench);
    bench->kind = FAKE_WRITE;
    bench->verdict = FAKE_FAIL;
    bench->result = -EIO;
    fake_loop_hook(bench->loops[1], NULL, NULL);
    /* Only loop 0 goes on: loop 1's sync is still in flight when the write fails. */
    {
        struct command write;
        command_submit(&write, bench, 0, IMAGE_WRITE, 0, 1, true, buffer);
        fake_loop_settle(bench->loops[0]);
        assert_int_equal(write.result, -EIO);
        assert_int_equal(flush.answers, 0);
    }
    bench_settle(bench);
    assert_int_equal(flush.answers, 1);
    assert_int_equal(flush.result, E_WRITE_FAILED);
}

/* Any order, any loop, one random failure: nobody is told 0 for a flush after the failure, nor answered
 * twice. */
static void test_seeds(void **state)
{
    struct bench *bench = *state;

    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct command commands[24];
        bench->saved.write_failed = false;
        bench_set_content(bench, VOLUME_BLANK, 0, 0);
        for (unsigned i = 0; i < 2; i++) {
            fake_loop_seed(bench->loops[i], seed * 2 + i);
            fake_loop_chances(bench->loops[i], 30, 200);
        }
        for (unsigned i = 0; i < 24; i++)
            command_submit(&commands[i], bench, i % 2, i % 3 ? IMAGE_WRITE : IMAGE_FLUSH, i, 1, i % 4 == 1,
                           buffer);
        fake_loops_settle(bench->loops, 2, seed);
        for (unsigned i = 0; i < 24; i++) {
            bool stable = commands[i].io.verb == IMAGE_FLUSH || commands[i].io.fua;
            if (commands[i].answers != 1)
                fail_msg("seed %llu: command %u was answered %d times", (unsigned long long)seed, i,
                         commands[i].answers);
            if ((stable && commands[i].result == -EIO) || commands[i].result == E_WRITE_FAILED)
                assert_true(commands[i].saved_write_failed);
        }
        assert_int_equal(bench->saved.write_failed, volume_write_failed(bench->volume));
    }
}

int image_guard_tests_run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_record_says_data_before_the_first_change, bench_setup,
                                        bench_teardown),
        cmocka_unit_test_setup_teardown(test_many_first_writes_need_one_record, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_no_record_no_change, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_the_formatting_writer_keeps_formatting, bench_setup,
                                        bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_failed_flush_is_everybodys_and_stays, bench_setup,
                                        bench_teardown),
        cmocka_unit_test_setup_teardown(test_nobody_is_answered_before_the_record, bench_setup,
                                        bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_clear_beside_a_new_failure, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_failure_that_cannot_be_recorded, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_failed_stable_writes, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_flushes_share_only_a_later_sync, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_sync_beside_a_failed_stable_write, bench_setup,
                                        bench_teardown),
        cmocka_unit_test_setup_teardown(test_seeds, bench_setup, bench_teardown),
    };

    return cmocka_run_group_tests_name("image_guard", tests, NULL, NULL);
}
