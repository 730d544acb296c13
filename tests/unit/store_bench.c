/* The fixture of the tests of snapshots and copies: see store_bench.h. */
#include "tests/unit/store_bench.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/time.h"

void bench_open(struct bench *bench, void **state, uint64_t size_bytes)
{
    struct volume_record spec = fixture_spec(1);

    bench->fixture = fixture_ready(state);
    spec.size_bytes = size_bytes;
    fixture_empty(bench->fixture);
    shares_allow(-1);
    shares_reset();
    bench->store = fixture_open(bench->fixture);
    bench->volume = fixture_create(bench->store, &spec);
    assert_int_equal(volume_image(bench->volume, &bench->image, NULL), E_OK);
    test_loop_start(&bench->loop);
}

void bench_close(struct bench *bench)
{
    shares_allow(-1);
    test_loop_stop(&bench->loop);
    volume_unref(bench->volume);
    store_close(bench->store);
}

void bench_reopen(struct bench *bench)
{
    test_loop_stop(&bench->loop);
    volume_unref(bench->volume);
    store_close(bench->store);
    bench->store = fixture_open(bench->fixture);
    bench->volume = store_volume_find(bench->store, FIXTURE_SERVER ".0000000000000001");
    assert_non_null(bench->volume);
    assert_int_equal(volume_image(bench->volume, &bench->image, NULL), E_OK);
    test_loop_start(&bench->loop);
}

void bench_write(struct bench *bench, uint64_t offset, uint64_t length, int byte)
{
    for (uint64_t done = 0; done < length; done += MIN(length - done, (uint64_t)IMAGE_IO_MAX))
        test_io_run(&bench->loop, bench->image, IMAGE_WRITE, offset + done,
                    MIN(length - done, (uint64_t)IMAGE_IO_MAX), byte, NULL);
}

struct snapshot_record bench_snapshot_spec(unsigned n)
{
    struct snapshot_record spec = {0};

    snprintf(spec.id, sizeof(spec.id), FIXTURE_SERVER ".s-%016x", n);
    snprintf(spec.name, sizeof(spec.name), "snapshot-%u", n);
    return spec;
}

struct snapshot *bench_snapshot(struct bench *bench, unsigned n)
{
    struct snapshot_record spec = bench_snapshot_spec(n);
    struct snapshot *snapshot = NULL;
    struct error err = {0};

    if (store_snapshot_create(bench->store, bench->volume, &spec, &snapshot, &err) != E_OK)
        fail_msg("snapshot: %s", error_text(&err));
    return snapshot;
}

void bench_wait_ready(struct snapshot *snapshot)
{
    struct error err = {0};

    if (snapshot_wait(snapshot, time_now_ms() + 60000, &err) != E_OK)
        fail_msg("snapshot: %s", error_text(&err));
    assert_int_equal(snapshot_progress_percent(snapshot), 100);
}

char *bench_data(const struct fixture *fixture, const char *kind, const char *id, size_t *ret_size)
{
    struct stat status;
    char path[256], *data;
    int fd;

    snprintf(path, sizeof(path), "%s/%s/%s/data", fixture->pool, kind, id);
    fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &status), 0);
    data = aligned_alloc(4096, ROUND_UP((size_t)status.st_size, 4096));
    assert_non_null(data);
    assert_int_equal(pread(fd, data, ROUND_UP((size_t)status.st_size, 4096), 0), status.st_size);
    close(fd);
    *ret_size = (size_t)status.st_size;
    return data;
}
