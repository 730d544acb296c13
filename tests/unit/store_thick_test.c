/*
 * Unit test of thick volumes, on a real XFS: what a volume was given stays its own, whatever is deallocated,
 * so that a full pool does not matter to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/store_bench.h"

#define SIZE (8 * MIB)

static _Alignas(4096) char buffer[MIB];

/* bench_open() with a thick volume, on a pool that promises more than it has, and written all over. */
static void thick_open(struct bench *bench, void **state)
{
    struct volume_record spec = fixture_spec(1);

    *bench = (struct bench){.fixture = fixture_ready(state)};
    shares_allow(-1);
    fixture_empty(bench->fixture);
    assert_true(bench->fixture->options.overcommit);
    bench->store = fixture_open(bench->fixture);
    spec.size_bytes = SIZE;
    spec.thick = true;
    bench->volume = fixture_create(bench->store, &spec);
    assert_int_equal(volume_image(bench->volume, &bench->image, NULL), E_OK);
    test_loop_start(&bench->loop);
    bench_write(bench, 0, SIZE, 'x');
}

static uint64_t space(const struct bench *bench)
{
    uint64_t used;

    assert_int_equal(volume_used_bytes(bench->volume, &used, NULL), E_OK);
    return used;
}

static void assert_all(struct bench *bench, uint64_t offset, uint64_t length, char byte)
{
    test_io_run(&bench->loop, bench->image, IMAGE_READ, offset, length, 0, buffer);
    for (uint64_t i = 0; i < length; i++)
        assert_int_equal(buffer[i], byte);
}

/* All that the file system has left goes to a file of somebody else's. */
static void fill_pool(const struct bench *bench, char path[128])
{
    snprintf(path, 128, "%s/filler", bench->fixture->pool);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    for (off_t end = 0, size = 64 * MIB; size >= 4096;) {
        if (fallocate(fd, 0, end, size) == 0)
            end += size;
        else
            size /= 2;
    }
    close(fd);
}

static void what_is_deallocated_stays_allocated(void **state)
{
    struct bench bench;
    char filler[128];

    thick_open(&bench, state);
    assert_true(space(&bench) >= SIZE);
    test_io_run(&bench.loop, bench.image, IMAGE_UNMAP, MIB, MIB, 0, NULL);
    assert_true(space(&bench) >= SIZE);
    assert_all(&bench, MIB, MIB, 0);
    assert_all(&bench, 0, MIB, 'x');
    assert_all(&bench, 2 * MIB, MIB, 'x');

    fill_pool(&bench, filler);
    test_io_run(&bench.loop, bench.image, IMAGE_UNMAP, 3 * MIB, MIB, 0, NULL); /* also while it is full */
    bench_write(&bench, MIB, MIB, 'y');
    bench_write(&bench, 3 * MIB, MIB, 'z');
    assert_all(&bench, MIB, MIB, 'y');
    assert_all(&bench, 3 * MIB, MIB, 'z');
    assert_int_equal(unlink(filler), 0);
    bench_close(&bench);
}

static void a_second_format_leaves_it_allocated(void **state)
{
    struct bench bench;
    char filler[128];

    thick_open(&bench, state);
    assert_int_equal(image_discard_all(bench.image, NULL), E_OK);
    assert_true(space(&bench) >= SIZE);
    for (uint64_t offset = 0; offset < SIZE; offset += MIB)
        assert_all(&bench, offset, MIB, 0);
    fill_pool(&bench, filler);
    for (uint64_t offset = 0; offset < SIZE; offset += MIB)
        bench_write(&bench, offset, MIB, 'y');
    assert_int_equal(unlink(filler), 0);
    bench_close(&bench);
}

/* The same on a thin volume: it gives its space back. */
static void a_thin_volume_gives_it_back(void **state)
{
    struct bench bench;

    bench_open(&bench, state, SIZE);
    bench_write(&bench, 0, SIZE, 'x');
    test_io_run(&bench.loop, bench.image, IMAGE_UNMAP, MIB, MIB, 0, NULL);
    assert_true(space(&bench) <= SIZE - MIB);
    assert_int_equal(image_discard_all(bench.image, NULL), E_OK);
    assert_int_equal(space(&bench), 0);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_deallocated_stays_allocated),
        cmocka_unit_test(a_second_format_leaves_it_allocated),
        cmocka_unit_test(a_thin_volume_gives_it_back),
    };

    return cmocka_run_group_tests_name("store_thick", tests, fixture_setup, fixture_teardown);
}
