/* The image's test bench: image.c, volume.c and the pool's data files are the real ones; records go to
 * memory.
 */
#include "tests/unit/image_test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VOLUME "store-1.9f86d081884c7d65"
#define OTHER "store-1.60303ae22b998861"

static struct bench *current;

static int bench_save(struct backend *backend, const struct volume_record *record, struct error *err)
{
    struct volume_record *saved = strcmp(record->id, OTHER) == 0 ? &current->other_saved : &current->saved;
    struct volume_record copy;

    assert_ptr_equal(backend, &current->backend);
    if (current->save_result)
        return error_set(err, current->save_result, "the test said so");
    assert_int_equal(volume_record_copy(&copy, record), 0);
    volume_record_done(saved);
    *saved = copy;
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

static const char *volume_key(const void *item)
{
    return volume_id(item);
}

static void open_one(struct bench *bench, const struct volume_record *saved, struct volume **ret,
                     struct image **ret_image)
{
    struct volume_record record;

    assert_int_equal(volume_record_copy(&record, saved), 0);
    assert_int_equal(volume_new(&bench->store, &record, ret, NULL), 0);
    assert_int_equal(volume_image(*ret, ret_image, NULL), 0);
    assert_int_equal(index_insert(&bench->store.volumes, *ret), 0);
}

static void bench_open(struct bench *bench)
{
    open_one(bench, &bench->saved, &bench->volume, &bench->image);
    open_one(bench, &bench->other_saved, &bench->other, &bench->other_image);
}

static void bench_close(struct bench *bench)
{
    index_remove(&bench->store.volumes, VOLUME);
    index_remove(&bench->store.volumes, OTHER);
    volume_unref(bench->volume);
    volume_unref(bench->other);
}

static void make_volume(struct bench *bench, const char *id, struct volume_record *record)
{
    int dir_fd, fd;

    assert_int_equal(mkdirat(bench->backend.volumes_fd, id, 0700), 0);
    dir_fd = openat(bench->backend.volumes_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fd = openat(dir_fd, POOL_DATA_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, BENCH_BLOCKS * BENCH_BLOCK), 0);
    close(fd);
    close(dir_fd);
    strcpy(record->id, id);
    strcpy(record->name, "test");
    record->size_bytes = BENCH_BLOCKS * BENCH_BLOCK;
    record->block_size_bytes = BENCH_BLOCK;
}

static void remove_volume(struct bench *bench, const char *id)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s/%s", bench->dir, id, POOL_DATA_FILE);
    unlink(path);
    snprintf(path, sizeof(path), "%s/%s", bench->dir, id);
    rmdir(path);
}

int bench_setup(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));

    assert_non_null(bench);
    current = bench;
    bench->kind = FAKE_KINDS;
    strcpy(bench->dir, "image-test-XXXXXX");
    assert_non_null(mkdtemp(bench->dir));
    bench->backend.path = bench->dir;
    bench->backend.volumes_fd = open(bench->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bench->store.ops = &bench_ops;
    bench->store.backend = &bench->backend;
    bench->store.volumes.key = volume_key;
    pthread_rwlock_init(&bench->store.index_lock, NULL);
    make_volume(bench, VOLUME, &bench->saved);
    make_volume(bench, OTHER, &bench->other_saved);
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

    bench_close(bench);
    index_done(&bench->store.volumes);
    pthread_rwlock_destroy(&bench->store.index_lock);
    for (int i = 0; i < 2; i++)
        loop_free(bench->loops[i]);
    volume_record_done(&bench->saved);
    volume_record_done(&bench->other_saved);
    remove_volume(bench, VOLUME);
    remove_volume(bench, OTHER);
    rmdir(bench->dir);
    close(bench->backend.volumes_fd);
    free(bench);
    return 0;
}

void bench_restart(struct bench *bench)
{
    bench_close(bench);
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
    command->saved_write_failed = io->image == command->bench->image
                                      ? command->bench->saved.write_failed
                                      : command->bench->other_saved.write_failed;
}

static void submit_to(struct image *image, struct command *command, struct bench *bench, unsigned loop,
                      enum image_verb verb, unsigned block, unsigned blocks, bool fua, void *buffer)
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
    image_submit(image, bench->loops[loop], &command->io);
    assert_int_equal(command->answers, 0);
}

void command_submit(struct command *command, struct bench *bench, unsigned loop, enum image_verb verb,
                    unsigned block, unsigned blocks, bool fua, void *buffer)
{
    submit_to(bench->image, command, bench, loop, verb, block, blocks, fua, buffer);
}

void command_submit_other(struct command *command, struct bench *bench, unsigned loop, enum image_verb verb,
                          unsigned block, unsigned blocks, bool fua, void *buffer)
{
    submit_to(bench->other_image, command, bench, loop, verb, block, blocks, fua, buffer);
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

int command_run_other(struct bench *bench, enum image_verb verb, unsigned block, unsigned blocks, bool fua,
                      void *buffer)
{
    struct command command;

    command_submit_other(&command, bench, 0, verb, block, blocks, fua, buffer);
    bench_settle(bench);
    assert_int_equal(command.answers, 1);
    return command.result;
}
