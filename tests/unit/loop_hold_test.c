/*
 * The pool's lock outlives a killed process: a descriptor that a ring holds registered keeps its flock while
 * I/O of that ring is in flight, though the process is gone. Seen on a disk that does not answer: a file of a
 * FUSE server in this test, which holds one read until it is told, read directly (the kernel then does the
 * I/O on a thread of the ring) and through a loop device (then nobody waits for the disk).
 *
 * Needs root, /dev/fuse and a loop device; is skipped where they are missing.
 */
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/loop.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/loop/loop.h"

#define DISK_BYTES (8u * 1024 * 1024)
#define HELD_OFFSET (4u * 1024 * 1024) /* a read from here on is held */

static int test_file_new(void)
{
    char name[] = "loop-lock-XXXXXX";
    int fd = mkostemp(name, O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(unlink(name), 0);
    return fd;
}

/* ---- a disk that does not answer ---- */

struct disk {
    pid_t server;
    int held;        /* a byte comes when a read is held */
    int release;     /* a byte lets it go on */
    int file;        /* its one file; the mount is detached at once, so that nothing of it can be left over */
    char path[32];   /* under which to open it again */
    char device[32]; /* the loop device over it */
};

static void server_reply(int fuse, uint64_t unique, int error, const void *data, size_t length)
{
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof(header) + length), .error = error, .unique = unique};
    struct iovec iov[2] = {{&header, sizeof(header)}, {(void *)data, length}};

    if (writev(fuse, iov, 2) < 0 && errno != ENOENT)
        _exit(3);
}

static void server_read(int fuse, uint64_t unique, const struct fuse_read_in *in, int held, int release)
{
    static char zeroes[1024 * 1024];
    char byte = 'h';

    if (in->offset >= HELD_OFFSET) {
        if (write(held, &byte, 1) != 1 || read(release, &byte, 1) < 0)
            _exit(4);
    }
    server_reply(fuse, unique, 0, zeroes, in->size);
}

static void server_answer(int fuse, const struct fuse_in_header *in, int held, int release)
{
    struct fuse_init_out init = {.major = FUSE_KERNEL_VERSION,
                                 .minor = 31,
                                 .max_write = 65536,
                                 .max_background = 64,
                                 .congestion_threshold = 48,
                                 .time_gran = 1};
    struct fuse_attr_out attr = {.attr_valid = 3600,
                                 .attr = {.ino = 1, .size = DISK_BYTES, .mode = S_IFREG | 0600, .nlink = 1}};
    /* Without FOPEN_NOFLUSH a dying process that has the file open would wait for this server. */
    struct fuse_open_out open = {.open_flags = FOPEN_DIRECT_IO | FOPEN_NOFLUSH};

    switch (in->opcode) {
    case FUSE_INIT:
        server_reply(fuse, in->unique, 0, &init, sizeof(init));
        break;
    case FUSE_GETATTR:
        server_reply(fuse, in->unique, 0, &attr, sizeof(attr));
        break;
    case FUSE_OPEN:
        server_reply(fuse, in->unique, 0, &open, sizeof(open));
        break;
    case FUSE_READ:
        server_read(fuse, in->unique, (const void *)(in + 1), held, release);
        break;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        break;
    case FUSE_RELEASE:
    case FUSE_FLUSH:
        server_reply(fuse, in->unique, 0, NULL, 0);
        break;
    default:
        server_reply(fuse, in->unique, -ENOSYS, NULL, 0);
    }
}

static void server_main(int fuse, int held, int release)
{
    static _Alignas(8) char buffer[128 * 1024];
    ssize_t n;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        n = read(fuse, buffer, sizeof(buffer));
        if (n < 0 && (errno == EINTR || errno == ENOENT))
            continue;
        if (n < 0)
            _exit(errno == ENODEV ? 0 : 2);
        server_answer(fuse, (const void *)buffer, held, release);
    }
}

/* Attach the file to a free loop device that detaches itself at the last close. The descriptor, or -1. */
static int disk_attach(struct disk *disk)
{
    struct loop_config config = {
        .block_size = 4096, .info.lo_flags = LO_FLAGS_DIRECT_IO | LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY};
    _cleanup_fd_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number, fd;

    config.fd = (uint32_t)disk->file;
    for (int tries = 0; control >= 0 && tries < 16; tries++) {
        number = ioctl(control, LOOP_CTL_GET_FREE);
        snprintf(disk->device, sizeof(disk->device), "/dev/loop%d", number);
        fd = open(disk->device, O_RDONLY | O_DIRECT | O_CLOEXEC);
        if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0)
            return fd;
        fd_close(fd); /* somebody else took it first */
    }
    return -1;
}

static int disk_start(void **state)
{
    static struct disk disk;
    struct stat stat;
    int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC), held[2], release[2], fd;
    char options[128], name[] = "loop-hold-XXXXXX";

    *state = NULL;
    if (fuse < 0)
        return 0;
    fd = mkstemp(name);
    assert_true(fd >= 0);
    close(fd);
    snprintf(options, sizeof(options), "fd=%d,rootmode=100000,user_id=0,group_id=0", fuse);
    if (mount("loop-hold-test", name, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
        unlink(name);
        close(fuse);
        return 0;
    }
    assert_int_equal(pipe2(held, O_CLOEXEC), 0);
    assert_int_equal(pipe2(release, O_CLOEXEC), 0);
    disk.server = fork();
    if (disk.server == 0) {
        close(held[0]);
        close(release[1]);
        server_main(fuse, held[1], release[0]);
    }
    close(fuse); /* the server's alone: with it the disk goes */
    close(held[1]);
    close(release[0]);
    disk.held = held[0];
    disk.release = release[1];
    disk.file = open(name, O_RDONLY | O_CLOEXEC);
    umount2(name, MNT_DETACH);
    unlink(name);
    assert_true(disk.file >= 0);
    assert_int_equal(fstat(disk.file, &stat), 0); /* the kernel learns the size by it */
    snprintf(disk.path, sizeof(disk.path), "/proc/self/fd/%d", disk.file);
    *state = &disk;
    return 0;
}

static int disk_stop(void **state)
{
    struct disk *disk = *state;

    if (!disk)
        return 0;
    close(disk->release);
    kill(disk->server, SIGKILL);
    waitpid(disk->server, NULL, 0);
    close(disk->file);
    close(disk->held);
    return 0;
}

/* ---- the process that is killed ---- */

static void reader_done(struct loop_op *op, int res, unsigned flags)
{
    (void)op;
    (void)res;
    (void)flags;
    _exit(0);
}

/* Takes the lock as mooring-target does, then reads what is not answered. */
static void reader_main(const char *path, int open_flags, const char *lock_path, bool hold)
{
    static _Alignas(4096) char buffer[4096];
    struct iovec iov = {buffer, sizeof(buffer)};
    struct loop_op op = {.done = reader_done};
    int lock = open(lock_path, O_RDWR | O_CLOEXEC), fd = open(path, open_flags | O_CLOEXEC);
    struct stat stat;
    struct loop *loop;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (lock < 0 || fd < 0 || fstat(fd, &stat) < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0)
        _exit(5);
    if (loop_new(&loop, &(struct loop_options){0}, NULL) < 0)
        _exit(6);
    if (hold && loop_hold_fd(loop, lock) < 0)
        _exit(7);
    loop_readv(loop, &op, fd, &iov, 1, HELD_OFFSET, 0);
    loop_run(loop);
    _exit(8);
}

static bool lock_is_free(const char *lock_path)
{
    _cleanup_fd_ int fd = open(lock_path, O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return true;
    assert_int_equal(errno, EWOULDBLOCK);
    return false;
}

/* Kill a process whose read is in flight; hold tells whether the lock must outlive it. */
static void check_lock(struct disk *disk, const char *path, int open_flags, bool hold)
{
    struct pollfd wait = {.fd = disk->held, .events = POLLIN};
    int file = test_file_new();
    char lock_path[32], byte;
    pid_t reader;

    snprintf(lock_path, sizeof(lock_path), "/proc/self/fd/%d", file);
    reader = fork();
    if (reader == 0)
        reader_main(path, open_flags, lock_path, hold);
    if (poll(&wait, 1, 30000) != 1)
        fail_msg("the read never reached the disk");
    assert_int_equal(read(disk->held, &byte, 1), 1);
    assert_false(lock_is_free(lock_path));
    assert_int_equal(kill(reader, SIGKILL), 0);
    if (open_flags & O_DIRECT) /* else the ring's own thread keeps the process until the disk has answered */
        assert_int_equal(waitpid(reader, NULL, 0), reader);
    for (int i = 0; i < 20; i++, poll(NULL, 0, 10))
        if (hold)
            assert_false(lock_is_free(lock_path));
    if (!hold)
        while (!lock_is_free(lock_path))
            poll(NULL, 0, 5);
    assert_int_equal(write(disk->release, "r", 1), 1);
    while (!lock_is_free(lock_path))
        poll(NULL, 0, 5);
    if (!(open_flags & O_DIRECT))
        assert_int_equal(waitpid(reader, NULL, 0), reader);
    close(file);
}

static void test_lock_outlives_the_process_over_a_block_device(void **state)
{
    struct disk *disk = *state;
    int device;

    if (!disk)
        skip();
    device = disk_attach(disk);
    if (device < 0)
        skip();
    check_lock(disk, disk->device, O_RDONLY | O_DIRECT, true);
    check_lock(disk, disk->device, O_RDONLY | O_DIRECT, false); /* it is the registered file that holds it */
    close(device);
}

static void test_lock_outlives_the_process_over_a_file(void **state)
{
    if (!*state)
        skip();
    check_lock(*state, ((struct disk *)*state)->path, O_RDONLY, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lock_outlives_the_process_over_a_block_device, disk_start,
                                        disk_stop),
        cmocka_unit_test_setup_teardown(test_lock_outlives_the_process_over_a_file, disk_start, disk_stop),
    };

    alarm(60);
    return cmocka_run_group_tests_name("loop_hold", tests, NULL, NULL);
}
