/*
 * What a volume holds: decisions on a volume record in memory (invariant 5). No state, no I/O; called by the
 * Storage service and by the image under the volume's record lock.
 */
#include "datapath/store/content.h"

#include <inttypes.h>

#include "datapath/store/attach.h"

/* The attachment that may format: the node's, of this epoch, with this generation the newest granted. */
static int check_current(struct volume_record *record, const char *node_id, uint64_t epoch,
                         uint64_t generation, struct attachment **ret, struct error *err)
{
    struct attachment *standing = volume_record_attachment(record, node_id);

    if (!standing || standing->epoch != epoch || standing->removing)
        return error_set(err, E_STALE,
                         "volume %s is not (or no longer) attached to node %s with epoch %" PRIu64,
                         record->id, node_id, epoch);
    if (generation == 0 || standing->generation != generation)
        return error_set(err, E_STALE,
                         "generation %" PRIu64 " of volume %s on node %s is not the newest granted (%" PRIu64
                         ")",
                         generation, record->id, node_id, standing->generation);
    *ret = standing;
    return E_OK;
}

int content_format_begin(struct volume_record *record, const char *node_id, uint64_t epoch,
                         uint64_t generation, bool *ret_discard, struct error *err)
{
    struct attachment *standing;
    bool discard;
    int r;

    r = check_current(record, node_id, epoch, generation, &standing, err);
    if (r != E_OK)
        return r;
    if (!attach_may_write(standing->access_mode, standing->readonly))
        return error_set(err, E_PRECONDITION, "volume %s is attached to node %s for reading only", record->id,
                         node_id);
    if (record->content == VOLUME_DATA)
        return error_set(err, E_PRECONDITION, "volume %s holds data: it is never formatted", record->id);
    discard = record->content == VOLUME_FORMATTING;
    record->content = VOLUME_FORMATTING;
    record->formatting_epoch = epoch;
    record->formatting_generation = generation;
    *ret_discard = discard;
    return E_OK;
}

int content_format_end(struct volume_record *record, const char *node_id, uint64_t epoch, uint64_t generation,
                       struct error *err)
{
    struct attachment *standing;
    int r;

    r = check_current(record, node_id, epoch, generation, &standing, err);
    if (r != E_OK)
        return r;
    if (record->content == VOLUME_BLANK)
        return error_set(err, E_PRECONDITION, "volume %s is not being formatted", record->id);
    if (record->formatting_epoch != epoch || record->formatting_generation != generation)
        return error_set(err, record->content == VOLUME_DATA ? E_PRECONDITION : E_STALE,
                         "volume %s was not formatted by generation %" PRIu64 " of epoch %" PRIu64,
                         record->id, generation, epoch);
    /* formatting_epoch and _generation stay: they tell a repeat by the same from a claim by another. */
    record->content = VOLUME_DATA;
    return E_OK;
}

bool content_write_marks(const struct volume_record *record, uint64_t epoch, uint64_t generation)
{
    switch (record->content) {
    case VOLUME_BLANK:
        return true;
    case VOLUME_FORMATTING:
        return epoch != record->formatting_epoch || generation != record->formatting_generation;
    case VOLUME_DATA:
        return false;
    }
    return true;
}

void content_mark_data(struct volume_record *record)
{
    record->content = VOLUME_DATA;
    record->formatting_epoch = 0;
    record->formatting_generation = 0;
}
