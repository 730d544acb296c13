/*
 * The Storage service's calls about the server itself and its sessions. Worker threads; sessions are listed
 * by each owner loop in turn, for the volumes that it owns.
 */
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/target/export.h"
#include "datapath/target/reactor.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

#define VOLUME_SIZE_MAX (UINT64_C(1) << 50) /* far below XFS's 8 EiB, far above any disk */

static int service_topology(json_t *topology, Mooring__Storage__V1__GetServerResponse *answer)
{
    const char *key;
    json_t *value;
    answer->topology = calloc(json_object_size(topology) + 1, sizeof(*answer->topology));
    if (!answer->topology)
        return -ENOMEM;
    json_object_foreach(topology, key, value)
    {
        Mooring__Storage__V1__GetServerResponse__TopologyEntry *entry = malloc(sizeof(*entry));
        if (!entry)
            return -ENOMEM;
        mooring__storage__v1__get_server_response__topology_entry__init(entry);
        answer->topology[answer->n_topology++] = entry;
        entry->key = strdup(key);
        entry->value = strdup(json_string_value(value));
        if (!entry->key || !entry->value)
            return -ENOMEM;
    }
    return 0;
}

/* What of the contract is real in this build. */
static int service_features(Mooring__Storage__V1__GetServerResponse *answer)
{
    static const char *const features[] = {"snapshots", "expand",          "limits",
                                           "extents",   "group-snapshots", "scrub"};
    answer->features = calloc(ARRAY_SIZE(features), sizeof(*answer->features));
    if (!answer->features)
        return -ENOMEM;
    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        answer->features[i] = strdup(features[i]);
        if (!answer->features[i])
            return -ENOMEM;
        answer->n_features = i + 1;
    }
    return 0;
}

int service_get_server(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err)
{
    Mooring__Storage__V1__GetServerResponse *answer = (Mooring__Storage__V1__GetServerResponse *)response;
    const struct server *server = ((struct storage_service *)context)->server;
    struct store_capacity capacity;
    (void)call;
    (void)request;
    int code = store_capacity(server->store, &capacity, err);
    if (code)
        return code;
    answer->server_id = strdup(server->settings->server_id);
    answer->pool_uuid = strdup(store_pool_uuid(server->store));
    answer->boot_id = strdup(server->boot_id);
    answer->version = strdup(MOORING_VERSION);
    answer->capacity_bytes = capacity.total_bytes;
    answer->free_bytes = capacity.free_bytes;
    answer->promise_max_bytes = capacity.promise_max_bytes;
    answer->used_bytes = capacity.used_bytes;
    answer->volumes_count = capacity.volumes_count;
    answer->snapshots_count = capacity.snapshots_count;
    answer->volume_size_max_bytes = VOLUME_SIZE_MAX;
    if (!answer->server_id || !answer->pool_uuid || !answer->boot_id || !answer->version ||
        service_features(answer) != 0 ||
        service_server_health(&((struct storage_service *)context)->server->health, &answer->health,
                              &answer->n_health) != 0 ||
        service_portals(server, &answer->portals, &answer->n_portals) != 0 ||
        (server->settings->topology && service_topology(server->settings->topology, answer) != 0))
        return error_errno(err, ENOMEM, "server");
    return 0;
}

/* ---- sessions ---- */

struct session_listing {
    struct loop_message message;
    struct reactor *reactor;
    const char *volume_id; /* "": all */
    Mooring__Storage__V1__ListSessionsResponse *answer;
    size_t capacity;
    int code;
    sem_t listed;
};

static Mooring__Storage__V1__Session *service_session_message(const struct session *session)
{
    Mooring__Storage__V1__Session *message = malloc(sizeof(*message));
    if (!message)
        return NULL;
    mooring__storage__v1__session__init(message);
    message->volume_id = strdup(session->volume_id);
    message->node_id = strdup(session->node_id);
    message->initiator_name = strdup(session->initiator_name);
    message->peer_address = strdup(session->peer_address);
    message->epoch = session->epoch;
    message->generation = session->generation;
    message->loop = session->reactor->index;
    message->commands = atomic_load_explicit(&session->commands, memory_order_relaxed);
    message->read_bytes = atomic_load_explicit(&session->read_bytes, memory_order_relaxed);
    message->written_bytes = atomic_load_explicit(&session->written_bytes, memory_order_relaxed);
    message->outstanding = atomic_load_explicit(&session->outstanding, memory_order_relaxed);
    message->connected_unix_s = session->connected_unix_s;
    if (!message->volume_id || !message->node_id || !message->initiator_name || !message->peer_address) {
        mooring__storage__v1__session__free_unpacked(message, NULL);
        return NULL;
    }
    return message;
}

static int listing_add(struct session_listing *listing, const struct session *session)
{
    Mooring__Storage__V1__ListSessionsResponse *answer = listing->answer;
    if (answer->n_sessions == listing->capacity) {
        size_t capacity = listing->capacity ? 2 * listing->capacity : 64;
        Mooring__Storage__V1__Session **larger = realloc(answer->sessions, capacity * sizeof(*larger));
        if (!larger)
            return -ENOMEM;
        answer->sessions = larger;
        listing->capacity = capacity;
    }
    answer->sessions[answer->n_sessions] = service_session_message(session);
    if (!answer->sessions[answer->n_sessions])
        return -ENOMEM;
    answer->n_sessions++;
    return 0;
}

/* On the owner loop. */
static void listing_run(struct loop_message *message)
{
    struct session_listing *listing = container_of(message, struct session_listing, message);
    for (struct export *export = listing->reactor->exports; export && !listing->code; export = export->next) {
        if (listing->volume_id[0] && !str_equal(listing->volume_id, export->unit.volume_id))
            continue;
        for (struct session *session = export->first; session && !listing->code; session = session->next)
            if (session->standing == SESSION_ADMITTED)
                listing->code = listing_add(listing, session);
    }
    sem_post(&listing->listed);
}

int service_list_sessions(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err)
{
    const Mooring__Storage__V1__ListSessionsRequest *list =
        (const Mooring__Storage__V1__ListSessionsRequest *)request;
    const struct server *server = ((struct storage_service *)context)->server;
    struct session_listing listing = {.message = {.run = listing_run},
                                      .volume_id = list->volume_id,
                                      .answer = (Mooring__Storage__V1__ListSessionsResponse *)response};
    (void)call;
    sem_init(&listing.listed, 0, 0);
    for (unsigned i = 0; i < server->reactors_count && !listing.code; i++) {
        listing.reactor = server->reactors[i];
        loop_post(listing.reactor->loop, &listing.message);
        while (sem_wait(&listing.listed) < 0)
            ;
    }
    sem_destroy(&listing.listed);
    return listing.code ? error_errno(err, -listing.code, "list of sessions") : 0;
}
