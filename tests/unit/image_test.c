/* Unit test of the image: bytes go where they should. Its guards are tested in image_guard_test.c. */
#include "tests/unit/image_test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "common/size.h"

static _Alignas(4096) char buffer[BENCH_BLOCKS * BENCH_BLOCK];
static _Alignas(4096) char zeroes[BENCH_BLOCKS * BENCH_BLOCK];

/* Random commands, in flight one at a time, with short transfers, against a copy in memory. */
static void test_bytes_match_a_model(void **state)
{
    static char model[BENCH_BLOCKS * BENCH_BLOCK];
    struct bench *bench = *state;
    unsigned seed = 11;

    fake_loop_chances(bench->loops[0], 0, 500);
    for (int i = 0; i < 400; i++) {
        enum image_verb verb = (enum image_verb)(rand_r(&seed) % 5);
        unsigned block = (unsigned)rand_r(&seed) % BENCH_BLOCKS;
        unsigned blocks = 1 + (unsigned)rand_r(&seed) % MIN(16u, BENCH_BLOCKS - block);
        char *at = model + (size_t)block * BENCH_BLOCK;
        size_t length = (size_t)blocks * BENCH_BLOCK;

        memset(buffer, i, length);
        assert_int_equal(command_run(bench, verb, block, blocks, rand_r(&seed) % 2, buffer), 0);
        if (verb == IMAGE_READ)
            assert_memory_equal(buffer, at, length);
        if (verb == IMAGE_WRITE)
            memcpy(at, buffer, length);
        if (verb == IMAGE_UNMAP || verb == IMAGE_WRITE_ZEROES)
            memset(at, 0, length);
    }
    assert_int_equal(command_run(bench, IMAGE_READ, 0, BENCH_BLOCKS, false, buffer), 0);
    assert_memory_equal(buffer, model, sizeof(model));
}

static void test_what_does_not_fit_is_out_of_range(void **state)
{
    struct bench *bench = *state;
    struct command command;

    assert_int_equal(command_run(bench, IMAGE_READ, BENCH_BLOCKS, 1, false, buffer), E_OUT_OF_RANGE);
    assert_int_equal(command_run(bench, IMAGE_WRITE, BENCH_BLOCKS - 1, 2, false, buffer), E_OUT_OF_RANGE);
    assert_int_equal(command_run(bench, IMAGE_UNMAP, 0, BENCH_BLOCKS + 1, false, NULL), E_OUT_OF_RANGE);
    assert_int_equal(command_run(bench, IMAGE_WRITE_ZEROES, UINT32_MAX, 1, false, NULL), E_OUT_OF_RANGE);
    command_submit(&command, bench, 0, IMAGE_FLUSH, 0, 0, false, NULL);
    bench_settle(bench);
    command.io.verb = IMAGE_WRITE;
    command.io.offset = 512; /* not a multiple of the block */
    command.io.length = BENCH_BLOCK;
    image_submit(bench->image, bench->loops[0], &command.io);
    bench_settle(bench);
    assert_int_equal(command.result, E_OUT_OF_RANGE);
    assert_int_equal(bench->tried[FAKE_READ] + bench->tried[FAKE_WRITE] + bench->tried[FAKE_FALLOCATE], 0);
    assert_int_equal(bench->saved.content, VOLUME_BLANK);
}

static void test_an_early_end_of_the_file_is_an_error(void **state)
{
    struct bench *bench = *state;

    bench->kind = FAKE_READ;
    bench->verdict = FAKE_FAIL;
    bench->result = 0;
    assert_int_equal(command_run(bench, IMAGE_READ, 0, 1, false, buffer), -EIO);
}

static void test_a_file_system_without_zero_range(void **state)
{
    struct bench *bench = *state;
    uint64_t used;

    memset(buffer, 'x', sizeof(buffer));
    assert_int_equal(command_run(bench, IMAGE_WRITE, 0, 8, false, buffer), 0);
    bench->kind = FAKE_FALLOCATE;
    bench->mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    bench->verdict = FAKE_FAIL;
    bench->result = -EOPNOTSUPP;
    assert_int_equal(command_run(bench, IMAGE_WRITE_ZEROES, 2, 4, true, NULL), 0);
    assert_int_equal(bench->tried[FAKE_FALLOCATE], 3);
    assert_int_equal(bench->tried[FAKE_FDATASYNC], 1);
    assert_int_equal(command_run(bench, IMAGE_READ, 0, 8, false, zeroes), 0);
    assert_memory_equal(zeroes, buffer, 2 * BENCH_BLOCK);
    memset(buffer, 0, 4 * BENCH_BLOCK);
    assert_memory_equal(zeroes + 2 * BENCH_BLOCK, buffer, 4 * BENCH_BLOCK);
    assert_int_equal(volume_used_bytes(bench->volume, &used, NULL), 0);
    assert_true(used >= 8 * BENCH_BLOCK); /* the space is kept */
}

static void test_extents_and_discard(void **state)
{
    struct bench *bench = *state;
    uint64_t length = 0, used = 1;
    bool mapped = false;

    memset(buffer, 'x', sizeof(buffer));
    assert_int_equal(command_run(bench, IMAGE_WRITE, 8, 4, true, buffer), 0);
    assert_int_equal(image_extent(bench->image, 0, BENCH_BLOCKS * BENCH_BLOCK, &mapped, &length), 0);
    assert_false(mapped);
    assert_int_equal(length, 8 * BENCH_BLOCK);
    assert_int_equal(image_extent(bench->image, 9 * BENCH_BLOCK, 40 * BENCH_BLOCK, &mapped, &length), 0);
    assert_true(mapped);
    assert_int_equal(length, 3 * BENCH_BLOCK);
    assert_int_equal(image_extent(bench->image, 9 * BENCH_BLOCK, BENCH_BLOCK, &mapped, &length), 0);
    assert_int_equal(length, BENCH_BLOCK);
    assert_int_equal(image_extent(bench->image, 12 * BENCH_BLOCK, 52 * BENCH_BLOCK, &mapped, &length), 0);
    assert_false(mapped);
    assert_int_equal(length, 52 * BENCH_BLOCK);
    assert_int_equal(image_extent(bench->image, 12 * BENCH_BLOCK, 53 * BENCH_BLOCK, &mapped, &length),
                     E_OUT_OF_RANGE);
    assert_int_equal(image_discard_all(bench->image, NULL), 0);
    assert_int_equal(volume_used_bytes(bench->volume, &used, NULL), 0);
    assert_int_equal(used, 0);
}

static void test_a_short_data_file_is_refused(void **state)
{
    struct bench *bench = *state;
    struct image *image = NULL;
    _cleanup_error_ struct error err = {0};

    bench->saved.size_bytes += BENCH_BLOCK;
    bench->volume->record.size_bytes += BENCH_BLOCK;
    assert_int_equal(image_new(bench->volume, &image, &err), E_CORRUPT);
    assert_null(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bytes_match_a_model, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_what_does_not_fit_is_out_of_range, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_an_early_end_of_the_file_is_an_error, bench_setup,
                                        bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_file_system_without_zero_range, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_extents_and_discard, bench_setup, bench_teardown),
        cmocka_unit_test_setup_teardown(test_a_short_data_file_is_refused, bench_setup, bench_teardown),
    };
    int failed = cmocka_run_group_tests_name("image", tests, NULL, NULL);

    return failed + image_guard_tests_run() + image_stable_tests_run() + image_flush_tests_run();
}
