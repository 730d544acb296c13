/* The calls of CSI's Controller service that change a volume in place, and those about its health. Own
 * nothing; run by the service's worker threads. */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "controller/health.h"
#include "controller/list.h"
#include "controller/request.h"
#include "controller/service_parts.h"

SERVICE_HANDLER(service_expand_volume)
{
    const Csi__V1__ControllerExpandVolumeRequest *request =
        (const Csi__V1__ControllerExpandVolumeRequest *)message;
    Csi__V1__ControllerExpandVolumeResponse *answer = (Csi__V1__ControllerExpandVolumeResponse *)response;
    struct capability capability;
    struct size_range range = {0};
    uint64_t size_bytes = 0;
    int r = request_expand(request, &range, &capability, err);

    if (r == E_OK)
        r = volume_expand(context, request->volume_id, &range,
                          request->volume_capability ? &capability : NULL, service_deadline(call),
                          &size_bytes, err);
    if (r != E_OK)
        return r;
    answer->capacity_bytes = (int64_t)size_bytes;
    answer->node_expansion_required = true; /* the node's device has to learn of it, for Block too */
    return E_OK;
}

SERVICE_HANDLER(service_modify_volume)
{
    const Csi__V1__ControllerModifyVolumeRequest *request =
        (const Csi__V1__ControllerModifyVolumeRequest *)message;
    struct limits limits = {0};
    int r = request_string("volume_id", request->volume_id, err);

    (void)response;
    if (r == E_OK)
        r = request_map("mutable_parameters", request->mutable_parameters, request->n_mutable_parameters,
                        err);
    if (r == E_OK)
        r = limits_parse(request->mutable_parameters, request->n_mutable_parameters, &limits, err);
    if (r != E_OK)
        return r;
    return volume_modify(context, request->volume_id, &limits, service_deadline(call), err);
}

SERVICE_HANDLER(service_get_health)
{
    const char *volume_id = ((const Csi__V1__ControllerGetVolumeHealthRequest *)message)->volume_id;
    Csi__V1__ControllerGetVolumeHealthResponse *answer =
        (Csi__V1__ControllerGetVolumeHealthResponse *)response;
    Mooring__Storage__V1__Volume *volume = NULL;
    int r = request_string("volume_id", volume_id, err);

    if (r == E_OK)
        r = volume_health(context, volume_id, service_deadline(call), &volume, err);
    if (r != E_OK)
        return r;
    r = service_memory(health_fill(volume, &answer->volume_health), err);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}

static int fill_page(const struct list_page *page, Csi__V1__ControllerListVolumeHealthResponse *answer)
{
    int r = E_OK;

    answer->entries = calloc(page->count + 1, sizeof(*answer->entries));
    if (!answer->entries)
        return -ENOMEM;
    for (size_t i = 0; r == E_OK && i < page->count; i++) {
        Csi__V1__VolumeHealth *entry = NULL;

        r = health_fill((const Mooring__Storage__V1__Volume *)page->items[i], &entry);
        if (entry)
            answer->entries[answer->n_entries++] = entry;
    }
    if (r == E_OK && page->next_token[0] != '\0') {
        answer->next_token = strdup(page->next_token);
        r = answer->next_token ? E_OK : -ENOMEM;
    }
    return r;
}

SERVICE_HANDLER(service_list_health)
{
    const Csi__V1__ControllerListVolumeHealthRequest *request =
        (const Csi__V1__ControllerListVolumeHealthRequest *)message;
    struct list_request list = {.kind = LIST_VOLUME_HEALTH, .token = request->starting_token};
    struct list_page page = {0};
    int r;

    if (request->max_entries < 0)
        return error_set(err, E_INVALID_ARGUMENT, "max_entries is negative");
    list.max_entries = (uint32_t)request->max_entries;
    r = list_page_get(context, &list, service_deadline(call), &page, err);
    if (r != E_OK)
        return r;
    r = fill_page(&page, (Csi__V1__ControllerListVolumeHealthResponse *)response);
    list_page_done(&page);
    return service_memory(r, err);
}
