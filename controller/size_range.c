/* Sizes from capacity ranges. Owns nothing: pure functions, any thread. */
#include "controller/size_range.h"

#include <inttypes.h>

#include "common/size.h"

int size_range_choose(const struct size_range *range, uint64_t *ret_size_bytes, struct error *err)
{
    uint64_t required = MAX(range->required_bytes, range->floor_bytes);
    uint64_t limit = range->limit_bytes > 0 ? range->limit_bytes : INT64_MAX;
    uint64_t size_bytes;

    if (range->required_bytes == 0)
        size_bytes = MIN(SIZE_DEFAULT_BYTES, ROUND_DOWN(limit, SIZE_STEP_BYTES));
    else
        size_bytes =
            required <= INT64_MAX - SIZE_STEP_BYTES ? ROUND_UP(required, SIZE_STEP_BYTES) : UINT64_MAX;
    if (size_bytes < range->floor_bytes || (range->floor_bytes > range->required_bytes && size_bytes > limit))
        return error_set(err, E_OUT_OF_RANGE,
                         "no volume size fits: its file system needs at least %" PRIu64
                         " bytes, and the limit is %" PRIu64,
                         range->floor_bytes, limit);
    if (size_bytes == 0 || size_bytes > MIN(limit, SIZE_MAX_BYTES))
        return error_set(err, E_OUT_OF_RANGE,
                         "no volume size fits from %" PRIu64 " to %" PRIu64
                         " bytes; sizes are multiples of %" PRIu64,
                         required, limit, SIZE_STEP_BYTES);
    *ret_size_bytes = size_bytes;
    return E_OK;
}

bool size_range_holds(const struct size_range *range, uint64_t size_bytes)
{
    return size_bytes >= range->required_bytes &&
           (range->limit_bytes == 0 || size_bytes <= range->limit_bytes);
}
