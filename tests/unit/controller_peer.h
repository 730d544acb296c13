/*
 * A storage server as the controller's tests need it: a real gRPC server of mooring.storage.v1 on a unix
 * socket, with a store in memory whose answers a test can bend. It keeps the two rules of storage.proto that
 * claims rest on. A test's peer, nothing that a user could run.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/id.h"
#include "proto/storage.pb-c.h"
#include "rpc/rpc.h"

#define PEER_ITEMS_MAX 64

struct peer_name {
    int kind; /* NameKind */
    char name[ID_VOLUME_NAME_MAX + 1];
    char volume_id[ID_SNAPSHOT_MAX + 1]; /* "" for a free slot */
};

struct peer_volume {
    char id[ID_VOLUME_MAX + 1]; /* "" for a free slot */
    char name[ID_VOLUME_NAME_MAX + 1];
    uint64_t size_bytes;
    char fs_type[16];
    char node_id[ID_NODE_MAX + 1]; /* attached there; "" when not */
    bool readonly;
    int access_mode;
    uint64_t epoch, record_generation;
    uint64_t iops, bytes_per_s;
    uint32_t burst_s;
    bool write_failed;
    char source[ID_SNAPSHOT_MAX + 1];
};

struct peer_snapshot {
    char id[ID_SNAPSHOT_MAX + 1]; /* "" for a free slot */
    char name[ID_VOLUME_NAME_MAX + 1];
    char source[ID_VOLUME_MAX + 1];
    char group[ID_GROUP_MAX + 1];
    char hold[ID_BOOT_LENGTH + 1];
    uint64_t size_bytes;
    unsigned not_ready; /* so many GetSnapshots more */
    bool held, provisional, recorded, lost;
};

struct peer {
    const char *server_id;
    char pool_uuid[37];
    char boot_id[ID_BOOT_LENGTH + 1];
    char endpoint[108];
    struct rpc_service service;
    struct rpc_server *server;
    pthread_mutex_t lock; /* guards the store below */
    struct peer_name names[PEER_ITEMS_MAX];
    struct peer_volume volumes[PEER_ITEMS_MAX];
    struct peer_snapshot snapshots[PEER_ITEMS_MAX];
    char hold[ID_BOOT_LENGTH + 1]; /* that stands; "" for none */
    unsigned holds;                /* all that were */
    unsigned not_ready;            /* of new snapshots */
    unsigned records;              /* of cuts that were asked for */
    bool records_none;             /* as a server does that knows of no such thing */
    uint64_t free_bytes;
    uint64_t promise_max_bytes; /* 0: as a server that does not tell it */
    const char *zone;           /* topology, or NULL */
    bool old;                   /* serves none of the newer features */
    unsigned calls;             /* all that came */
    int64_t stream_left_ms;     /* that the newest stream had, when it came */
    bool states_boot;           /* when it starts: each answer states `stated`, which the test sets */
    char stated[RPC_BOOT_ID_MAX + 1];
    /* Called without the lock, before (method) is served; may change the store. Returns a code to fail with.
     */
    int (*hook)(struct peer *peer, const char *method, void *context);
    void *hook_context;
};

void peer_start(struct peer *peer, const char *server_id, const char *dir);
void peer_stop(struct peer *peer);
void peer_new_boot(struct peer *peer);

/* The store, for looks and for damage by tests. */
struct peer_volume *peer_volume(struct peer *peer, const char *id);
struct peer_name *peer_name(struct peer *peer, const char *name);
void peer_claim(struct peer *peer, const char *name, const char *volume_id);
struct peer_name *peer_name_of(struct peer *peer, int kind, const char *name);
void peer_claim_of(struct peer *peer, int kind, const char *name, const char *id);
struct peer_snapshot *peer_snapshot(struct peer *peer, const char *id);
size_t peer_count_snapshots(struct peer *peer);
void peer_add_volume(struct peer *peer, const char *id, const char *name, uint64_t size_bytes);
size_t peer_count_volumes(struct peer *peer);
