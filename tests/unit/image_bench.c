/* The image's test bench: image.c, volume.c and the pool's data file are the real ones; records go to memory.
 */
#include "tests/unit/image_test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VOLUME "store-1.9f86d081884c7d65"

static struct bench *current;

static int bench_save(struct backend *backend, const struct volume_record *record, struct error *err)
{
    struct volume_record copy;

    assert_ptr_equal(backend, &current->backend);
    if (current->save_result)
        return error_set(err, current->save_result, "the test said so");
    assert_int_equal(volume_record_copy(&copy, record), 0);
    volume_record_done(&current->saved);
    current->saved = copy;
    current->saves++;
    return 0;
}

static const struct backend_ops bench_ops = {
    .name = "bench",
    .volume_save = bench_save,
    .volume_used = pool_volume_used,
    .image_open = pool_image_open,
    .image_close = pool_image_close,
    .image_extent = pool_image_extent,
    .image_discard_all = pool_image_discard_all,
    .image_start = pool_image_start,
};

static enum fake_verdict bench_hook(void *context, const struct fake_op *op, int *ret_res)
{
    struct bench *bench = context;

    if (bench->check_marked && (op->kind == FAKE_WRITE || op->kind == FAKE_FALLOCATE))
        assert_int_equal(bench->saved.content, VOLUME_DATA);
    bench->stable_writes += op->kind == FAKE_WRITE && (op->flags & LOOP_RWF_DSYNC);
    if (op->kind != bench->kind || (bench->mode && op->flags != bench->mode)) {
        bench->tried[op->kind]++;
        return FAKE_GO;
    }
    if (bench->verdict != FAKE_HOLD)
        bench->tried[op->kind]++;
    *ret_res = bench->result;
    return bench->verdict;
}

static void bench_open(struct bench *bench)
{
    struct volume_record record;

    assert_int_equal(volume_record_copy(&record, &bench->saved), 0);
    assert_int_equal(volume_new(&bench->store, &record, &bench->volume, NULL), 0);
    assert_int_equal(volume_image(bench->volume, &bench->image, NULL), 0);
}

int bench_setup(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    int dir_fd, fd;

    assert_non_null(bench);
    current = bench;
    bench->kind = FAKE_KINDS;
    strcpy(bench->dir, "image-test-XXXXXX");
    assert_non_null(mkdtemp(bench->dir));
    bench->backend.path = bench->dir;
    bench->backend.volumes_fd = open(bench->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(mkdirat(bench->backend.volumes_fd, VOLUME, 0700), 0);
    dir_fd = openat(bench->backend.volumes_fd, VOLUME, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fd = openat(dir_fd, POOL_DATA_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, BENCH_BLOCKS * BENCH_BLOCK), 0);
    close(fd);
    close(dir_fd);
    bench->store.ops = &bench_ops;
    bench->store.backend = &bench->backend;
    strcpy(bench->saved.id, VOLUME);
    strcpy(bench->saved.name, "test");
    bench->saved.size_bytes = BENCH_BLOCKS * BENCH_BLOCK;
    bench->saved.block_size_bytes = BENCH_BLOCK;
    bench_open(bench);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(loop_new(&bench->loops[i], &(struct loop_options){0}, NULL), 0);
        fake_loop_hook(bench->loops[i], bench_hook, bench);
    }
    *state = bench;
    return 0;
}

int bench_teardown(void **state)
{
    struct bench *bench = *state;
    char path[128];

    volume_unref(bench->volume);
    for (int i = 0; i < 2; i++)
        loop_free(bench->loops[i]);
    volume_record_done(&bench->saved);
    snprintf(path, sizeof(path), "%s/%s/%s", bench->dir, VOLUME, POOL_DATA_FILE);
    unlink(path);
    snprintf(path, sizeof(path), "%s/%s", bench->dir, VOLUME);
    rmdir(path);
    rmdir(bench->dir);
    close(bench->backend.volumes_fd);
    free(bench);
    return 0;
}

void bench_restart(struct bench *bench)
{
    bench->volume = volume_unref(bench->volume);
    bench_open(bench);
}

void bench_settle(struct bench *bench)
{
    fake_loops_settle(bench->loops, 2, 5);
}

void bench_set_content(struct bench *bench, enum volume_content content, uint64_t epoch, uint64_t generation)
{
    bench->saved.content = content;
    bench->saved.formatting_epoch = epoch;
    bench->saved.formatting_generation = generation;
    bench_restart(bench);
}

static void command_done(struct image_io *io, int result)
{
    struct command *command = container_of(io, struct command, io);

    assert_ptr_equal(loop_current(), io->loop);
    command->answers++;
    command->result = result;
    command->saved_write_failed = command->bench->saved.write_failed;
}

void command_submit(struct command *command, struct bench *bench, unsigned loop, enum image_verb verb,
                    unsigned block, unsigned blocks, bool fua, void *buffer)
{
    *command = (struct command){
        .io = {.verb = verb,
               .fua = fua,
               .offset = (uint64_t)block * BENCH_BLOCK,
               .length = (uint64_t)blocks * BENCH_BLOCK,
               .iov = {buffer, (size_t)blocks * BENCH_BLOCK},
               .epoch = 1,
               .generation = 1,
               .allocate = verb == IMAGE_WRITE_ZEROES,
               .done = command_done},
        .bench = bench,
    };
    image_submit(bench->image, bench->loops[loop], &command->io);
    assert_int_equal(command->answers, 0);
}

int command_run(struct bench *bench, enum image_verb verb, unsigned block, unsigned blocks, bool fua,
                void *buffer)
{
    struct command command;

    command_submit(&command, bench, 0, verb, block, blocks, fua, buffer);
    bench_settle(bench);
    assert_int_equal(command.answers, 1);
    return command.result;
}
