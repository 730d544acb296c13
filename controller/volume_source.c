/* Sources of new volumes. Owns nothing across calls; run by worker threads, called by volume_create.c. */
#include "controller/volume_source.h"

#include <inttypes.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "controller/size_range.h"
#include "controller/snapshot.h"
#include "proto/map.h"

static int check_block_size(const struct create_request *request, const struct volume_source *source,
                            struct error *err)
{
    uint32_t wanted = request->parameters.block_size_bytes;

    if (wanted == 0 || wanted == source->block_size_bytes)
        return E_OK;
    return error_set(
        err, E_INVALID_ARGUMENT,
        "the source has a block size of %u bytes, and parameter \"blockSize\" asks for %u: leave "
        "it out",
        source->block_size_bytes, wanted);
}

static int look_at_volume(struct controller *controller, const struct create_request *request,
                          uint64_t deadline_ms, struct volume_source *source, struct error *err)
{
    const char *wanted = request->parameters.text[PARAMETER_FS_TYPE], *fs_type;
    Mooring__Storage__V1__Volume *volume = NULL;
    int r = volume_find(controller, request->source_volume_id, deadline_ms, &volume, err);

    if (r != E_OK)
        return r;
    source->size_bytes = volume->size_bytes;
    source->block_size_bytes = volume->block_size_bytes;
    fs_type = map_get(volume->parameters, volume->n_parameters, parameter_key(PARAMETER_FS_TYPE));
    if (wanted && fs_type && !str_equal(wanted, fs_type))
        r = error_set(err, E_INVALID_ARGUMENT,
                      "volume %s is for file system %s, so a clone of it is not for %s", volume->volume_id,
                      fs_type, wanted);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}

static int look_at_snapshot(struct controller *controller, const struct create_request *request,
                            uint64_t deadline_ms, struct volume_source *source, struct error *err)
{
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    int r = snapshot_find(controller, request->source_snapshot_id, deadline_ms, &snapshot, err);

    if (r != E_OK)
        return r;
    source->size_bytes = snapshot->size_bytes;
    source->block_size_bytes = snapshot->block_size_bytes;
    r = snapshot_check_lost(snapshot, err);
    protobuf_c_message_free_unpacked(&snapshot->base, NULL);
    return r;
}

int volume_source_find(struct controller *controller, const struct create_request *request,
                       uint64_t deadline_ms, struct volume_source *ret, struct error *ret_absent,
                       struct error *err)
{
    _cleanup_error_ struct error why = {0};
    struct volume_source source = {0};
    int r = E_OK;

    *ret = source;
    if (request->source_volume_id)
        r = storage_of_volume(controller->storage, request->source_volume_id, &source.server, err);
    else if (request->source_snapshot_id)
        r = storage_of_snapshot(controller->storage, request->source_snapshot_id, &source.server, err);
    if (r != E_OK || !source.server)
        return r;
    r = request->source_volume_id ? look_at_volume(controller, request, deadline_ms, &source, &why)
                                  : look_at_snapshot(controller, request, deadline_ms, &source, &why);
    *ret = source;
    if (r == E_NOT_FOUND) {
        error_move(ret_absent, &why);
        error_wrap(ret_absent, "the source is not there");
        return E_OK;
    }
    if (r != E_OK) {
        error_move(err, &why);
        return r;
    }
    return check_block_size(request, &source, err);
}

int volume_source_size(const struct volume_source *source, const struct size_range *range,
                       uint64_t *ret_size_bytes, struct error *err)
{
    struct size_range of_source = *range;

    if (source->size_bytes == 0)
        return size_range_choose(range, ret_size_bytes, err);
    if ((range->required_bytes > 0 && range->required_bytes < source->size_bytes) ||
        (range->limit_bytes > 0 && range->limit_bytes < source->size_bytes))
        return error_set(err, E_OUT_OF_RANGE,
                         "the source has %" PRIu64 " bytes, and a volume of it cannot be smaller",
                         source->size_bytes);
    if (range->required_bytes == 0)
        of_source.required_bytes = source->size_bytes;
    return size_range_choose(&of_source, ret_size_bytes, err);
}

int volume_source_compare(const struct create_request *request, const Mooring__Storage__V1__Volume *volume,
                          struct error *err)
{
    const char *of_volume = request->source_volume_id ? request->source_volume_id : "";
    const char *of_snapshot = request->source_snapshot_id ? request->source_snapshot_id : "";

    if (str_equal(volume->source_volume_id, of_volume) && str_equal(volume->source_snapshot_id, of_snapshot))
        return E_OK;
    return error_set(err, E_EXISTS, "it was made of %s%s%s, not of %s",
                     *volume->source_volume_id || *volume->source_snapshot_id ? "" : "nothing",
                     volume->source_volume_id, volume->source_snapshot_id,
                     *of_volume ? of_volume : (*of_snapshot ? of_snapshot : "nothing"));
}
