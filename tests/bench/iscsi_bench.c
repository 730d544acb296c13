/*
 * The bare iSCSI path, for comparison with a block device above it: READ(16) or WRITE(16) by libiscsi on one
 * session, `depth` at a time, optionally each write followed by SYNCHRONIZE CACHE(16). Prints one JSON line
 * {"iops", "mib_s", "p50_us"}. Not a test: tests/bench/device runs it. One thread.
 */
#include <getopt.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "common/cleanup.h"

#define DEPTH_MAX 64
#define LATENCIES_MAX (1 << 20) /* beyond that many, p50 is of the first ones */
#define BLOCK_BYTES_MAX (1 << 20)

struct options {
    const char *url, *initiator;
    bool write, random, sync;
    unsigned size_bytes, depth, block_bytes;
    double seconds;
    uint64_t span_bytes, count; /* commands; 0: as many as the time allows */
};

struct bench;

struct slot {
    struct bench *bench;
    uint64_t begun_ns;
    struct scsi_iovec iov;
    uint8_t *data;
};

struct bench {
    struct options options;
    struct iscsi_context *iscsi;
    int lun;
    bool failed;
    uint64_t end_ns, begun, done, next;
    unsigned under_way;
    uint32_t *latency_ns;
    size_t latencies;
    struct slot slots[DEPTH_MAX];
};

static void slot_next(struct slot *slot);

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- one command after the other in each slot ---- */

static void bench_failed(struct bench *bench, const char *what)
{
    if (!bench->failed)
        fprintf(stderr, "iscsi_bench: %s: %s\n", what, iscsi_get_error(bench->iscsi));
    bench->failed = true;
}

static void slot_finished(struct slot *slot)
{
    struct bench *bench = slot->bench;
    uint64_t now = now_ns();
    bench->under_way--;
    bench->done++;
    if (bench->latencies < LATENCIES_MAX)
        bench->latency_ns[bench->latencies++] = (uint32_t)(now - slot->begun_ns);
    if (now < bench->end_ns && (!bench->options.count || bench->begun < bench->options.count))
        slot_next(slot);
}

static bool task_was_good(struct bench *bench, int status, struct scsi_task *task, const char *what)
{
    if (task)
        scsi_free_scsi_task(task);
    if (status == SCSI_STATUS_GOOD)
        return true;
    bench_failed(bench, what);
    bench->under_way--;
    return false;
}

static void sync_answered(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
    (void)iscsi;
    struct slot *slot = private_data;
    if (task_was_good(slot->bench, status, command_data, "SYNCHRONIZE CACHE"))
        slot_finished(slot);
}

static void transfer_answered(struct iscsi_context *iscsi, int status, void *command_data, void *private_data)
{
    struct slot *slot = private_data;
    struct bench *bench = slot->bench;
    if (!task_was_good(bench, status, command_data, "a transfer"))
        return;
    if (!bench->options.sync) {
        slot_finished(slot);
    } else if (!iscsi_synchronizecache16_task(iscsi, bench->lun, 0, 0, 0, 0, sync_answered, slot)) {
        bench->under_way--;
        bench_failed(bench, "SYNCHRONIZE CACHE");
    }
}

static uint64_t next_lba(struct bench *bench)
{
    const struct options *options = &bench->options;
    uint64_t count = options->span_bytes / options->size_bytes;
    uint64_t at = options->random ? (uint64_t)random() % count : bench->next++ % count;
    return at * options->size_bytes / options->block_bytes;
}

static void slot_next(struct slot *slot)
{
    struct bench *bench = slot->bench;
    const struct options *options = &bench->options;
    uint64_t lba = next_lba(bench);
    int block_bytes = (int)options->block_bytes;
    slot->begun_ns = now_ns();
    bench->begun++;
    struct scsi_task *task =
        options->write
            ? iscsi_write16_task(bench->iscsi, bench->lun, lba, slot->data, options->size_bytes, block_bytes,
                                 0, 0, 0, 0, 0, transfer_answered, slot)
            : iscsi_read16_iov_task(bench->iscsi, bench->lun, lba, options->size_bytes, block_bytes, 0, 0, 0,
                                    0, 0, transfer_answered, slot, &slot->iov, 1);
    if (task)
        bench->under_way++;
    else
        bench_failed(bench, "a command");
}

static void bench_run(struct bench *bench)
{
    bench->end_ns = now_ns() + (uint64_t)(bench->options.seconds * 1e9);
    for (unsigned i = 0; i < bench->options.depth; i++)
        slot_next(&bench->slots[i]);
    while (bench->under_way > 0 && !bench->failed) {
        struct pollfd poller = {.fd = iscsi_get_fd(bench->iscsi),
                                .events = (short)iscsi_which_events(bench->iscsi)};
        if (poll(&poller, 1, 10000) <= 0 || iscsi_service(bench->iscsi, poller.revents) < 0)
            bench_failed(bench, "the session");
    }
}

/* ---- begin and end ---- */

static int latency_compare(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static void bench_print(struct bench *bench)
{
    qsort(bench->latency_ns, bench->latencies, sizeof *bench->latency_ns, latency_compare);
    double iops = (double)bench->done / bench->options.seconds;
    printf("{\"iops\": %.0f, \"mib_s\": %.1f, \"p50_us\": %.1f}\n", iops,
           iops * bench->options.size_bytes / (1 << 20),
           (double)(bench->latencies ? bench->latency_ns[bench->latencies / 2] : 0) / 1000);
}

static bool bench_connect(struct bench *bench)
{
    bench->iscsi = iscsi_create_context(bench->options.initiator);
    struct iscsi_url *url = bench->iscsi ? iscsi_parse_full_url(bench->iscsi, bench->options.url) : NULL;
    if (!url)
        return false;
    iscsi_set_targetname(bench->iscsi, url->target);
    iscsi_set_session_type(bench->iscsi, ISCSI_SESSION_NORMAL);
    iscsi_set_header_digest(bench->iscsi, ISCSI_HEADER_DIGEST_NONE);
    if (url->user[0])
        iscsi_set_initiator_username_pwd(bench->iscsi, url->user, url->passwd);
    bench->lun = url->lun;
    int r = iscsi_full_connect_sync(bench->iscsi, url->portal, url->lun);
    iscsi_destroy_url(url);
    return r == 0;
}

static bool options_parse(struct options *options, int argc, char *argv[])
{
    static const struct option names[] = {
        {"url", required_argument, NULL, 'u'},     {"initiator", required_argument, NULL, 'i'},
        {"write", no_argument, NULL, 'w'},         {"random", no_argument, NULL, 'r'},
        {"sync", no_argument, NULL, 'y'},          {"size", required_argument, NULL, 's'},
        {"depth", required_argument, NULL, 'd'},   {"block", required_argument, NULL, 'b'},
        {"seconds", required_argument, NULL, 't'}, {"span", required_argument, NULL, 'n'},
        {"count", required_argument, NULL, 'c'},   {NULL, 0, NULL, 0},
    };
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 'u':
            options->url = optarg;
            break;
        case 'i':
            options->initiator = optarg;
            break;
        case 'w':
            options->write = true;
            break;
        case 'r':
            options->random = true;
            break;
        case 'y':
            options->sync = true;
            break;
        case 's':
            options->size_bytes = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'd':
            options->depth = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'b':
            options->block_bytes = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 't':
            options->seconds = strtod(optarg, NULL);
            break;
        case 'n':
            options->span_bytes = strtoull(optarg, NULL, 10);
            break;
        case 'c':
            options->count = strtoull(optarg, NULL, 10);
            break;
        default:
            return false;
        }
    }
    return options->url && options->initiator && options->depth >= 1 && options->depth <= DEPTH_MAX &&
           options->block_bytes >= 512 && options->size_bytes >= options->block_bytes &&
           options->size_bytes <= BLOCK_BYTES_MAX && options->size_bytes % options->block_bytes == 0 &&
           options->span_bytes >= options->size_bytes && options->seconds > 0;
}

int main(int argc, char *argv[])
{
    static struct bench bench;
    bench.options = (struct options){.size_bytes = 4096, .depth = 1, .block_bytes = 4096, .seconds = 2};
    bench.options.span_bytes = 64 << 20;
    if (!options_parse(&bench.options, argc, argv)) {
        fprintf(stderr,
                "usage: iscsi_bench --url URL --initiator IQN [--write] [--random] [--sync] [--size N] "
                "[--depth N] [--block N] [--seconds S] [--span BYTES] [--count N]\n");
        return 2;
    }
    _cleanup_free_ uint8_t *memory = calloc(bench.options.depth, bench.options.size_bytes);
    _cleanup_free_ uint32_t *latencies = calloc(LATENCIES_MAX, sizeof *latencies);
    if (!memory || !latencies || !bench_connect(&bench)) {
        fprintf(stderr, "iscsi_bench: %s\n", bench.iscsi ? iscsi_get_error(bench.iscsi) : "no memory");
        return 1;
    }
    bench.latency_ns = latencies;
    for (unsigned i = 0; i < bench.options.depth; i++) {
        uint8_t *data = memory + (size_t)i * bench.options.size_bytes;
        bench.slots[i] = (struct slot){.bench = &bench, .data = data};
        bench.slots[i].iov = (struct scsi_iovec){.iov_base = data, .iov_len = bench.options.size_bytes};
    }
    bench_run(&bench);
    if (!bench.failed) {
        bench_print(&bench);
        iscsi_logout_sync(bench.iscsi);
    }
    iscsi_destroy_context(bench.iscsi);
    return bench.failed;
}
