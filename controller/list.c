/*
 * Pages of volumes. Owns a page's answers until list_page_done(); run by worker threads. A page asks for one
 * volume more than it may hold: whether there is one decides on a next token.
 */
#include "controller/list.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/size.h"
#include "common/strings.h"

#define TOKEN_PREFIX "v1:"
#define ASK_MAX 100u /* of one server at a time */

struct list {
    struct controller *controller;
    uint64_t deadline_ms;
    size_t wanted; /* entries of the page, and one */
    char after[ID_VOLUME_MAX + 1];
    struct list_page page;
};

void list_token_format(const char *volume_id, char ret_token[LIST_TOKEN_MAX + 1])
{
    size_t length = strnlen(volume_id, ID_VOLUME_MAX);

    memcpy(ret_token, TOKEN_PREFIX, sizeof(TOKEN_PREFIX) - 1);
    memcpy(ret_token + sizeof(TOKEN_PREFIX) - 1, volume_id, length);
    ret_token[sizeof(TOKEN_PREFIX) - 1 + length] = '\0';
}

int list_token_parse(const char *token, char ret_volume_id[ID_VOLUME_MAX + 1], struct error *err)
{
    const char *id = token + sizeof(TOKEN_PREFIX) - 1;

    if (*token == '\0') {
        ret_volume_id[0] = '\0';
        return E_OK;
    }
    if (!str_starts_with(token, TOKEN_PREFIX) || !id_volume_valid(id))
        return error_set(err, E_BUSY,
                         "starting_token is none that ListVolumes gave; begin again without one");
    str_copy(ret_volume_id, ID_VOLUME_MAX + 1, id);
    return E_OK;
}

void list_page_done(struct list_page *page)
{
    for (size_t i = 0; i < page->parts_count; i++)
        protobuf_c_message_free_unpacked(&page->parts[i]->base, NULL);
    free(page->parts);
    *page = (struct list_page){0};
}

static int add_part(struct list_page *page, Mooring__Storage__V1__ListVolumesResponse *part,
                    struct error *err)
{
    Mooring__Storage__V1__ListVolumesResponse **grown =
        realloc(page->parts, (page->parts_count + 1) * sizeof(*page->parts));

    if (!grown) {
        protobuf_c_message_free_unpacked(&part->base, NULL);
        return error_errno(err, ENOMEM, "ListVolumes");
    }
    page->parts = grown;
    page->parts[page->parts_count++] = part;
    page->volumes_count += part->n_volumes;
    return E_OK;
}

static int ask(struct list *list, struct storage_server *server, bool *ret_more, struct error *err)
{
    Mooring__Storage__V1__ListVolumesRequest request = MOORING__STORAGE__V1__LIST_VOLUMES_REQUEST__INIT;
    Mooring__Storage__V1__ListVolumesResponse *response;
    ProtobufCMessage *message = NULL;
    int r;

    request.after_volume_id = list->after;
    request.max_entries = (uint32_t)MIN(list->wanted - list->page.volumes_count, (size_t)ASK_MAX);
    r = storage_call(server, "ListVolumes", &request.base, list->deadline_ms, &message, err);
    if (r != E_OK)
        return r;
    response = (Mooring__Storage__V1__ListVolumesResponse *)message;
    if (response->n_volumes > request.max_entries || (response->more && response->n_volumes == 0)) {
        protobuf_c_message_free_unpacked(message, NULL);
        return error_set(err, -EPROTO, "storage server %s answers ListVolumes with a wrong count",
                         storage_server_config(server)->id);
    }
    *ret_more = response->more;
    if (response->n_volumes > 0)
        str_copy(list->after, sizeof(list->after), response->volumes[response->n_volumes - 1]->volume_id);
    return add_part(&list->page, response, err);
}

/* All of one server's volumes after list->after, as far as the page needs them. */
static int list_server(struct list *list, struct storage_server *server, struct error *err)
{
    bool more = true;
    int r = E_OK;

    while (r == E_OK && more && list->page.volumes_count < list->wanted)
        r = ask(list, server, &more, err);
    return r;
}

/* Drop the one volume that only showed that there is a next page, and name the last that stays. */
static void end_page(struct list *list)
{
    struct list_page *page = &list->page;
    Mooring__Storage__V1__ListVolumesResponse *part;
    size_t i;

    if (page->volumes_count < list->wanted)
        return;
    i = page->parts_count;
    while (page->parts[i - 1]->n_volumes == 0)
        i--;
    part = page->parts[i - 1];
    protobuf_c_message_free_unpacked(&part->volumes[--part->n_volumes]->base, NULL);
    page->volumes_count--;
    while (page->parts[i - 1]->n_volumes == 0)
        i--;
    part = page->parts[i - 1];
    list_token_format(part->volumes[part->n_volumes - 1]->volume_id, page->next_token);
}

static int list_all(struct list *list, struct error *err)
{
    struct storage *storage = list->controller->storage;
    char first[ID_SERVER_MAX + 1] = "";
    int r = E_OK;

    if (list->after[0] != '\0')
        id_volume_server(list->after, first, NULL);
    for (size_t i = 0; r == E_OK && i < storage_count(storage); i++) {
        const struct server_config *config = storage_server_config(storage_at(storage, i));
        int order = strcmp(config->id, first);

        if (config->gone || order < 0 || list->page.volumes_count >= list->wanted)
            continue;
        if (order > 0)
            list->after[0] = '\0';
        r = list_server(list, storage_at(storage, i), err);
    }
    return r;
}

int list_volumes(struct controller *controller, uint32_t max_entries, const char *token, uint64_t deadline_ms,
                 struct list_page *ret_page, struct error *err)
{
    struct list list = {.controller = controller, .deadline_ms = deadline_ms};
    int r;

    list.wanted = MIN(max_entries > 0 ? (size_t)max_entries : LIST_PAGE_MAX, (size_t)LIST_PAGE_MAX) + 1;
    r = list_token_parse(token, list.after, err);
    if (r == E_OK)
        r = list_all(&list, err);
    if (r != E_OK) {
        list_page_done(&list.page);
        return r;
    }
    end_page(&list);
    *ret_page = list.page;
    return E_OK;
}
