/* What a CO assumes of an existing volume, compared with the volume. Owns nothing; run by worker threads. */
#include "controller/validate.h"

#include <stdlib.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "controller/request.h"
#include "controller/response.h"
#include "proto/map.h"

int validate_context(const Mooring__Storage__V1__Volume *volume, const void *entries, size_t count,
                     struct error *err)
{
    struct map_entry *const *list = entries;

    for (size_t i = 0; i < count; i++) {
        const char *stored;

        if (!parameter_for_node(list[i]->key))
            continue;
        stored = map_get(volume->parameters, volume->n_parameters, list[i]->key);
        if (!stored || !str_equal(stored, list[i]->value))
            return error_set(err, E_INVALID_ARGUMENT,
                             "volume_context has %s \"%s\", but volume %s was made with %s; hand back the "
                             "volume_context of CreateVolume",
                             list[i]->key, list[i]->value, volume->volume_id, stored ? stored : "none");
    }
    return E_OK;
}

/* Limits may have been changed since the volume was made: those of mutable_parameters are compared with what
 * stands, those of parameters with nothing. */
static int check_limits(const Csi__V1__ValidateVolumeCapabilitiesRequest *request,
                        const Mooring__Storage__V1__Volume *volume, struct error *err)
{
    struct limits limits = {0};
    int r = limits_parse(request->mutable_parameters, request->n_mutable_parameters, &limits, err);

    return r == E_OK ? limits_compare(&limits, volume->limits, err) : r;
}

/* The CO's parameters against the volume's, its capabilities' file system types among them. */
static int check_parameters(const Csi__V1__ValidateVolumeCapabilitiesRequest *request,
                            const Mooring__Storage__V1__Volume *volume, struct error *err)
{
    const char *fs_type = map_get(volume->parameters, volume->n_parameters, parameter_key(PARAMETER_FS_TYPE));
    struct parameters parameters;
    int r = E_OK;

    for (size_t i = 0; i < request->n_volume_capabilities; i++) {
        struct capability capability;

        r = request_capability(request->volume_capabilities[i], &capability, err);
        if (r != E_OK)
            return r;
        if (fs_type && *capability.fs_type != '\0' && !str_equal(fs_type, capability.fs_type))
            return error_set(err, E_EXISTS, "the volume is for file system %s, not %s", fs_type,
                             capability.fs_type);
    }
    r = check_limits(request, volume, err);
    if (r != E_OK || request->n_parameters == 0)
        return r;
    r = parameters_parse(request->parameters, request->n_parameters, &parameters, err);
    if (r == E_OK && !parameters.text[PARAMETER_FS_TYPE] && fs_type)
        parameters.text[PARAMETER_FS_TYPE] = fs_type; /* it may have come from a capability */
    if (r == E_OK)
        r = parameters_compare(&parameters, volume->parameters, volume->n_parameters, volume->thick,
                               volume->block_size_bytes, err);
    return r;
}

static void forget_unknown(ProtobufCMessage *message)
{
    for (unsigned i = 0; message && i < message->n_unknown_fields; i++)
        free(message->unknown_fields[i].data);
    if (!message)
        return;
    free(message->unknown_fields);
    message->unknown_fields = NULL;
    message->n_unknown_fields = 0;
}

/* Fields of a newer CSI must not be confirmed: nobody here looked at them. */
static void keep_understood(Csi__V1__VolumeCapability *capability)
{
    forget_unknown(&capability->base);
    if (capability->access_mode)
        forget_unknown(&capability->access_mode->base);
    if (capability->access_type_case == CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE_MOUNT)
        forget_unknown(&capability->mount->base);
    if (capability->access_type_case == CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE_BLOCK)
        forget_unknown(&capability->block->base);
}

/* Echo what was validated: the CO compares it with what it asked. */
static int confirm(const Csi__V1__ValidateVolumeCapabilitiesRequest *request,
                   Csi__V1__ValidateVolumeCapabilitiesResponse__Confirmed *confirmed)
{
    int r = E_OK;

    confirmed->volume_capabilities =
        calloc(request->n_volume_capabilities, sizeof(*confirmed->volume_capabilities));
    if (!confirmed->volume_capabilities)
        return -ENOMEM;
    for (size_t i = 0; i < request->n_volume_capabilities; i++) {
        ProtobufCMessage *copy = response_copy(&request->volume_capabilities[i]->base);

        if (!copy)
            return -ENOMEM;
        keep_understood((Csi__V1__VolumeCapability *)copy);
        confirmed->volume_capabilities[confirmed->n_volume_capabilities++] =
            (Csi__V1__VolumeCapability *)copy;
    }
    for (size_t i = 0; r == E_OK && i < request->n_volume_context; i++)
        r = map_add(
            &confirmed->volume_context, &confirmed->n_volume_context,
            &csi__v1__validate_volume_capabilities_response__confirmed__volume_context_entry__descriptor,
            request->volume_context[i]->key, request->volume_context[i]->value);
    for (size_t i = 0; r == E_OK && i < request->n_parameters; i++)
        r = map_add(&confirmed->parameters, &confirmed->n_parameters,
                    &csi__v1__validate_volume_capabilities_response__confirmed__parameters_entry__descriptor,
                    request->parameters[i]->key, request->parameters[i]->value);
    for (size_t i = 0; r == E_OK && i < request->n_mutable_parameters; i++)
        r = map_add(
            &confirmed->mutable_parameters, &confirmed->n_mutable_parameters,
            &csi__v1__validate_volume_capabilities_response__confirmed__mutable_parameters_entry__descriptor,
            request->mutable_parameters[i]->key, request->mutable_parameters[i]->value);
    return r;
}

static int fill(const Csi__V1__ValidateVolumeCapabilitiesRequest *request,
                const Mooring__Storage__V1__Volume *volume,
                Csi__V1__ValidateVolumeCapabilitiesResponse *response, struct error *err)
{
    _cleanup_error_ struct error why = {0};
    int r = validate_context(volume, request->volume_context, request->n_volume_context, &why);

    if (r == E_OK)
        r = check_parameters(request, volume, &why);
    if (r != E_OK) {
        response->message = strdup(error_text(&why));
        return response->message ? E_OK : error_errno(err, ENOMEM, "ValidateVolumeCapabilities");
    }
    response->confirmed = malloc(sizeof(*response->confirmed));
    if (!response->confirmed)
        return error_errno(err, ENOMEM, "ValidateVolumeCapabilities");
    csi__v1__validate_volume_capabilities_response__confirmed__init(response->confirmed);
    r = confirm(request, response->confirmed);
    return r == E_OK ? E_OK : error_errno(err, -r, "ValidateVolumeCapabilities");
}

/* A capability without access type or mode is malformed, which is more than "not supported". */
static int check_shape(const Csi__V1__ValidateVolumeCapabilitiesRequest *request, struct error *err)
{
    if (request->n_volume_capabilities == 0)
        return error_set(err, E_INVALID_ARGUMENT, "volume_capabilities is required");
    for (size_t i = 0; i < request->n_volume_capabilities; i++) {
        const Csi__V1__VolumeCapability *one = request->volume_capabilities[i];

        if (one->access_type_case == CSI__V1__VOLUME_CAPABILITY__ACCESS_TYPE__NOT_SET || !one->access_mode ||
            one->access_mode->mode == CSI__V1__VOLUME_CAPABILITY__ACCESS_MODE__MODE__UNKNOWN)
            return error_set(err, E_INVALID_ARGUMENT,
                             "a volume capability needs an access type and an access mode");
    }
    return E_OK;
}

int validate_capabilities(struct controller *controller,
                          const Csi__V1__ValidateVolumeCapabilitiesRequest *request, uint64_t deadline_ms,
                          Csi__V1__ValidateVolumeCapabilitiesResponse *response, struct error *err)
{
    Mooring__Storage__V1__Volume *volume = NULL;
    int r = request_string("volume_id", request->volume_id, err);

    if (r == E_OK)
        r = check_shape(request, err);
    if (r == E_OK)
        r = request_map("parameters", request->parameters, request->n_parameters, err);
    if (r == E_OK)
        r = request_map("mutable_parameters", request->mutable_parameters, request->n_mutable_parameters,
                        err);
    if (r == E_OK)
        r = volume_find(controller, request->volume_id, deadline_ms, &volume, err);
    if (r != E_OK)
        return r;
    r = fill(request, volume, response, err);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}
