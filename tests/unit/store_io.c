/* Commands on a loop of their own, and a door before FICLONERANGE: see store_io.h. */
#include "tests/unit/store_io.h"

#include <errno.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/time.h"

/* ---- the loop ---- */

static void *run(void *context)
{
    struct test_loop *of = context;

    loop_run(of->loop);
    loop_drain(of->loop);
    return NULL;
}

void test_loop_start(struct test_loop *to)
{
    assert_int_equal(loop_new(&to->loop, &(struct loop_options){0}, NULL), 0);
    assert_int_equal(pthread_create(&to->thread, NULL, run, to), 0);
}

void test_loop_stop(struct test_loop *to)
{
    loop_stop(to->loop);
    pthread_join(to->thread, NULL);
    loop_free(to->loop);
}

static void io_done(struct image_io *image_io, int result)
{
    struct test_io *io = container_of(image_io, struct test_io, io);

    pthread_mutex_lock(&io->lock);
    io->done = true;
    io->ended_ns = time_now_ns();
    io->result = result;
    pthread_cond_broadcast(&io->changed);
    pthread_mutex_unlock(&io->lock);
}

static void io_submit(struct loop_message *message)
{
    struct test_io *io = container_of(message, struct test_io, message);

    io->began_ns = time_now_ns();
    image_submit(io->image, loop_current(), &io->io);
}

struct test_io *test_io_start(struct test_loop *on, struct image *image, enum image_verb verb,
                              uint64_t offset, uint64_t length, int byte, const void *buffer)
{
    struct test_io *io = calloc(1, sizeof(*io));

    assert_non_null(io);
    pthread_mutex_init(&io->lock, NULL);
    pthread_cond_init(&io->changed, NULL);
    io->image = image;
    io->io = (struct image_io){.verb = verb,
                               .offset = offset,
                               .length = length,
                               .done = io_done,
                               .allocate = byte == 'a',
                               .epoch = 1,
                               .generation = 1};
    if (verb == IMAGE_READ || verb == IMAGE_WRITE) {
        io->buffer = aligned_alloc(IMAGE_ALIGN, ROUND_UP(length, IMAGE_ALIGN));
        assert_non_null(io->buffer);
        if (buffer && verb == IMAGE_WRITE)
            memcpy(io->buffer, buffer, length);
        else
            memset(io->buffer, byte, length);
        io->io.iov = (struct iovec){io->buffer, length};
    }
    io->message.run = io_submit;
    loop_post(on->loop, &io->message);
    return io;
}

bool test_io_is_done(struct test_io *io)
{
    bool done;

    pthread_mutex_lock(&io->lock);
    done = io->done;
    pthread_mutex_unlock(&io->lock);
    return done;
}

uint64_t test_io_wait(struct test_io *io)
{
    uint64_t took_ns;

    pthread_mutex_lock(&io->lock);
    while (!io->done)
        pthread_cond_wait(&io->changed, &io->lock);
    took_ns = io->ended_ns - io->began_ns;
    pthread_mutex_unlock(&io->lock);
    return took_ns;
}

int test_io_end(struct test_io *io, void *ret_buffer)
{
    int result;

    test_io_wait(io);
    result = io->result;
    if (ret_buffer && io->io.verb == IMAGE_READ)
        memcpy(ret_buffer, io->buffer, io->io.length);
    pthread_mutex_destroy(&io->lock);
    pthread_cond_destroy(&io->changed);
    free(io->buffer);
    free(io);
    return result;
}

void test_io_run(struct test_loop *on, struct image *image, enum image_verb verb, uint64_t offset,
                 uint64_t length, int byte, void *buffer)
{
    assert_int_equal(test_io_end(test_io_start(on, image, verb, offset, length, byte, buffer), buffer), 0);
}

/* ---- the door ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int allowed; /* negative: all */
    int waiting, count;
    uint64_t offsets[SHARES_MAX];
    int fail_index, fail_errnum;
    uint64_t longest_ns;
} door = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .allowed = -1, .fail_index = -1};

/* Its turn, or the errno that it is to fail with. */
static int pass(uint64_t offset)
{
    int errnum = 0;

    pthread_mutex_lock(&door.lock);
    door.waiting++;
    pthread_cond_broadcast(&door.changed);
    while (door.allowed == 0)
        pthread_cond_wait(&door.changed, &door.lock);
    door.waiting--;
    if (door.allowed > 0)
        door.allowed--;
    if (door.count == door.fail_index)
        errnum = door.fail_errnum;
    if (door.count < SHARES_MAX)
        door.offsets[door.count] = offset;
    door.count++;
    pthread_cond_broadcast(&door.changed);
    pthread_mutex_unlock(&door.lock);
    return errnum;
}

static void took(uint64_t ns)
{
    int saved = errno;

    pthread_mutex_lock(&door.lock);
    door.longest_ns = MAX(door.longest_ns, ns);
    pthread_mutex_unlock(&door.lock);
    errno = saved;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;
    int errnum = 0;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (request == FICLONERANGE)
        errnum = pass(((const struct file_clone_range *)argument)->src_offset);
    if (errnum == 0) {
        uint64_t began_ns = time_now_ns();
        int r = (int)syscall(SYS_ioctl, fd, request, argument);

        if (request == FICLONERANGE)
            took(time_now_ns() - began_ns);
        return r;
    }
    errno = errnum;
    return -1;
}

uint64_t shares_longest_ns(void)
{
    uint64_t longest_ns;

    pthread_mutex_lock(&door.lock);
    longest_ns = door.longest_ns;
    pthread_mutex_unlock(&door.lock);
    return longest_ns;
}

void shares_allow(int count)
{
    pthread_mutex_lock(&door.lock);
    door.allowed = count;
    pthread_cond_broadcast(&door.changed);
    pthread_mutex_unlock(&door.lock);
}

void shares_wait(int count)
{
    pthread_mutex_lock(&door.lock);
    while (door.count + door.waiting < count)
        pthread_cond_wait(&door.changed, &door.lock);
    pthread_mutex_unlock(&door.lock);
}

void shares_reset(void)
{
    pthread_mutex_lock(&door.lock);
    door.count = 0;
    door.longest_ns = 0;
    door.fail_index = -1;
    pthread_mutex_unlock(&door.lock);
}

int shares_count(void)
{
    int count;

    pthread_mutex_lock(&door.lock);
    count = door.count;
    pthread_mutex_unlock(&door.lock);
    return count;
}

uint64_t shares_offset(int index)
{
    uint64_t offset;

    pthread_mutex_lock(&door.lock);
    offset = door.offsets[index];
    pthread_mutex_unlock(&door.lock);
    return offset;
}

void shares_fail(int index, int errnum)
{
    pthread_mutex_lock(&door.lock);
    door.fail_index = index;
    door.fail_errnum = errnum;
    pthread_mutex_unlock(&door.lock);
}

/* ---- the removal of what was half-made ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool held;
    unsigned waiting;
} discards = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

int unlinkat(int dir_fd, const char *path, int flags)
{
    if (strncmp(path, "new.", strlen("new.")) == 0) {
        pthread_mutex_lock(&discards.lock);
        discards.waiting++;
        pthread_cond_broadcast(&discards.changed);
        while (discards.held)
            pthread_cond_wait(&discards.changed, &discards.lock);
        discards.waiting--;
        pthread_mutex_unlock(&discards.lock);
    }
    return (int)syscall(SYS_unlinkat, dir_fd, path, flags);
}

void discards_hold(bool hold)
{
    pthread_mutex_lock(&discards.lock);
    discards.held = hold;
    pthread_cond_broadcast(&discards.changed);
    pthread_mutex_unlock(&discards.lock);
}

void discards_wait(void)
{
    pthread_mutex_lock(&discards.lock);
    while (discards.waiting == 0)
        pthread_cond_wait(&discards.changed, &discards.lock);
    pthread_mutex_unlock(&discards.lock);
}
