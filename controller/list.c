/*
 * Pages of volumes and snapshots. Owns a page's items until list_page_done(); run by worker threads. A page
 * asks for one item more than it may hold: whether there is one decides on a next token.
 */
#include "controller/list.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/size.h"
#include "common/strings.h"
#include "controller/health.h"

#define TOKEN_PREFIX "v1:"
#define ASK_MAX 101u /* of one server at a time: a usual page, and the entry that tells of the next one */

/* What ListVolumesResponse and ListSnapshotsResponse have in common, and the two items. */
struct list_response {
    ProtobufCMessage base;
    size_t count;
    ProtobufCMessage **items;
    protobuf_c_boolean more;
};
struct list_item {
    ProtobufCMessage base;
    char *id;
};
#define SAME_PLACE(type, field, common, common_field)                                                        \
    _Static_assert(offsetof(type, field) == offsetof(struct common, common_field), #field)
SAME_PLACE(Mooring__Storage__V1__ListVolumesResponse, n_volumes, list_response, count);
SAME_PLACE(Mooring__Storage__V1__ListVolumesResponse, volumes, list_response, items);
SAME_PLACE(Mooring__Storage__V1__ListVolumesResponse, more, list_response, more);
SAME_PLACE(Mooring__Storage__V1__ListSnapshotsResponse, n_snapshots, list_response, count);
SAME_PLACE(Mooring__Storage__V1__ListSnapshotsResponse, snapshots, list_response, items);
SAME_PLACE(Mooring__Storage__V1__ListSnapshotsResponse, more, list_response, more);
SAME_PLACE(Mooring__Storage__V1__Volume, volume_id, list_item, id);
SAME_PLACE(Mooring__Storage__V1__Snapshot, snapshot_id, list_item, id);

struct list {
    const struct list_request *request;
    uint64_t deadline_ms;
    size_t wanted; /* entries of the page, and one */
    char after[ID_SNAPSHOT_MAX + 1];
    struct list_page page;
};

static const char *item_id(const ProtobufCMessage *item)
{
    return ((const struct list_item *)item)->id;
}

/* ---- tokens ---- */

void list_token_format(const char *id, char ret_token[LIST_TOKEN_MAX + 1])
{
    size_t length = strnlen(id, ID_SNAPSHOT_MAX);

    memcpy(ret_token, TOKEN_PREFIX, sizeof(TOKEN_PREFIX) - 1);
    memcpy(ret_token + sizeof(TOKEN_PREFIX) - 1, id, length);
    ret_token[sizeof(TOKEN_PREFIX) - 1 + length] = '\0';
}

int list_token_parse(enum list_kind kind, const char *token, char ret_id[ID_SNAPSHOT_MAX + 1],
                     struct error *err)
{
    bool (*valid)(const char *id) = kind == LIST_SNAPSHOTS ? id_snapshot_valid : id_volume_valid;
    const char *id = token + sizeof(TOKEN_PREFIX) - 1;

    if (*token == '\0') {
        ret_id[0] = '\0';
        return E_OK;
    }
    if (!str_starts_with(token, TOKEN_PREFIX) || !valid(id))
        return error_set(err, E_BUSY, "starting_token is none that this list gave; begin again without one");
    str_copy(ret_id, ID_SNAPSHOT_MAX + 1, id);
    return E_OK;
}

/* ---- a page ---- */

void list_page_done(struct list_page *page)
{
    for (size_t i = 0; i < page->count; i++)
        protobuf_c_message_free_unpacked(page->items[i], NULL);
    free(page->items);
    *page = (struct list_page){0};
}

static bool keeps(const struct list *list, const ProtobufCMessage *item)
{
    return list->request->kind != LIST_VOLUME_HEALTH ||
           health_speaks((const Mooring__Storage__V1__Volume *)item);
}

/* Move what the page keeps of the response's items into it, as far as it has room. */
static int take_items(struct list *list, struct list_response *response, struct error *err)
{
    struct list_page *page = &list->page;
    ProtobufCMessage **grown;

    if (response->count == 0)
        return E_OK;
    str_copy(list->after, sizeof(list->after), item_id(response->items[response->count - 1]));
    grown = realloc(page->items, (page->count + response->count) * sizeof(*page->items));
    if (!grown)
        return error_errno(err, ENOMEM, "a list");
    page->items = grown;
    for (size_t i = 0; i < response->count && page->count < list->wanted; i++) {
        if (keeps(list, response->items[i]))
            page->items[page->count++] = TAKE_PTR(response->items[i]);
    }
    return E_OK;
}

/* protobuf-c frees a repeated field's items one by one, and knows no holes. */
static void free_response(struct list_response *response)
{
    size_t left = 0;

    for (size_t i = 0; i < response->count; i++) {
        if (response->items[i])
            response->items[left++] = response->items[i];
    }
    response->count = left;
    protobuf_c_message_free_unpacked(&response->base, NULL);
}

static int ask_volumes(const struct list *list, struct storage_server *server, uint32_t count,
                       ProtobufCMessage **ret, struct error *err)
{
    Mooring__Storage__V1__ListVolumesRequest request = MOORING__STORAGE__V1__LIST_VOLUMES_REQUEST__INIT;

    request.after_volume_id = (char *)list->after;
    request.max_entries = count;
    return storage_call(server, "ListVolumes", &request.base, list->deadline_ms, ret, err);
}

static int ask_snapshots(const struct list *list, struct storage_server *server, uint32_t count,
                         ProtobufCMessage **ret, struct error *err)
{
    Mooring__Storage__V1__ListSnapshotsRequest request = MOORING__STORAGE__V1__LIST_SNAPSHOTS_REQUEST__INIT;

    request.after_snapshot_id = (char *)list->after;
    request.max_entries = count;
    request.source_volume_id = (char *)list->request->source_volume_id;
    return storage_call(server, "ListSnapshots", &request.base, list->deadline_ms, ret, err);
}

static int ask(struct list *list, struct storage_server *server, bool *ret_more, struct error *err)
{
    uint32_t count = (uint32_t)MIN(list->wanted - list->page.count, (size_t)ASK_MAX);
    ProtobufCMessage *message = NULL;
    struct list_response *response;
    int r;

    if (list->request->kind == LIST_VOLUME_HEALTH)
        count = ASK_MAX;
    r = list->request->kind == LIST_SNAPSHOTS ? ask_snapshots(list, server, count, &message, err)
                                              : ask_volumes(list, server, count, &message, err);
    if (r != E_OK)
        return r;
    response = (struct list_response *)message;
    *ret_more = response->more;
    if (response->count > count || (response->more && response->count == 0))
        r = error_set(err, -EPROTO, "storage server %s answers a list with a wrong count",
                      storage_server_config(server)->id);
    else
        r = take_items(list, response, err);
    free_response(response);
    return r;
}

/* All of one server's items after list->after, as far as the page needs them. */
static int list_server(struct list *list, struct storage_server *server, struct error *err)
{
    bool more = true;
    int r = E_OK;

    while (r == E_OK && more && list->page.count < list->wanted)
        r = ask(list, server, &more, err);
    return r;
}

/* Drop the one item that only showed that there is a next page, and name the last that stays. */
static void end_page(struct list *list)
{
    struct list_page *page = &list->page;

    if (page->count < list->wanted)
        return;
    protobuf_c_message_free_unpacked(page->items[--page->count], NULL);
    list_token_format(item_id(page->items[page->count - 1]), page->next_token);
}

static int list_all(struct list *list, const struct storage *storage, struct error *err)
{
    char first[ID_SERVER_MAX + 1] = "";
    int r = E_OK;

    if (list->after[0] != '\0')
        snprintf(first, sizeof(first), "%.*s", (int)strcspn(list->after, "."), list->after);
    for (size_t i = 0; r == E_OK && i < storage_count(storage); i++) {
        struct storage_server *server = storage_at(storage, i);
        const struct server_config *config = storage_server_config(server);
        int order = strcmp(config->id, first);

        if (config->gone || order < 0 || list->page.count >= list->wanted)
            continue;
        if (list->request->server && list->request->server != server)
            continue;
        if (order > 0)
            list->after[0] = '\0';
        r = list_server(list, server, err);
    }
    return r;
}

int list_page_get(struct controller *controller, const struct list_request *request, uint64_t deadline_ms,
                  struct list_page *ret_page, struct error *err)
{
    struct list list = {.request = request, .deadline_ms = deadline_ms};
    size_t entries = request->max_entries > 0 ? (size_t)request->max_entries : LIST_PAGE_MAX;
    int r;

    list.wanted = MIN(entries, (size_t)LIST_PAGE_MAX) + 1;
    r = list_token_parse(request->kind, request->token, list.after, err);
    if (r == E_OK)
        r = list_all(&list, controller->storage, err);
    if (r != E_OK) {
        list_page_done(&list.page);
        return r;
    }
    end_page(&list);
    *ret_page = list.page;
    return E_OK;
}
