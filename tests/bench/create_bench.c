/*
 * CreateVolume from many threads at once, each call after the one before it: names bench-0 on, 1 MiB each.
 * Prints one JSON line {"p50_ms", "p99_ms", "last_tenth_p99_ms"}. A client in C, since one in Python would
 * take a third of the processors that it measures. Not a test: tests/bench/scale runs it.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/error.h"
#include "common/size.h"
#include "common/time.h"
#include "proto/csi.pb-c.h"
#include "rpc/rpc.h"

#define THREADS_MAX 256
#define VOLUME_BYTES (1 << 20)
#define TIMEOUT_MS 60000

struct bench {
    struct rpc_client *client;
    unsigned count;
    atomic_uint next;
    atomic_bool failed;
    uint64_t *took_ns; /* by number; each thread writes its own calls' */
};

static int create_volume(struct bench *bench, unsigned number, struct error *err)
{
    Csi__V1__CreateVolumeRequest request = CSI__V1__CREATE_VOLUME_REQUEST__INIT;
    Csi__V1__CapacityRange range = CSI__V1__CAPACITY_RANGE__INIT;
    Csi__V1__VolumeCapability capability = CSI__V1__VOLUME_CAPABILITY__INIT;
    Csi__V1__VolumeCapability__MountVolume mount = CSI__V1__VOLUME_CAPABILITY__MOUNT_VOLUME__INIT;
    Csi__V1__VolumeCapability__AccessMode mode = CSI__V1__VOLUME_CAPABILITY__ACCESS_MODE__INIT;
    Csi__V1__VolumeCapability *capabilities[] = {&capability};
    const struct rpc_call_options options = {.timeout_ms = TIMEOUT_MS};
    ProtobufCMessage *response;
    char name[32];

    snprintf(name, sizeof(name), "bench-%u", number);
    range.required_bytes = VOLUME_BYTES;
    mode.mode = CSI__V1__VOLUME_CAPABILITY__ACCESS_MODE__MODE__SINGLE_NODE_WRITER;
    capability.access_mode = &mode;
    capability.access_type_case = CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE_MOUNT;
    capability.mount = &mount;
    request.name = name;
    request.capacity_range = &range;
    request.n_volume_capabilities = ARRAY_SIZE(capabilities);
    request.volume_capabilities = capabilities;

    int r = rpc_client_call(bench->client, &csi__v1__controller__descriptor, "CreateVolume", &request.base,
                            &options, &response, err);

    if (r == E_OK)
        protobuf_c_message_free_unpacked(response, NULL);
    return r;
}

static void *create_volumes(void *data)
{
    struct bench *bench = data;

    for (;;) {
        unsigned number = atomic_fetch_add(&bench->next, 1);
        _cleanup_error_ struct error err = {0};
        uint64_t begun_ns = time_now_ns();

        if (number >= bench->count || bench->failed)
            return NULL;
        if (create_volume(bench, number, &err) != E_OK) {
            fprintf(stderr, "create_bench: bench-%u: %s\n", number, error_text(&err));
            bench->failed = true;
        }
        bench->took_ns[number] = time_now_ns() - begun_ns;
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

/* Sorts them. */
static double quantile_ms(uint64_t *took_ns, unsigned count, double part)
{
    qsort(took_ns, count, sizeof(*took_ns), compare);
    return (double)took_ns[(unsigned)((count - 1) * part)] / 1e6;
}

static int run(struct bench *bench, unsigned at_once)
{
    pthread_t threads[THREADS_MAX];
    unsigned started = 0;

    while (started < at_once && pthread_create(&threads[started], NULL, create_volumes, bench) == 0)
        started++;
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (started < at_once || bench->failed)
        return 1;

    unsigned tenth = MAX(bench->count / 10, 1);
    double last_ms = quantile_ms(bench->took_ns + bench->count - tenth, tenth, 0.99);
    double p50_ms = quantile_ms(bench->took_ns, bench->count, 0.5);

    printf("{\"p50_ms\": %.2f, \"p99_ms\": %.2f, \"last_tenth_p99_ms\": %.2f}\n", p50_ms,
           quantile_ms(bench->took_ns, bench->count, 0.99), last_ms);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 4 || atoi(argv[2]) < 1 || atoi(argv[3]) < 1 || atoi(argv[3]) > THREADS_MAX) {
        fprintf(stderr, "usage: create_bench ENDPOINT COUNT AT_ONCE (of at most %d)\n", THREADS_MAX);
        return 2;
    }

    const struct rpc_client_options options = {.endpoint = argv[1]};
    struct bench bench = {.count = (unsigned)atoi(argv[2])};
    _cleanup_error_ struct error err = {0};

    bench.took_ns = calloc(bench.count, sizeof(*bench.took_ns));
    if (!bench.took_ns || rpc_client_new(&bench.client, &options, &err) != E_OK) {
        fprintf(stderr, "create_bench: %s\n", error_text(&err));
        return 1;
    }

    int r = run(&bench, (unsigned)atoi(argv[3]));

    rpc_client_free(bench.client);
    free(bench.took_ns);
    return r;
}
