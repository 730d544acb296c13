/* The Storage service's calls about nodes: registration, fences. Worker threads. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/fence.h"
#include "datapath/target/removal.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

#define HEARTBEAT_INTERVAL_MS 10000
#define FENCE_RETRY_MS 20
#define FENCE_REPEATS_MAX 2     /* of one node at once, so that repeats leave threads for other nodes */
#define FENCE_BUSY_MAX_MS 60000 /* for a caller that set no deadline */

/* ---- registration ---- */

struct registration {
    const char *boot_id, *address;
    uint32_t volumes_max;
    bool fenced;
};

static int register_edit(struct node_record *record, void *context, struct error *err)
{
    struct registration *registration = context;
    bool changed;
    int code = fence_register(record, registration->boot_id, registration->address, &changed, err);
    if (code)
        return code;
    changed |= record->volumes_max != registration->volumes_max;
    record->volumes_max = registration->volumes_max;
    registration->fenced = record->fenced;
    return changed ? 0 : VOLUME_UNCHANGED;
}

int service_register_node(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err)
{
    const Mooring__Storage__V1__RegisterNodeRequest *node =
        (const Mooring__Storage__V1__RegisterNodeRequest *)request;
    Mooring__Storage__V1__RegisterNodeResponse *answer =
        (Mooring__Storage__V1__RegisterNodeResponse *)response;
    struct storage_service *storage = context;
    struct registration registration = {
        .boot_id = node->boot_id, .address = node->address, .volumes_max = node->volumes_max};
    (void)call;
    int code = service_check_node_id(node->node_id, err);
    if (code == 0)
        code = store_node_update(storage->server->store, node->node_id, register_edit, &registration, err);
    if (code)
        return code;
    nodes_seen_note(&storage->seen, node->node_id);
    answer->fenced = registration.fenced;
    answer->heartbeat_interval_ms = HEARTBEAT_INTERVAL_MS;
    return 0;
}

/* ---- looking ---- */

static bool service_node_boot_ids(const struct node_record *record, Mooring__Storage__V1__Node *message)
{
    message->boot_ids = calloc(record->fenced_boot_ids_count + 1, sizeof(*message->boot_ids));
    if (!message->boot_ids)
        return false;
    for (size_t i = 0; i <= record->fenced_boot_ids_count; i++) {
        bool own = i == record->fenced_boot_ids_count;
        const char *boot_id = own ? record->boot_id : record->fenced_boot_ids[i];
        if (boot_id[0] == '\0')
            continue;
        message->boot_ids[message->n_boot_ids] = strdup(boot_id);
        if (!message->boot_ids[message->n_boot_ids])
            return false;
        message->n_boot_ids++;
    }
    return true;
}

static Mooring__Storage__V1__Node *service_node_message(struct storage_service *storage,
                                                        const struct node_record *record)
{
    Mooring__Storage__V1__Node *message = malloc(sizeof(*message));
    if (!message)
        return NULL;
    mooring__storage__v1__node__init(message);
    message->node_id = strdup(record->id);
    message->boot_id = strdup(record->boot_id);
    message->fenced = record->fenced;
    message->fence_reason = strdup(record->fence_reason);
    message->address = strdup(record->address);
    message->volumes_max = record->volumes_max;
    message->last_seen_unix_s = nodes_seen_last(&storage->seen, record->id);
    if (!message->node_id || !message->boot_id || !message->fence_reason || !message->address ||
        !service_node_boot_ids(record, message)) {
        mooring__storage__v1__node__free_unpacked(message, NULL);
        return NULL;
    }
    return message;
}

static int service_list_node(struct storage_service *storage, const char *node_id,
                             Mooring__Storage__V1__ListNodesResponse *answer, struct error *err)
{
    struct node_record record = {0};
    int code = store_node_get(storage->server->store, node_id, &record, err);
    if (code == E_NOT_FOUND) { /* a list of none */
        error_done(err);
        return 0;
    }
    if (code)
        return code;
    answer->nodes = calloc(1, sizeof(*answer->nodes));
    if (answer->nodes)
        answer->nodes[0] = service_node_message(storage, &record);
    node_record_done(&record);
    if (!answer->nodes || !answer->nodes[0])
        return error_errno(err, ENOMEM, "node %s", node_id);
    answer->n_nodes = 1;
    answer->nodes[0]->attached_count = (uint32_t)store_node_attached(storage->server->store, node_id);
    return 0;
}

static int service_list_all_nodes(struct storage_service *storage,
                                  Mooring__Storage__V1__ListNodesResponse *answer, struct error *err)
{
    struct node_record *records;
    size_t count;
    int code = store_node_list(storage->server->store, &records, &count, err);
    if (code)
        return code;
    answer->nodes = calloc(count ? count : 1, sizeof(*answer->nodes));
    for (size_t i = 0; i < count; i++) {
        if (answer->nodes && code == 0) {
            answer->nodes[i] = service_node_message(storage, &records[i]);
            if (answer->nodes[i])
                answer->n_nodes++;
            else
                code = -ENOMEM;
        }
        node_record_done(&records[i]);
    }
    free(records);
    return code || !answer->nodes ? error_errno(err, ENOMEM, "list of nodes") : 0;
}

int service_list_nodes(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err)
{
    const char *node_id = ((const Mooring__Storage__V1__ListNodesRequest *)request)->node_id;
    Mooring__Storage__V1__ListNodesResponse *answer = (Mooring__Storage__V1__ListNodesResponse *)response;
    (void)call;
    return node_id[0] ? service_list_node(context, node_id, answer, err)
                      : service_list_all_nodes(context, answer, err);
}

/* ---- fence ---- */

struct fencing {
    const Mooring__Storage__V1__FenceNodeRequest *request;
};

static int fence_edit(struct node_record *record, void *context, struct error *err)
{
    const Mooring__Storage__V1__FenceNodeRequest *fence = ((const struct fencing *)context)->request;
    return fence_set(record, fence->reason, (const char *const *)fence->boot_ids, fence->n_boot_ids, err);
}

/* Of a volume whose record cannot be read it says no: nobody is served by that one, and when it can be read
 * again, at a start, what the fence forbids is removed before (recovery.h). */
static bool fence_holds(struct volume *volume, const char *node_id)
{
    struct volume_record record = {0};
    if (volume_snapshot_record(volume, &record) != 0)
        return true; /* looked at again by the removal */
    bool holds = volume_record_attachment(&record, node_id) != NULL;
    volume_record_done(&record);
    return holds;
}

/* The removal from one volume; without a job while another operation has the volume's slot. */
struct fence_removal {
    struct volume *volume; /* a reference */
    struct job *job;       /* a reference, or NULL */
};

struct fence_removals {
    struct fence_removal *items;
    size_t count, capacity;
};

static int fence_removals_add(struct fence_removals *removals, struct volume *volume)
{
    if (removals->count == removals->capacity) {
        size_t capacity = removals->capacity ? 2 * removals->capacity : 16;
        struct fence_removal *larger = realloc(removals->items, capacity * sizeof(*larger));
        if (!larger)
            return -ENOMEM;
        removals->items = larger;
        removals->capacity = capacity;
    }
    removals->items[removals->count++] = (struct fence_removal){.volume = volume_ref(volume)};
    return 0;
}

static void fence_removals_done(struct fence_removals *removals)
{
    for (size_t i = 0; i < removals->count; i++) {
        job_unref(removals->items[i].job);
        volume_unref(removals->items[i].volume);
    }
    free(removals->items);
}

/* The volumes that the node holds; the fence, which is recorded, lets no other one in. */
static int fence_find(struct storage_service *storage, const char *node_id, struct fence_removals *removals,
                      struct error *err)
{
    int code = 0;
    struct volume *next, *volume = store_volume_next(storage->server->store, "");
    for (; volume; volume = next) {
        if (fence_holds(volume, node_id) && fence_removals_add(removals, volume) != 0)
            code = error_errno(err, ENOMEM, "fence of node %s", node_id); /* the others all the same */
        next = store_volume_next(storage->server->store, volume_id(volume));
        volume_unref(volume);
    }
    return code;
}

/* Begin each removal that can begin now; *ret_busy counts those that another operation keeps waiting. */
static int fence_start_free(struct storage_service *storage, const char *node_id,
                            struct fence_removals *removals, size_t *ret_busy, struct error *err)
{
    int code = 0;
    *ret_busy = 0;
    for (size_t i = 0; i < removals->count; i++) {
        struct fence_removal *removal = &removals->items[i];
        if (removal->job || !removal->volume)
            continue;
        int failed = removal_start(storage->server, removal->volume, node_id, 0, &removal->job, err);
        if (failed == 0)
            continue;
        if (failed == E_BUSY) {
            ++*ret_busy;
            continue;
        }
        removal->volume = volume_unref(removal->volume); /* done with: not attached any more, or failed */
        if (failed != E_NOT_FOUND)
            code = failed;
    }
    return code;
}

/* Begin all before waiting for any, so that one busy volume keeps no other one open; then those that were
 * busy, as they become free. */
static int fence_start_removals(struct storage_service *storage, struct rpc_call *call, const char *node_id,
                                struct fence_removals *removals, struct error *err)
{
    uint64_t until_ms = time_now_ms() + FENCE_BUSY_MAX_MS;
    int code = fence_find(storage, node_id, removals, err);
    for (;;) {
        size_t busy;
        int failed = fence_start_free(storage, node_id, removals, &busy, err);
        code = failed ? failed : code;
        if (busy == 0)
            return code;
        int64_t left_ms = rpc_call_remaining_ms(call);
        if (rpc_call_cancelled(call) || left_ms <= 0 || (left_ms == INT64_MAX && time_now_ms() >= until_ms))
            return E_BUSY; /* err says what runs */
        usleep(FENCE_RETRY_MS * 1000);
    }
}

static int fence_wait(struct fence_removals *removals, struct rpc_call *call,
                      Mooring__Storage__V1__FenceNodeResponse *answer, struct error *err)
{
    int code = 0;
    answer->detached_volume_ids = calloc(removals->count ? removals->count : 1, sizeof(char *));
    for (size_t i = 0; i < removals->count; i++) {
        const struct fence_removal *removal = &removals->items[i];
        if (!removal->job)
            continue;
        int failed = job_wait_uncounted(removal->job, call, err);
        char *id = failed ? NULL : strdup(volume_id(removal->volume));
        if (id && answer->detached_volume_ids)
            answer->detached_volume_ids[answer->n_detached_volume_ids++] = id;
        else
            free(id);
        if (failed && failed != E_NOT_FOUND)
            code = failed;
    }
    return code;
}

/* A place among the fences that run; NULL while this node's fences have all that one node may have. */
static struct fence_call *fence_begin(struct storage_service *storage, const char *node_id, struct error *err)
{
    struct fence_call *free_call = NULL, *standing = NULL;
    size_t standing_count = 0;
    pthread_mutex_lock(&storage->fences_lock);
    for (size_t i = 0; i < FENCES_MAX; i++) {
        struct fence_call *fence = &storage->fences[i];
        if (fence->node_id[0] == '\0')
            free_call = fence;
        else if (str_equal(fence->node_id, node_id) && ++standing_count == 1)
            standing = fence;
    }
    if (free_call && standing_count < FENCE_REPEATS_MAX) {
        str_copy(free_call->node_id, sizeof(free_call->node_id), node_id);
        free_call->since_ms = time_now_ms();
    } else {
        error_set(err, E_BUSY, "node %s is fenced, and its volumes have been drained for %lu ms: retry later",
                  node_id, standing ? (unsigned long)(time_now_ms() - standing->since_ms) : 0);
        free_call = NULL;
    }
    pthread_mutex_unlock(&storage->fences_lock);
    return free_call;
}

static void fence_end(struct storage_service *storage, struct fence_call *fence)
{
    pthread_mutex_lock(&storage->fences_lock);
    fence->node_id[0] = '\0';
    pthread_mutex_unlock(&storage->fences_lock);
}

int service_fence_node(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err)
{
    const Mooring__Storage__V1__FenceNodeRequest *fence =
        (const Mooring__Storage__V1__FenceNodeRequest *)request;
    struct storage_service *storage = context;
    struct fencing fencing = {.request = fence};
    struct fence_removals removals = {0};
    int code = service_check_node_id(fence->node_id, err);
    if (code == 0)
        code = store_node_update(storage->server->store, fence->node_id, fence_edit, &fencing, err);
    if (code)
        return code;
    log_warning("node %s is fenced: %s", fence->node_id, fence->reason);
    struct fence_call *running = fence_begin(storage, fence->node_id, err);
    if (!running)
        return E_BUSY;
    code = fence_start_removals(storage, call, fence->node_id, &removals, err);
    int waited = fence_wait(&removals, call, (Mooring__Storage__V1__FenceNodeResponse *)response, err);
    fence_removals_done(&removals);
    fence_end(storage, running);
    return code ? code : waited;
}

static int unfence_edit(struct node_record *record, void *context, struct error *err)
{
    (void)context;
    (void)err;
    if (!record->fenced)
        return VOLUME_UNCHANGED;
    fence_clear(record);
    return 0;
}

int service_unfence_node(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    const Mooring__Storage__V1__UnfenceNodeRequest *unfence =
        (const Mooring__Storage__V1__UnfenceNodeRequest *)request;
    struct storage_service *storage = context;
    struct node_record record = {0};
    (void)call;
    (void)response;
    int code = service_check_node_id(unfence->node_id, err);
    if (code == 0)
        code = store_node_get(storage->server->store, unfence->node_id, &record, err);
    if (code)
        return code; /* NOT_FOUND: never create a record for a mistyped id */
    node_record_done(&record);
    code = store_node_update(storage->server->store, unfence->node_id, unfence_edit, NULL, err);
    if (code == 0)
        log_warning("node %s is unfenced by an operator", unfence->node_id);
    return code;
}
