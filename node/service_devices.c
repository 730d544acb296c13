/* mooring.node.v1 on the wire: what the operators' CLI asks of its host's mooring-node. Runs on RPC threads.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "common/strings.h"
#include "node/attach.h"
#include "node/node.h"
#include "proto/node.pb-c.h"
#include "rpc/rpc.h"

#define TIMEOUT_DEFAULT_MS 120000
#define TIMEOUT_MARGIN_MS 200

/* ---- ListDevices ---- */

struct listing {
    struct node *node;
    Mooring__Node__V1__ListDevicesResponse *answer;
    int r;
};

static const char *text_of(json_t *status, const char *key)
{
    const char *text = json_string_value(json_object_get(status, key));

    return text ? text : "";
}

/* A process that is gone cannot take back what it last wrote. "failed" and "ended" are its last words. */
static bool devices_is_outdated(struct node *node, const struct stage_record *record, const char *state)
{
    _cleanup_fd_ int process = attach_watch(&node->config, record->volume_id);

    return process < 0 && record->complete && !str_equal(state, "failed") && !str_equal(state, "ended");
}

static void devices_describe_process(struct node *node, const struct stage_record *record,
                                     Mooring__Node__V1__Device *device)
{
    const char *volume_id = record->volume_id;
    _cleanup_error_ struct error lost = {0};
    _cleanup_json_ json_t *status = NULL;

    attach_status(&node->config, volume_id, &status, NULL);
    const char *state = text_of(status, "state"), *problem = text_of(status, "error");
    if (devices_is_outdated(node, record, state)) {
        bool kept = attach_check_kept(&node->config, volume_id, true, &lost) != E_PRECONDITION;
        state = kept ? "waiting" : "lost";
        problem = kept ? "mooring-device has ended, and no successor is there yet" : error_text(&lost);
    }
    device->state = strdup(state);
    device->error = strdup(problem);
    device->block_device = strdup(text_of(status, "block_device"));
    device->version = strdup(text_of(status, "version"));
    device->generation = (uint64_t)json_integer_value(json_object_get(status, "generation"));
}

/* The kernel serves it: what sysfs shows. */
static void devices_describe_kernel(struct node *node, const struct stage_record *record,
                                    Mooring__Node__V1__Device *device)
{
    const char *volume_id = record->volume_id;
    _cleanup_attach_device_ struct attach_device found = {0};
    _cleanup_error_ struct error why = {0};

    int r = record->complete ? attach_check_kept(&node->config, volume_id, true, &why) : 0;
    const char *state = r == E_PRECONDITION ? "lost" : "waiting";
    if (!r)
        r = attach_find(&node->config, volume_id, &found, &why);
    device->state = strdup(r ? state : "ready");
    device->error = strdup(r ? error_text(&why) : "");
    device->block_device = strdup(r ? "" : found.path);
    device->version = strdup("");
    device->generation = found.generation;
}

static Mooring__Node__V1__Device *devices_describe(struct node *node, const struct stage_record *record)
{
    Mooring__Node__V1__Device *device = calloc(1, sizeof(*device));

    if (!device)
        return NULL;
    mooring__node__v1__device__init(device);
    device->volume_id = strdup(record->volume_id);
    device->attach = strdup(record->attach);
    if (attach_has_process(&node->config, record->volume_id))
        devices_describe_process(node, record, device);
    else
        devices_describe_kernel(node, record, device);
    return device;
}

static void devices_visit(const char *volume_id, void *context)
{
    struct listing *listing = context;
    Mooring__Node__V1__ListDevicesResponse *answer = listing->answer;
    _cleanup_stage_record_ struct stage_record record = {0};

    if (listing->r || stage_record_load(listing->node->config.state_dir, volume_id, &record, NULL))
        return;
    void *grown = realloc(answer->devices, (answer->n_devices + 1) * sizeof(*answer->devices));
    if (!grown) {
        listing->r = -ENOMEM;
        return;
    }
    answer->devices = grown;
    answer->devices[answer->n_devices] = devices_describe(listing->node, &record);
    if (answer->devices[answer->n_devices])
        answer->n_devices++;
    else
        listing->r = -ENOMEM;
}

static int devices_compare(const void *a, const void *b)
{
    const Mooring__Node__V1__Device *const *first = a, *const *second = b;

    return strcmp((*first)->volume_id, (*second)->volume_id);
}

static int devices_list(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                        void *context, struct error *err)
{
    struct node *node = context;
    struct listing listing = {node, (Mooring__Node__V1__ListDevicesResponse *)response, 0};

    (void)call;
    (void)message;
    int r = stage_record_each(node->config.state_dir, devices_visit, &listing, err);
    if (!r && listing.r)
        r = error_set(err, listing.r, "cannot list the devices");
    if (!r && listing.answer->n_devices)
        qsort(listing.answer->devices, listing.answer->n_devices, sizeof(*listing.answer->devices),
              devices_compare);
    return r;
}

/* ---- UpgradeDevice ---- */

static unsigned devices_timeout_ms(struct rpc_call *call)
{
    int64_t remaining_ms = rpc_call_remaining_ms(call);

    if (remaining_ms > TIMEOUT_DEFAULT_MS)
        return TIMEOUT_DEFAULT_MS;
    return remaining_ms > 2 * TIMEOUT_MARGIN_MS ? (unsigned)remaining_ms - TIMEOUT_MARGIN_MS
                                                : TIMEOUT_MARGIN_MS;
}

static int devices_upgrade(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                           void *context, struct error *err)
{
    const Mooring__Node__V1__UpgradeDeviceRequest *request =
        (const Mooring__Node__V1__UpgradeDeviceRequest *)message;
    Mooring__Node__V1__UpgradeDeviceResponse *answer = (Mooring__Node__V1__UpgradeDeviceResponse *)response;
    struct upgrade_result result;

    if (!id_volume_valid(request->volume_id))
        return error_set(err, E_INVALID_ARGUMENT, "\"%s\" is not a volume id", request->volume_id);
    int r =
        upgrade_volume(context, request->volume_id, request->force, devices_timeout_ms(call), &result, err);
    if (r)
        return r;
    answer->replaced = result.replaced;
    answer->stalled_ms = result.stalled_ms;
    answer->generation = result.generation;
    answer->reason = strdup(result.reason);
    answer->from_version = strdup(result.from_version);
    answer->to_version = strdup(result.to_version);
    return answer->reason && answer->from_version && answer->to_version
               ? 0
               : error_errno(err, ENOMEM, "cannot answer");
}

void service_devices(struct node *node, struct rpc_service *ret)
{
    static const struct rpc_method methods[] = {
        {"ListDevices", devices_list, false},
        {"UpgradeDevice", devices_upgrade, false},
    };

    *ret = (struct rpc_service){
        .descriptor = &mooring__node__v1__devices__descriptor,
        .methods = methods,
        .methods_count = ARRAY_SIZE(methods),
        .context = node,
        .threads = 2, /* a list is answered while an upgrade waits */
    };
}
