/*
 * What the loop costs, for comparing one build or setting with another on one machine: a message's round trip
 * between two loops, an echo over a socket pair, 4 KiB reads of a file. Each with and without spinning.
 * Numbers are printed, nothing is asserted. Usage: loop_bench [file to read, default: a new one here]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/time.h"
#include "datapath/loop/loop.h"

#define ROUNDS 50000
#define FILE_BYTES (64u * 1024 * 1024)
#define DEPTH 32

static struct loop *bench_loop(unsigned spin_us)
{
    struct loop_options options = {.spin_us = spin_us};
    struct error err = {0};
    struct loop *loop = NULL;

    if (loop_new(&loop, &options, &err) < 0) {
        fprintf(stderr, "loop_bench: %s\n", error_text(&err));
        exit(1);
    }
    return loop;
}

static uint64_t cpu_us(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000u +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void report(const char *what, unsigned spin_us, uint64_t rounds, uint64_t begin_ns,
                   uint64_t begin_cpu_us)
{
    double each_us = (double)(time_now_ns() - begin_ns) / 1000 / (double)rounds;
    double cpu_each_us = (double)(cpu_us() - begin_cpu_us) / (double)rounds;

    printf("%-28s spin %2u us: %8.2f us each, %8.2f us of CPU each, %8.0f a second\n", what, spin_us, each_us,
           cpu_each_us, 1e6 / each_us);
}

/* ---- a second loop on a thread of its own ---- */

static void *loop_thread(void *context)
{
    loop_run(context);
    return NULL;
}

struct ball {
    struct loop_message message;
    struct loop *loops[2];
    unsigned hops;
};

static void ball_run(struct loop_message *message)
{
    struct ball *ball = container_of(message, struct ball, message);

    if (++ball->hops == 2 * ROUNDS) {
        loop_stop(ball->loops[1]);
        loop_stop(ball->loops[0]);
        return;
    }
    loop_post(ball->loops[ball->hops % 2], message);
}

static void bench_messages(unsigned spin_us)
{
    struct ball ball = {.message.run = ball_run, .loops = {bench_loop(spin_us), bench_loop(spin_us)}};
    uint64_t begin_ns = time_now_ns(), begin_cpu_us = cpu_us();
    pthread_t thread;

    if (pthread_create(&thread, NULL, loop_thread, ball.loops[1]))
        exit(1);
    loop_post(ball.loops[0], &ball.message);
    loop_run(ball.loops[0]);
    pthread_join(thread, NULL);
    report("message, there and back", spin_us, ROUNDS, begin_ns, begin_cpu_us);
}

/* ---- echo: each end sends back what it gets ---- */

struct end {
    struct loop_op receive, send;
    struct loop *loop;
    int fd;
    char byte[64];
    struct iovec iov;
    struct msghdr message;
    unsigned rounds;
    bool counts;
};

static void end_sent(struct loop_op *op, int res, unsigned flags)
{
    struct end *end = container_of(op, struct end, send);

    (void)flags;
    if (res < 0)
        exit(1);
    loop_read(end->loop, &end->receive, end->fd, end->byte, sizeof(end->byte));
}

static void end_received(struct loop_op *op, int res, unsigned flags)
{
    struct end *end = container_of(op, struct end, receive);

    (void)flags;
    if (res <= 0 || (end->counts && ++end->rounds == ROUNDS)) {
        shutdown(end->fd, SHUT_RDWR);
        loop_stop(end->loop);
        return;
    }
    loop_sendmsg(end->loop, &end->send, end->fd, &end->message);
}

static void end_init(struct end *end, unsigned spin_us, int fd)
{
    *end = (struct end){
        .receive.done = end_received, .send.done = end_sent, .loop = bench_loop(spin_us), .fd = fd};
    end->iov = (struct iovec){end->byte, sizeof(end->byte)};
    end->message = (struct msghdr){.msg_iov = &end->iov, .msg_iovlen = 1};
}

static void *end_thread(void *context)
{
    struct end *end = context;

    loop_read(end->loop, &end->receive, end->fd, end->byte, sizeof(end->byte));
    loop_run(end->loop);
    return NULL;
}

static void bench_echo(unsigned spin_us)
{
    struct end ends[2];
    uint64_t begin_ns, begin_cpu_us;
    pthread_t thread;
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        exit(1);
    end_init(&ends[0], spin_us, fds[0]);
    end_init(&ends[1], spin_us, fds[1]);
    ends[0].counts = true;
    begin_ns = time_now_ns();
    begin_cpu_us = cpu_us();
    if (pthread_create(&thread, NULL, end_thread, &ends[1]))
        exit(1);
    loop_sendmsg(ends[0].loop, &ends[0].send, fds[0], &ends[0].message);
    loop_run(ends[0].loop);
    pthread_join(thread, NULL);
    report("echo over a socket pair", spin_us, ROUNDS, begin_ns, begin_cpu_us);
    loop_free(ends[0].loop);
    close(fds[0]);
    close(fds[1]);
}

/* ---- random reads ---- */

struct reads {
    struct loop *loop;
    int fd;
    unsigned seed, started, ended;
};

struct one_read {
    struct loop_op op;
    struct reads *reads;
    struct iovec iov;
};

static void read_start(struct one_read *one)
{
    uint64_t block = (unsigned)rand_r(&one->reads->seed) % (FILE_BYTES / 4096);

    one->reads->started++;
    loop_readv(one->reads->loop, &one->op, one->reads->fd, &one->iov, 1, block * 4096, 0);
}

static void read_done(struct loop_op *op, int res, unsigned flags)
{
    struct one_read *one = container_of(op, struct one_read, op);

    (void)flags;
    if (res != 4096) {
        fprintf(stderr, "loop_bench: read: %d\n", res);
        exit(1);
    }
    one->reads->ended++;
    if (one->reads->started < ROUNDS)
        read_start(one);
    else if (one->reads->ended == ROUNDS)
        loop_stop(one->reads->loop);
}

static void bench_reads(unsigned spin_us, int fd, unsigned depth)
{
    struct reads reads = {.loop = bench_loop(spin_us), .fd = fd, .seed = 1};
    struct one_read ones[DEPTH];
    uint64_t begin_ns, begin_cpu_us;
    char *memory = aligned_alloc(4096, DEPTH * 4096);
    char what[64];

    if (!memory)
        exit(1);
    begin_ns = time_now_ns();
    begin_cpu_us = cpu_us();
    for (unsigned i = 0; i < depth; i++) {
        ones[i] = (struct one_read){{.done = read_done}, &reads, {memory + (size_t)i * 4096, 4096}};
        read_start(&ones[i]);
    }
    loop_run(reads.loop);
    snprintf(what, sizeof(what), "4 KiB random read, depth %u", depth);
    report(what, spin_us, ROUNDS, begin_ns, begin_cpu_us);
    loop_free(reads.loop);
    free(memory);
}

static int bench_file(const char *path)
{
    char name[] = "loop-bench-XXXXXX", block[65536];
    int fd;

    if (path)
        return open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    fd = mkstemp(name);
    memset(block, 'b', sizeof(block));
    for (unsigned at = 0; fd >= 0 && at < FILE_BYTES; at += sizeof(block))
        if (write(fd, block, sizeof(block)) != sizeof(block))
            exit(1);
    if (fd >= 0 && fsync(fd) == 0)
        close(fd);
    fd = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
    unlink(name);
    return fd;
}

int main(int argc, char **argv)
{
    static const unsigned spins_us[] = {0, 30};
    _cleanup_fd_ int fd = bench_file(argc > 1 ? argv[1] : NULL);

    if (fd < 0) {
        fprintf(stderr, "loop_bench: cannot open the file to read: %s\n", strerror(errno));
        return 1;
    }
    for (size_t i = 0; i < ARRAY_SIZE(spins_us); i++) {
        bench_messages(spins_us[i]);
        bench_echo(spins_us[i]);
        bench_reads(spins_us[i], fd, 1);
        bench_reads(spins_us[i], fd, DEPTH);
    }
    return 0;
}
