/*
 * The Storage service, mooring.storage.v1 (proto/storage.proto): who may call what, and the calls by group.
 * Handlers run on rpc/'s worker threads and may block. Each is thin over the store; what must end whether or
 * not its caller waits is a job (job.h).
 */
#pragma once

#include <stdatomic.h>

#include "common/error.h"
#include "datapath/store/snapshot.h"
#include "datapath/store/store.h"
#include "datapath/target/nodes_seen.h"
#include "proto/storage.pb-c.h"
#include "rpc/rpc.h"

struct health;
struct server;
struct job;

#define SERVICE_NAME_LOCKS 1024
#define STORAGE_SERVICES 7 /* the one of the .proto, in parts that have threads of their own */
#define SERVICE_THREADS 24 /* for calls that change something */
#define COPY_WAITERS_MAX 6 /* calls that wait for a copy: one more is told at once how far it is */
#define FENCES_MAX 8       /* that run at once */

struct fence_call {
    char node_id[ID_NODE_MAX + 1]; /* "": none */
    uint64_t since_ms;
};

struct storage_service {
    struct server *server;
    struct nodes_seen seen;
    /* By name: its release, and the creation of its volume, one at a time. */
    pthread_mutex_t name_locks[SERVICE_NAME_LOCKS];
    pthread_mutex_t fences_lock;
    struct fence_call fences[FENCES_MAX]; /* that run */
    atomic_uint copy_waiters;
    struct rpc_service services[STORAGE_SERVICES];
};

void storage_service_init(struct storage_service *storage, struct server *server);
void storage_service_done(struct storage_service *storage);

/* ---- for the groups ---- */

/* E_INVALID_ARGUMENT for what is no volume id or another server's, E_NOT_FOUND; else a reference. */
int service_find_volume(struct storage_service *storage, const char *volume_id, struct volume **ret,
                        struct error *err);
int service_check_volume_id(struct storage_service *storage, const char *volume_id, struct error *err);
int service_check_node_id(const char *node_id, struct error *err);

/* Messages of what the store knows, on the heap as protobuf-c frees it. NULL: no memory. */
Mooring__Storage__V1__Volume *service_volume_of(struct storage_service *storage, struct volume *volume,
                                                struct error *err);
/* What was made hangs in *ret in any case. 0 or -ENOMEM. unreadable: why, or NULL. */
int service_server_health(struct health *health, Mooring__Storage__V1__Health ***ret, size_t *ret_count);
int service_volume_health(struct health *health, const struct volume_record *record, const char *unreadable,
                          Mooring__Storage__V1__Health ***ret, size_t *ret_count);
Mooring__Storage__V1__Attachment *service_attachment_message(const struct attachment *attachment);
/* "address:port" of each portal, and the IQN. 0 or -ENOMEM. */
int service_portals(const struct server *server, char ***ret_portals, size_t *ret_count);
char *service_iqn(const char *volume_id);

int service_get_server(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err);
int service_list_sessions(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err);

int service_get_scrub(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                      void *context, struct error *err);
int service_start_scrub(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                        void *context, struct error *err);

int service_claim_name(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err);
int service_release_name(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err);
int service_create_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err);
int service_delete_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err);
int service_get_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err);
int service_list_volumes(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err);
int service_clear_write_failed(struct rpc_call *call, const ProtobufCMessage *request,
                               ProtobufCMessage *response, void *context, struct error *err);

/* What a request sets, NULL: no limits; E_INVALID_ARGUMENT. */
int service_limits(const Mooring__Storage__V1__Limits *limits, struct volume_limits *ret, struct error *err);
int service_expand_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err);
int service_modify_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err);

/* ---- names: what is made under a claim, and what holds one ---- */

/* Held over the check of a claim and what is made under it; the caller unlocks it. E_BUSY when the call that
 * has it does not end for a while: a disk that does not answer must not take a thread for each repeat. */
int service_name_lock(struct storage_service *storage, enum name_kind kind, const char *name,
                      pthread_mutex_t **ret_lock, struct error *err);
/* E_BUSY unless the claim of name that stands here is holder_id's. */
int service_check_claim(struct storage_service *storage, enum name_kind kind, const char *name,
                        const char *holder_id, struct error *err);
bool service_group_has_snapshots(struct store *store, const char *group_id);

/* ---- snapshots ---- */

int service_check_snapshot_id(struct storage_service *storage, const char *snapshot_id, struct error *err);
int service_find_snapshot(struct storage_service *storage, const char *snapshot_id, struct snapshot **ret,
                          struct error *err);
Mooring__Storage__V1__Snapshot *service_snapshot_of(struct snapshot *snapshot, bool exclusive,
                                                    struct error *err);
int service_create_snapshot(struct rpc_call *call, const ProtobufCMessage *request,
                            ProtobufCMessage *response, void *context, struct error *err);
int service_delete_snapshot(struct rpc_call *call, const ProtobufCMessage *request,
                            ProtobufCMessage *response, void *context, struct error *err);
int service_get_snapshot(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err);
int service_list_snapshots(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                           void *context, struct error *err);
int service_hold_volumes(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err);
int service_release_volumes(struct rpc_call *call, const ProtobufCMessage *request,
                            ProtobufCMessage *response, void *context, struct error *err);
int service_commit_snapshots(struct rpc_call *call, const ProtobufCMessage *request,
                             ProtobufCMessage *response, void *context, struct error *err);
/* CreateVolume out of the source that the request names; a reference. */
int service_create_copy(struct storage_service *storage, struct rpc_call *call,
                        const Mooring__Storage__V1__CreateVolumeRequest *create, struct volume_record *spec,
                        struct volume **ret, struct error *err);
int service_list_extents(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err);

int service_attach_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err);
int service_detach_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err);
int service_get_attachment(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                           void *context, struct error *err);
int service_grant_generation(struct rpc_call *call, const ProtobufCMessage *request,
                             ProtobufCMessage *response, void *context, struct error *err);
int service_begin_format(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err);
int service_end_format(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err);

int service_register_node(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err);
int service_list_nodes(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err);
int service_fence_node(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err);
int service_unfence_node(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err);
