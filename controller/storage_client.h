/*
 * The storage servers as the controller sees them: one gRPC client each, and the proof that an answer came
 * from the pool that the configuration names (invariant 9). Every answer, refusals included, is taken only
 * when the server process that gave it (one boot id, which its answers state) was seen with the configured
 * server id and pool UUID; a server with another pool is E_UNAVAILABLE, and named.
 *
 * Threads: any; all functions block until deadline_ms (of time_now_ms()) at most. Nothing is retried here:
 * the CO does that.
 *
 * Codes: what the server answered, but an answer that did not come (no connection, no time, a server that
 * shuts down) is always E_UNAVAILABLE. E_DEADLINE is only the caller's own deadline, before anything was
 * sent.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/id.h"
#include "common/servers.h"
#include "common/size.h"
#include "controller/share.h"
#include "proto/storage.pb-c.h"
#include "rpc/rpc.h"

struct storage;
struct storage_server;

/* servers and tls must outlive it. Makes no connection yet. */
int storage_new(struct storage **ret, const struct server_list *servers, const struct rpc_tls *tls,
                struct error *err);
struct storage *storage_free(struct storage *storage);

/*
 * Calls and streams under way, of all servers together; the threads of who makes them are at least as many.
 * One server has a share of them (controller/share.h), apart for what its disk may keep and for what it
 * answers from memory: what finds no place is E_UNAVAILABLE at once, and names the server.
 */
#define STORAGE_CALLS_MAX 128
#define STORAGE_STREAMS_MAX 8

/* In the order of ids, those declared gone among them. */
size_t storage_count(const struct storage *storage);
struct storage_server *storage_at(const struct storage *storage, size_t index);
const struct server_config *storage_server_config(const struct storage_server *server);

/* By id, or NULL. */
struct storage_server *storage_find(const struct storage *storage, const char *server_id);

/*
 * The server that holds volume_id if anyone does. E_NOT_FOUND, a proven absence, when the id has not the
 * shape of ours, or its server was declared gone; E_UNAVAILABLE when that server is not configured.
 */
int storage_of_volume(const struct storage *storage, const char *volume_id, struct storage_server **ret,
                      struct error *err);

/* The same for a snapshot. */
int storage_of_snapshot(const struct storage *storage, const char *snapshot_id, struct storage_server **ret,
                        struct error *err);

/* E_PRECONDITION, naming the server, when it does not serve `feature` (storage.proto, GetServer.features).
 * For calls that an older server would take for another: it does not know their newer fields. */
int storage_require(struct storage_server *server, const char *feature, uint64_t deadline_ms,
                    struct error *err);

/* One call of the Storage service. *ret_response is freed by protobuf_c_message_free_unpacked(…, NULL);
 * ret_response may be NULL when the answer holds nothing. */
int storage_call(struct storage_server *server, const char *method, const ProtobufCMessage *request,
                 uint64_t deadline_ms, ProtobufCMessage **ret_response, struct error *err);

/* A place among a server's streams, for a call that makes one: taken before anything else is asked for it. */
int storage_stream_enter(struct storage_server *server, const char *method, struct share_place *ret_place,
                         struct error *err);

/* A server-streaming call, in a place: each response is handed to receive, borrowed; a non-zero return of it
 * ends the call with that code. What was handed on counts only when this returns 0: it is proven afterwards,
 * as above.
 */
int storage_stream(struct storage_server *server, const char *method, const ProtobufCMessage *request,
                   uint64_t deadline_ms, int (*receive)(const ProtobufCMessage *response, void *context),
                   void *context, struct error *err);

/* GetServer, its id and pool checked. Also what keeps storage_server_ready() and the topology fresh. */
int storage_watch_server(struct storage_server *server, uint64_t deadline_ms, struct error *err);

/* The same in a place, for a CO's call; *ret_response as above. */
int storage_get_server(struct storage_server *server, uint64_t deadline_ms,
                       Mooring__Storage__V1__GetServerResponse **ret_response, struct error *err);

/* GetVolume. E_NOT_FOUND is a proven absence. */
int storage_get_volume(struct storage_server *server, const char *volume_id, uint64_t deadline_ms,
                       Mooring__Storage__V1__Volume **ret_volume, struct error *err);

/* GetSnapshot. E_NOT_FOUND is a proven absence. */
int storage_get_snapshot(struct storage_server *server, const char *snapshot_id, uint64_t deadline_ms,
                         Mooring__Storage__V1__Snapshot **ret_snapshot, struct error *err);

/* What the server said of its place when it was asked last, an object of strings; NULL before that or when
 * it said nothing and the configuration neither. A reference for the caller (json_decref takes NULL). */
json_t *storage_server_topology(struct storage_server *server);

struct storage_room {
    uint64_t free_bytes;        /* for new volumes */
    uint64_t promise_max_bytes; /* the largest thin volume there is room for: more where it overcommits */
    uint64_t size_max_bytes;    /* of one volume, whatever there is room for */
};
static inline struct storage_room storage_room_of(const Mooring__Storage__V1__GetServerResponse *response)
{
    return (struct storage_room){
        .free_bytes = response->free_bytes,
        .promise_max_bytes = MAX(response->free_bytes, response->promise_max_bytes),
        .size_max_bytes = response->volume_size_max_bytes ? response->volume_size_max_bytes : INT64_MAX,
    };
}

/* The room that the server had when it was asked last, which is seconds ago at most while it is up. False
 * when it was never asked. Never blocks. */
bool storage_server_room(struct storage_server *server, struct storage_room *ret);

/* Did the server answer, with the right pool, when it was asked last? Never blocks. */
bool storage_server_ready(struct storage_server *server);
