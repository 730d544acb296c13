/*
 * ControllerExpandVolume, ControllerModifyVolume, and a volume's health. The volume is read, and what is
 * decided on that reading is asked for with its record generation. Owns nothing across calls; run by worker
 * threads. A stale answer goes to the CO as ABORTED, as in publish.c.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "controller/controller.h"
#include "controller/size_range.h"
#include "proto/map.h"

/* The volume as it stands, under its operation. */
static int change_read(struct controller *controller, const char *volume_id, const char *what,
                       uint64_t deadline_ms, struct operation **ret_operation,
                       struct storage_server **ret_server, Mooring__Storage__V1__Volume **ret_volume,
                       struct error *err)
{
    int r = storage_of_volume(controller->storage, volume_id, ret_server, err);

    if (r == E_OK)
        r = operation_begin(controller->operations, "volume", volume_id, what, ret_operation, err);
    if (r == E_OK)
        r = storage_get_volume(*ret_server, volume_id, deadline_ms, ret_volume, err);
    return r;
}

/* ---- expand ---- */

/* The size to grow to; the volume's own when it is large enough. */
static int expand_choose(const Mooring__Storage__V1__Volume *volume, const struct size_range *range,
                         uint64_t *ret_size_bytes, struct error *err)
{
    *ret_size_bytes = volume->size_bytes;
    if (size_range_holds(range, volume->size_bytes))
        return E_OK;
    if (volume->size_bytes >= range->required_bytes)
        return error_set(err, E_OUT_OF_RANGE,
                         "volume %s has %" PRIu64 " bytes, above the limit of %" PRIu64
                         "; volumes are not made smaller",
                         volume->volume_id, volume->size_bytes, range->limit_bytes);
    return size_range_choose(range, ret_size_bytes, err);
}

static int expand_check(const Mooring__Storage__V1__Volume *volume, const struct capability *capability,
                        struct error *err)
{
    const char *fs_type = map_get(volume->parameters, volume->n_parameters, parameter_key(PARAMETER_FS_TYPE));

    if (!capability || *capability->fs_type == '\0' || !fs_type || str_equal(fs_type, capability->fs_type))
        return E_OK;
    return error_set(err, E_INVALID_ARGUMENT, "volume %s is for file system %s, not %s", volume->volume_id,
                     fs_type, capability->fs_type);
}

static int expand_call(struct storage_server *server, const Mooring__Storage__V1__Volume *volume,
                       uint64_t size_bytes, uint64_t deadline_ms, uint64_t *ret_size_bytes, struct error *err)
{
    Mooring__Storage__V1__ExpandVolumeRequest request = MOORING__STORAGE__V1__EXPAND_VOLUME_REQUEST__INIT;
    const Mooring__Storage__V1__ExpandVolumeResponse *response;
    ProtobufCMessage *message = NULL;
    int r;

    request.volume_id = volume->volume_id;
    request.size_bytes = size_bytes;
    request.record_generation = volume->record_generation;
    r = storage_call(server, "ExpandVolume", &request.base, deadline_ms, &message, err);
    if (r != E_OK)
        return r;
    response = (const Mooring__Storage__V1__ExpandVolumeResponse *)message;
    if (!response->volume || response->volume->size_bytes < size_bytes)
        r = error_set(err, -EPROTO, "ExpandVolume of %s answered without a volume of %" PRIu64 " bytes",
                      volume->volume_id, size_bytes);
    else
        *ret_size_bytes = response->volume->size_bytes;
    protobuf_c_message_free_unpacked(message, NULL);
    return r;
}

int volume_expand(struct controller *controller, const char *volume_id, const struct size_range *range,
                  const struct capability *capability, uint64_t deadline_ms, uint64_t *ret_size_bytes,
                  struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    Mooring__Storage__V1__Volume *volume = NULL;
    struct storage_server *server = NULL;
    uint64_t size_bytes = 0;
    int r = change_read(controller, volume_id, "ControllerExpandVolume", deadline_ms, &operation, &server,
                        &volume, err);

    if (r != E_OK)
        return r;
    r = expand_check(volume, capability, err);
    if (r == E_OK)
        r = expand_choose(volume, range, &size_bytes, err);
    if (r == E_OK && size_bytes > volume->size_bytes)
        r = expand_call(server, volume, size_bytes, deadline_ms, &size_bytes, err);
    if (r == E_OK)
        *ret_size_bytes = size_bytes;
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}

/* ---- modify ---- */

int volume_modify(struct controller *controller, const char *volume_id, const struct limits *limits,
                  uint64_t deadline_ms, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    Mooring__Storage__V1__ModifyVolumeRequest request = MOORING__STORAGE__V1__MODIFY_VOLUME_REQUEST__INIT;
    Mooring__Storage__V1__Limits message;
    Mooring__Storage__V1__Volume *volume = NULL;
    struct storage_server *server = NULL;
    int r = change_read(controller, volume_id, "ControllerModifyVolume", deadline_ms, &operation, &server,
                        &volume, err);

    if (r != E_OK)
        return r;
    limits_fill(limits, volume->limits, &message);
    request.volume_id = volume->volume_id;
    request.limits = &message;
    request.record_generation = volume->record_generation;
    if (limits_any(limits))
        r = storage_call(server, "ModifyVolume", &request.base, deadline_ms, NULL, err);
    else
        r = error_set(err, E_INVALID_ARGUMENT, "mutable_parameters is required");
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}

/* ---- health ---- */

int volume_health(struct controller *controller, const char *volume_id, uint64_t deadline_ms,
                  Mooring__Storage__V1__Volume **ret_volume, struct error *err)
{
    _cleanup_error_ struct error why = {0};
    Mooring__Storage__V1__Volume *volume;
    int r = volume_find(controller, volume_id, deadline_ms, ret_volume, &why);

    if (r != E_CORRUPT) {
        error_move(err, &why);
        return r;
    }
    /* The server has it, and cannot read its record: that is what its health is. */
    volume = calloc(1, sizeof(*volume));
    if (!volume)
        return error_errno(err, ENOMEM, "the health of volume %s", volume_id);
    mooring__storage__v1__volume__init(volume);
    volume->volume_id = strdup(volume_id);
    volume->unreadable = strdup(error_text(&why));
    *ret_volume = volume;
    if (volume->volume_id && volume->unreadable)
        return E_OK;
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return error_errno(err, ENOMEM, "the health of volume %s", volume_id);
}
