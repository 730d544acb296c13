/*
 * The image on real loops, two threads at once: every command is answered once, on its own loop, and reads
 * give what was written. Meant for the thread sanitizer as well.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/store/pool/pool_internal.h"
#include "datapath/store/store_internal.h"

#define VOLUME "store-1.9f86d081884c7d65"
#define BLOCK 4096u
#define WORKERS 2u
#define LANES 8u  /* commands in flight of a worker; each has a block of its own */
#define TURNS 200 /* of a lane */

static atomic_int saves;

static int count_save(struct backend *backend, const struct volume_record *record, struct error *err)
{
    (void)backend;
    (void)err;
    assert_int_equal(record->content, VOLUME_DATA);
    atomic_fetch_add(&saves, 1);
    return 0;
}

static const struct backend_ops ops = {
    .name = "threads",
    .volume_save = count_save,
    .image_open = pool_image_open,
    .image_close = pool_image_close,
    .image_start = pool_image_start,
};

struct worker;

struct lane {
    struct image_io io;
    struct worker *worker;
    unsigned turn, seed;
    bool zero; /* what the block holds: zeroes, or `turn` of the last write */
    unsigned char value;
    char *buffer;
};

struct worker {
    pthread_t thread;
    struct image *image;
    struct loop *loop;
    struct lane lanes[LANES];
    unsigned first_block, ended;
};

static void lane_start(struct lane *lane)
{
    static const enum image_verb verbs[] = {IMAGE_WRITE, IMAGE_READ, IMAGE_FLUSH, IMAGE_WRITE_ZEROES};

    lane->io.verb = verbs[(unsigned)rand_r(&lane->seed) % ARRAY_SIZE(verbs)];
    lane->io.fua = rand_r(&lane->seed) % 2;
    if (lane->io.verb == IMAGE_WRITE) {
        lane->value = (unsigned char)(lane->turn + 1);
        memset(lane->buffer, lane->value, BLOCK);
    }
    image_submit(lane->worker->image, lane->worker->loop, &lane->io);
}

static void lane_done(struct image_io *io, int result)
{
    struct lane *lane = container_of(io, struct lane, io);

    assert_int_equal(result, 0);
    assert_ptr_equal(loop_current(), lane->worker->loop);
    if (io->verb == IMAGE_READ)
        for (unsigned i = 0; i < BLOCK; i++)
            assert_int_equal((unsigned char)lane->buffer[i], lane->zero ? 0 : lane->value);
    if (io->verb == IMAGE_WRITE || io->verb == IMAGE_WRITE_ZEROES)
        lane->zero = io->verb == IMAGE_WRITE_ZEROES;
    if (++lane->turn < TURNS)
        lane_start(lane);
    else if (++lane->worker->ended == LANES)
        loop_stop(lane->worker->loop);
}

static void *worker_run(void *context)
{
    struct worker *worker = context;

    for (unsigned i = 0; i < LANES; i++) {
        struct lane *lane = &worker->lanes[i];
        lane->buffer = aligned_alloc(IMAGE_ALIGN, BLOCK);
        assert_non_null(lane->buffer);
        lane->worker = worker;
        lane->zero = true;
        lane->seed = worker->first_block + i;
        lane->io = (struct image_io){.offset = (uint64_t)(worker->first_block + i) * BLOCK,
                                     .length = BLOCK,
                                     .iov = {lane->buffer, BLOCK},
                                     .done = lane_done};
        lane_start(lane);
    }
    loop_run(worker->loop);
    for (unsigned i = 0; i < LANES; i++) {
        assert_int_equal(worker->lanes[i].turn, TURNS);
        free(worker->lanes[i].buffer);
    }
    loop_drain(worker->loop);
    return NULL;
}

static void make_file(int dir_fd)
{
    int fd;

    assert_int_equal(mkdirat(dir_fd, VOLUME, 0700), 0);
    fd = openat(dir_fd, VOLUME "/" POOL_DATA_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, WORKERS * LANES * BLOCK), 0);
    close(fd);
}

static void test_two_loops_at_once(void **state)
{
    char dir[] = "image-threads-XXXXXX";
    struct backend backend = {.path = dir};
    struct store store = {.ops = &ops, .backend = &backend};
    struct volume_record record = {
        .id = VOLUME, .size_bytes = (uint64_t)WORKERS * LANES * BLOCK, .block_size_bytes = BLOCK};
    static struct worker workers[WORKERS];
    struct volume *volume;

    (void)state;
    assert_non_null(mkdtemp(dir));
    backend.volumes_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    make_file(backend.volumes_fd);
    assert_int_equal(volume_new(&store, &record, &volume, NULL), 0);
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(volume_image(volume, &workers[i].image, NULL), 0);
        assert_int_equal(loop_new(&workers[i].loop, &(struct loop_options){.spin_us = 20}, NULL), 0);
        workers[i].first_block = i * LANES;
    }
    for (unsigned i = 0; i < WORKERS; i++)
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]), 0);
    for (unsigned i = 0; i < WORKERS; i++)
        pthread_join(workers[i].thread, NULL);
    for (unsigned i = 0; i < WORKERS; i++)
        loop_free(workers[i].loop);
    assert_int_equal(atomic_load(&saves), 1);
    assert_false(volume_write_failed(volume));
    volume_unref(volume);
    unlinkat(backend.volumes_fd, VOLUME "/" POOL_DATA_FILE, 0);
    unlinkat(backend.volumes_fd, VOLUME, AT_REMOVEDIR);
    close(backend.volumes_fd);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_two_loops_at_once)};

    return cmocka_run_group_tests_name("image_threads", tests, NULL, NULL);
}
