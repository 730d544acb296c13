/*
 * Who may hold a volume: decisions on a volume record in memory (invariants 2 and 4). No state, no I/O;
 * called by the store and by the target under the volume's record lock, and for admission by the owner loop.
 */
#include "datapath/store/attach.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/strings.h"

static bool mode_single_node(enum access_mode mode)
{
    switch (mode) {
    case ACCESS_SINGLE_NODE_WRITER:
    case ACCESS_SINGLE_NODE_READER_ONLY:
    case ACCESS_SINGLE_NODE_SINGLE_WRITER:
    case ACCESS_SINGLE_NODE_MULTI_WRITER:
        return true;
    case ACCESS_UNKNOWN:
    case ACCESS_MULTI_NODE_READER_ONLY:
    case ACCESS_MULTI_NODE_SINGLE_WRITER:
    case ACCESS_MULTI_NODE_MULTI_WRITER:
        return false;
    }
    return false;
}

bool attach_may_write(enum access_mode mode, bool readonly)
{
    return !readonly && mode != ACCESS_SINGLE_NODE_READER_ONLY && mode != ACCESS_MULTI_NODE_READER_ONLY;
}

/* May these two, of different nodes, hold the volume at once? Symmetric. */
static bool compatible(enum access_mode a, bool a_readonly, enum access_mode b, bool b_readonly)
{
    bool a_writes = attach_may_write(a, a_readonly), b_writes = attach_may_write(b, b_readonly);

    if (mode_single_node(a) || mode_single_node(b))
        return false;
    /* "Reader only" promises its holders that nobody changes what they read. */
    if (a == ACCESS_MULTI_NODE_READER_ONLY || b == ACCESS_MULTI_NODE_READER_ONLY)
        return !a_writes && !b_writes;
    if (a == ACCESS_MULTI_NODE_SINGLE_WRITER || b == ACCESS_MULTI_NODE_SINGLE_WRITER)
        return !a_writes || !b_writes;
    return true;
}

/* The attachment that stands for this node, for a repeat. */
static int attach_again(const struct volume_record *record, struct attachment *standing,
                        enum access_mode mode, bool readonly, struct attachment **ret, struct error *err)
{
    if (standing->removing)
        return error_set(err, E_BUSY, "volume %s is being detached from node %s: retry when that has ended",
                         record->id, standing->node_id);
    if (standing->access_mode != mode || standing->readonly != readonly)
        return error_set(err, E_EXISTS,
                         "volume %s is attached to node %s with another access mode or readonly flag: "
                         "detach it first",
                         record->id, standing->node_id);
    *ret = standing;
    return E_OK;
}

static int check_others(const struct volume_record *record, const char *node_id, enum access_mode mode,
                        bool readonly, struct error *err)
{
    for (size_t i = 0; i < record->attachments_count; i++) {
        const struct attachment *other = &record->attachments[i];

        if (!compatible(mode, readonly, other->access_mode, other->readonly))
            return error_set(err, E_PRECONDITION,
                             "volume %s cannot be attached to node %s as %s: it is %s node %s as %s",
                             record->id, node_id, access_mode_name(mode),
                             other->removing ? "still being detached from" : "attached to", other->node_id,
                             access_mode_name(other->access_mode));
    }
    return E_OK;
}

/* Room for one more. The array is the record's alone, so that a copy is changed without its original. */
static struct attachment *attachment_append(struct volume_record *record)
{
    struct attachment *larger =
        realloc(record->attachments, (record->attachments_count + 1) * sizeof(*larger));

    if (!larger)
        return NULL;
    record->attachments = larger;
    memset(&larger[record->attachments_count], 0, sizeof(*larger));
    return &larger[record->attachments_count];
}

int attach_add(struct volume_record *record, const char *node_id, enum access_mode mode, bool readonly,
               struct attachment **ret_attachment, struct error *err)
{
    struct attachment *standing, *added;
    int r;

    if (!id_node_valid(node_id))
        return error_set(err, E_INVALID_ARGUMENT, "\"%.*s\" is not a node id", ID_NODE_MAX, node_id);
    if (mode < ACCESS_SINGLE_NODE_WRITER || mode > ACCESS_SINGLE_NODE_MULTI_WRITER)
        return error_set(err, E_INVALID_ARGUMENT, "%d is not an access mode that a volume can have",
                         (int)mode);
    standing = volume_record_attachment(record, node_id);
    if (standing)
        return attach_again(record, standing, mode, readonly, ret_attachment, err);
    r = check_others(record, node_id, mode, readonly, err);
    if (r != E_OK)
        return r;
    if (record->attachments_count >= VOLUME_ATTACHMENTS_MAX || record->epoch_last >= INT64_MAX)
        return error_set(err, E_EXHAUSTED, "volume %s is attached to %zu nodes, the most that one can have",
                         record->id, record->attachments_count);

    added = attachment_append(record);
    if (!added)
        return error_errno(err, ENOMEM, "cannot attach volume %s", record->id);
    r = id_secret_new(added->secret);
    if (r < 0)
        return error_errno(err, -r, "cannot draw a secret for volume %s", record->id);
    str_copy(added->node_id, sizeof(added->node_id), node_id);
    added->epoch = ++record->epoch_last;
    added->access_mode = mode;
    added->readonly = readonly;
    record->attachments_count++;
    *ret_attachment = added;
    return E_OK;
}

int attach_remove_begin(struct volume_record *record, const char *node_id, uint64_t epoch, struct error *err)
{
    struct attachment *standing = volume_record_attachment(record, node_id);

    if (!standing)
        return error_set(err, E_NOT_FOUND, "volume %s is not attached to node %s", record->id, node_id);
    if (epoch != 0 && epoch != standing->epoch)
        return error_set(err, E_STALE,
                         "volume %s is attached to node %s with epoch %" PRIu64 ", not %" PRIu64, record->id,
                         node_id, standing->epoch, epoch);
    standing->removing = true;
    return E_OK;
}

int attach_remove_finish(struct volume_record *record, uint64_t epoch, struct error *err)
{
    struct attachment *gone = volume_record_epoch(record, epoch);
    size_t after;

    if (!gone)
        return error_set(err, E_NOT_FOUND, "volume %s has no attachment of epoch %" PRIu64, record->id,
                         epoch);
    if (!gone->removing)
        return error_set(err, E_PRECONDITION,
                         "the attachment of volume %s with epoch %" PRIu64 " is not marked as removing",
                         record->id, epoch);
    after = record->attachments_count - (size_t)(gone - record->attachments) - 1;
    explicit_bzero(gone, sizeof(*gone));
    memmove(gone, gone + 1, after * sizeof(*gone));
    record->attachments_count--;
    return E_OK;
}

int attach_grant(struct volume_record *record, const char *node_id, uint64_t epoch, uint64_t holding,
                 struct attachment **ret_attachment, struct error *err)
{
    struct attachment *standing = volume_record_attachment(record, node_id);
    char secret[ID_SECRET_LENGTH + 1];
    int r;

    if (!standing || standing->epoch != epoch)
        return error_set(err, E_NOT_FOUND, "volume %s is not attached to node %s with epoch %" PRIu64,
                         record->id, node_id, epoch);
    if (standing->removing)
        return error_set(err, E_PRECONDITION, "volume %s is being detached from node %s", record->id,
                         node_id);
    if (standing->generation != holding)
        return error_set(err, E_STALE,
                         "generation %" PRIu64 " of volume %s on node %s is not the newest: it is %" PRIu64,
                         holding, record->id, node_id, standing->generation);
    if (standing->generation >= INT64_MAX)
        return error_set(err, E_EXHAUSTED, "volume %s has no generations left: detach it", record->id);
    r = id_secret_new(secret);
    if (r < 0)
        return error_errno(err, -r, "cannot draw a secret for volume %s", record->id);
    memcpy(standing->generation_secret, secret, sizeof(secret));
    explicit_bzero(secret, sizeof(secret));
    standing->generation++;
    standing->write_through = false;
    *ret_attachment = standing;
    return E_OK;
}

bool attach_write_through(const struct volume_record *record, const struct attachment *attachment,
                          uint64_t generation)
{
    return generation == 0 || attachment->write_through || volume_record_shared_writers(record);
}

int attach_admits(const struct volume_record *record, uint64_t epoch, uint64_t generation,
                  const struct attachment **ret_attachment)
{
    for (size_t i = 0; i < record->attachments_count; i++) {
        const struct attachment *attachment = &record->attachments[i];

        if (attachment->epoch != epoch)
            continue;
        /* Generation 0 is admitted only while none was granted: the equality says that too. */
        if (attachment->removing || attachment->generation != generation)
            return E_PERMISSION;
        *ret_attachment = attachment;
        return E_OK;
    }
    return E_PERMISSION;
}
