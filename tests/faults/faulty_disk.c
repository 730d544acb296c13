/*
 * faulty-disk IMAGE MOUNTPOINT CONTROL: a disk that fails on command, for tests. A one-file FUSE file system
 * shows IMAGE as MOUNTPOINT/disk, with a volatile write cache (disk_cache.h); a loop device on top makes it a
 * disk. CONTROL is a unix socket: one command a connection, one line of answer.
 *
 *   stats                 "dirty N flushes N writes N held N"
 *   hold MS               the next write is carried out and answered MS milliseconds late
 *   release               what is held goes on now
 *   fail VERB N ERRNO     the next N of write, flush or read fail (-1: all from now on; 0: none any more)
 *   fail VERB N ERRNO FROM TO…  the same, of those that touch bytes from FROM up to TO, or another pair
 *   cut SEED KEEP         power loss: KEEP percent of the unflushed sectors survive, then all is EIO
 *   record PATH           write down all that the disk is told from now on (disk_journal.h)
 *   mark N                put a mark there; answered when all before it is in the file
 *
 * One thread: a poll(2) over /dev/fuse, the control socket and the held write's time.
 */
#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tests/faults/disk_cache.h"
#include "tests/faults/disk_journal.h"

#define DISK_NAME "disk"
#define DISK_INODE 2
#define DISK_HELD_MAX 64
#define DISK_RANGES_MAX 16

enum disk_verb { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_VERBS };
static const char *const verb_names[DISK_VERBS] = {"read", "write", "flush"};

struct disk_held {
    fuse_req_t request;
    char *data;
    size_t length;
    uint64_t offset;
    uint64_t due_ms;
};

static struct {
    struct disk_cache *cache;
    uint64_t size;
    bool frozen; /* requests stay where they are */
    bool dead;   /* the power is gone */
    struct {
        long left; /* -1: without end */
        int error;
        struct {
            uint64_t from, to; /* bytes */
        } ranges[DISK_RANGES_MAX];
        size_t range_count; /* 0: everywhere */
    } fail[DISK_VERBS];
    unsigned long writes, flushes;
    uint64_t hold_ms; /* for the next write; 0: none */
    struct disk_held held[DISK_HELD_MAX];
    size_t held_count;
} disk;

static volatile sig_atomic_t ending;

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static bool disk_in_range(enum disk_verb verb, uint64_t offset, uint64_t length)
{
    for (size_t i = 0; i < disk.fail[verb].range_count; i++) {
        if (offset < disk.fail[verb].ranges[i].to && offset + length > disk.fail[verb].ranges[i].from)
            return true;
    }
    return disk.fail[verb].range_count == 0;
}

/* The errno that this operation must fail with, or 0. */
static int disk_fault(enum disk_verb verb, uint64_t offset, uint64_t length)
{
    if (disk.dead)
        return EIO;
    if (!disk.fail[verb].left || !disk_in_range(verb, offset, length))
        return 0;
    if (disk.fail[verb].left > 0)
        disk.fail[verb].left--;
    return disk.fail[verb].error;
}

/* ---- FUSE ---- */

static struct stat disk_stat(fuse_ino_t inode)
{
    if (inode == FUSE_ROOT_ID)
        return (struct stat){.st_ino = inode, .st_mode = S_IFDIR | 0700, .st_nlink = 2};
    return (struct stat){.st_ino = inode,
                         .st_mode = S_IFREG | 0600,
                         .st_nlink = 1,
                         .st_size = (off_t)disk.size,
                         .st_blksize = 4096};
}

static void disk_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.ino = DISK_INODE, .attr_timeout = 3600, .entry_timeout = 3600};

    if (parent != FUSE_ROOT_ID || strcmp(name, DISK_NAME) != 0) {
        fuse_reply_err(request, ENOENT);
        return;
    }
    entry.attr = disk_stat(DISK_INODE);
    fuse_reply_entry(request, &entry);
}

static void disk_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct stat status = disk_stat(inode);

    (void)info;
    fuse_reply_attr(request, &status, 3600);
}

static void disk_setattr(fuse_req_t request, fuse_ino_t inode, struct stat *wanted, int to_set,
                         struct fuse_file_info *info)
{
    (void)wanted;
    (void)to_set;
    disk_getattr(request, inode, info);
}

static void disk_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    (void)inode;
    info->direct_io = 1;
    fuse_reply_open(request, info);
}

static void disk_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                      struct fuse_file_info *info)
{
    int error = disk_fault(DISK_READ, (uint64_t)offset, size);
    char *data = error ? NULL : malloc(size);

    (void)inode;
    (void)info;
    if (!error && !data)
        error = ENOMEM;
    if (!error)
        error = -disk_cache_read(disk.cache, data, (uint64_t)offset, size);
    if (error)
        fuse_reply_err(request, error);
    else
        fuse_reply_buf(request, data, size);
    free(data);
}

static void disk_write_now(fuse_req_t request, const char *data, size_t length, uint64_t offset)
{
    int error = disk_fault(DISK_WRITE, offset, length);

    if (!error)
        error = -disk_cache_write(disk.cache, data, offset, length);
    if (!error)
        error = -disk_journal_add(JOURNAL_WRITE, offset, length, data);
    if (error)
        fuse_reply_err(request, error);
    else
        fuse_reply_write(request, length);
}

static void disk_write(fuse_req_t request, fuse_ino_t inode, const char *data, size_t length, off_t offset,
                       struct fuse_file_info *info)
{
    (void)inode;
    (void)info;
    disk.writes++;
    if (!disk.hold_ms || disk.held_count == DISK_HELD_MAX) {
        disk_write_now(request, data, length, (uint64_t)offset);
        return;
    }
    struct disk_held *held = &disk.held[disk.held_count];
    *held = (struct disk_held){request, malloc(length), length, (uint64_t)offset, now_ms() + disk.hold_ms};
    disk.hold_ms = 0;
    if (!held->data) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    memcpy(held->data, data, length);
    disk.held_count++;
}

static void disk_fsync(fuse_req_t request, fuse_ino_t inode, int datasync, struct fuse_file_info *info)
{
    int error = disk_fault(DISK_FLUSH, 0, disk.size);

    (void)inode;
    (void)datasync;
    (void)info;
    disk.flushes++;
    if (!error)
        error = -disk_cache_flush(disk.cache);
    fuse_reply_err(request, error ? error : -disk_journal_add(JOURNAL_FLUSH, 0, 0, NULL));
}

static void disk_fallocate(fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length,
                           struct fuse_file_info *info)
{
    int error = disk_fault(DISK_WRITE, (uint64_t)offset, (uint64_t)length);

    (void)inode;
    (void)mode; /* punching a hole and zeroing both read as zeroes */
    (void)info;
    if (!error)
        error = -disk_cache_discard(disk.cache, (uint64_t)offset, (uint64_t)length);
    if (!error)
        error = -disk_journal_add(JOURNAL_DISCARD, (uint64_t)offset, (uint64_t)length, NULL);
    fuse_reply_err(request, error);
}

static void disk_statfs(fuse_req_t request, fuse_ino_t inode)
{
    struct statvfs status = {
        .f_bsize = 4096, .f_frsize = 4096, .f_blocks = disk.size / 4096, .f_namemax = 255};

    (void)inode;
    fuse_reply_statfs(request, &status);
}

static const struct fuse_lowlevel_ops disk_ops = {
    .lookup = disk_lookup,
    .getattr = disk_getattr,
    .setattr = disk_setattr,
    .open = disk_open,
    .read = disk_read,
    .write = disk_write,
    .fsync = disk_fsync,
    .fallocate = disk_fallocate,
    .statfs = disk_statfs,
};

/* ---- what is held ---- */

static void held_release(uint64_t until_ms)
{
    for (size_t i = 0; i < disk.held_count;) {
        struct disk_held held = disk.held[i];
        if (held.due_ms > until_ms) {
            i++;
            continue;
        }
        disk.held[i] = disk.held[--disk.held_count];
        disk_write_now(held.request, held.data, held.length, held.offset);
        free(held.data);
    }
}

static int held_timeout_ms(void)
{
    uint64_t now = now_ms(), next = UINT64_MAX;

    for (size_t i = 0; i < disk.held_count; i++) {
        if (disk.held[i].due_ms < next)
            next = disk.held[i].due_ms;
    }
    if (next == UINT64_MAX)
        return -1;
    return next > now ? (int)(next - now) : 0;
}

/* ---- control ---- */

/* "VERB N ERRNO [FROM TO]…" */
static const char *control_fail(const char *words)
{
    char verb[16];
    long count;
    int error, used, more;
    size_t i = 0;

    if (sscanf(words, "%15s %ld %d%n", verb, &count, &error, &used) != 3)
        return "error: fail VERB N ERRNO\n";
    while (i < DISK_VERBS && strcmp(verb, verb_names[i]) != 0)
        i++;
    if (i == DISK_VERBS)
        return "error: not read, write or flush\n";
    disk.fail[i].left = count;
    disk.fail[i].error = error;
    disk.fail[i].range_count = 0;
    for (size_t n = 0; n < DISK_RANGES_MAX; n++, used += more) {
        unsigned long long from, to;
        if (sscanf(words + used, "%llu %llu%n", &from, &to, &more) != 2)
            break;
        disk.fail[i].ranges[n].from = from;
        disk.fail[i].ranges[n].to = to;
        disk.fail[i].range_count = n + 1;
    }
    return "ok\n";
}

static void control_command(const char *line, char *answer, size_t size)
{
    unsigned long long number, percent;
    char path[256];
    size_t lost = 0;

    if (sscanf(line, "hold %llu", &number) == 1) {
        disk.hold_ms = number;
        snprintf(answer, size, "ok\n");
    } else if (strncmp(line, "release", 7) == 0) {
        held_release(UINT64_MAX);
        snprintf(answer, size, "ok\n");
    } else if (strncmp(line, "fail ", 5) == 0) {
        snprintf(answer, size, "%s", control_fail(line + 5));
    } else if (sscanf(line, "cut %llu %llu", &number, &percent) == 2) {
        int r = disk_cache_cut(disk.cache, number, (unsigned)percent, &lost);
        disk.dead = true;
        disk.frozen = false;
        held_release(UINT64_MAX);
        snprintf(answer, size, r ? "error: the image failed\n" : "ok lost %zu\n", lost);
    } else if (sscanf(line, "record %255s", path) == 1) {
        snprintf(answer, size, disk_journal_open(path) ? "error: no such file\n" : "ok\n");
    } else if (sscanf(line, "mark %llu", &number) == 1) {
        int r = disk_journal_add(JOURNAL_MARK, number, 0, NULL);
        snprintf(answer, size, r || disk_journal_flush() ? "error: the journal failed\n" : "ok\n");
    } else if (strncmp(line, "freeze", 6) == 0) {
        disk.frozen = true;
        snprintf(answer, size, "ok\n");
    } else if (strncmp(line, "stats", 5) == 0) {
        snprintf(answer, size, "dirty %zu flushes %lu writes %lu held %zu\n", disk_cache_sectors(disk.cache),
                 disk.flushes, disk.writes, disk.held_count);
    } else {
        snprintf(answer, size, "error: not a command\n");
    }
}

static void control_serve(int listen_fd)
{
    char line[1024] = "", answer[128] = "";
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    ssize_t n = read(fd, line, sizeof(line) - 1);
    if (n > 0) {
        control_command(line, answer, sizeof(answer));
        (void)!write(fd, answer, strlen(answer));
    }
    close(fd);
}

static int control_listen(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof(address.sun_path)) {
        fprintf(stderr, "faulty-disk: %s: a socket's path has at most %zu bytes\n", path,
                sizeof(address.sun_path) - 1);
        return -1;
    }
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 8) < 0) {
        perror(path);
        return -1;
    }
    return fd;
}

/* ---- the loop ---- */

static void on_signal(int signal_number)
{
    (void)signal_number;
    ending = 1;
}

static void disk_loop(struct fuse_session *session, int control_fd)
{
    struct fuse_buf buffer = {0};
    struct pollfd polled[2] = {{.fd = fuse_session_fd(session), .events = POLLIN},
                               {.fd = control_fd, .events = POLLIN}};

    while (!ending && !fuse_session_exited(session)) {
        polled[0].fd = disk.frozen ? -1 : fuse_session_fd(session);
        if (poll(polled, 2, disk.frozen ? -1 : held_timeout_ms()) < 0 && errno != EINTR)
            break;
        if (!disk.frozen)
            held_release(now_ms());
        if (polled[1].revents & POLLIN)
            control_serve(control_fd);
        if (polled[0].revents & (POLLERR | POLLHUP))
            break;
        if (polled[0].revents & POLLIN && fuse_session_receive_buf(session, &buffer) > 0)
            fuse_session_process_buf(session, &buffer);
    }
    free(buffer.mem);
}

static int disk_serve(const char *mount_point, const char *control_path)
{
    char name[] = "faulty-disk", fsname[] = "-ofsname=faulty-disk";
    char *argv[] = {name, fsname, NULL};
    struct fuse_args arguments = FUSE_ARGS_INIT(2, argv);
    struct sigaction action = {.sa_handler = on_signal};
    int status = 1;

    int control_fd = control_listen(control_path);
    struct fuse_session *session = fuse_session_new(&arguments, &disk_ops, sizeof(disk_ops), NULL);
    if (control_fd >= 0 && session && fuse_session_mount(session, mount_point) == 0) {
        sigaction(SIGTERM, &action, NULL);
        sigaction(SIGINT, &action, NULL);
        disk_loop(session, control_fd);
        held_release(UINT64_MAX);
        status = disk.dead || disk_cache_flush(disk.cache) == 0 ? 0 : 1;
        fuse_session_unmount(session);
    }
    if (session)
        fuse_session_destroy(session);
    fuse_opt_free_args(&arguments);
    unlink(control_path);
    return status;
}

int main(int argc, char **argv)
{
    struct stat status;

    if (argc != 4) {
        fprintf(stderr, "usage: faulty-disk IMAGE MOUNTPOINT CONTROL\n");
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0) {
        perror(argv[1]);
        return 1;
    }
    disk.size = (uint64_t)status.st_size / DISK_SECTOR * DISK_SECTOR;
    disk.cache = disk_cache_new(fd);
    if (!disk.cache)
        return 1;
    int r = disk_serve(argv[2], argv[3]);
    disk_cache_free(disk.cache);
    close(fd);
    return r;
}
