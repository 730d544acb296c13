/*
 * Which node may hold volumes: decisions on a node record in memory (invariant 3). No state, no I/O; called
 * by the Storage service under the node's lock.
 */
#include "datapath/store/fence.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/strings.h"

static bool boot_id_fenced(const struct node_record *record, const char *boot_id)
{
    for (size_t i = 0; i < record->fenced_boot_ids_count; i++) {
        if (str_equal(record->fenced_boot_ids[i], boot_id))
            return true;
    }
    return false;
}

int fence_register(struct node_record *record, const char *boot_id, const char *address, bool *ret_changed,
                   struct error *err)
{
    bool changed = false;

    if (!id_boot_valid(boot_id))
        return error_set(err, E_INVALID_ARGUMENT,
                         "node %s registers with \"%.40s\", which is not a boot id: 32 hex digits",
                         record->id, boot_id);
    if (strlen(address) >= sizeof(record->address))
        return error_set(err, E_INVALID_ARGUMENT, "the address of node %s is longer than %zu bytes",
                         record->id, sizeof(record->address) - 1);
    /* Another boot id than those that were fenced is another life of the host; where none was known, any boot
     * id may be the one that was meant. */
    if (record->fenced && record->fenced_boot_ids_count > 0 && !boot_id_fenced(record, boot_id)) {
        fence_clear(record);
        changed = true;
    }
    if (!str_equal(record->boot_id, boot_id) || !str_equal(record->address, address)) {
        str_copy(record->boot_id, sizeof(record->boot_id), boot_id);
        str_copy(record->address, sizeof(record->address), address);
        changed = true;
    }
    *ret_changed = changed;
    return E_OK;
}

/* Add to a list that has room for `room`; what is empty or there already is passed over. */
static int boot_ids_add(char (*list)[ID_BOOT_LENGTH + 1], size_t room, size_t *count, const char *boot_id)
{
    if (boot_id[0] == '\0')
        return E_OK;
    if (!id_boot_valid(boot_id))
        return E_INVALID_ARGUMENT;
    for (size_t i = 0; i < *count; i++) {
        if (str_equal(list[i], boot_id))
            return E_OK;
    }
    if (*count >= room)
        return E_EXHAUSTED;
    memcpy(list[(*count)++], boot_id, ID_BOOT_LENGTH + 1);
    return E_OK;
}

int fence_set(struct node_record *record, const char *reason, const char *const *boot_ids,
              size_t boot_ids_count, struct error *err)
{
    char(*list)[ID_BOOT_LENGTH + 1];
    size_t count = record->fenced_boot_ids_count;
    int r;

    if (strlen(reason) >= sizeof(record->fence_reason))
        return error_set(err, E_INVALID_ARGUMENT, "the reason for the fence is longer than %zu bytes",
                         sizeof(record->fence_reason) - 1);
    list = calloc(NODE_BOOT_IDS_MAX, sizeof(*list));
    if (!list)
        return error_errno(err, ENOMEM, "cannot fence node %s", record->id);
    if (count > 0)
        memcpy(list, record->fenced_boot_ids, count * sizeof(*list));
    r = boot_ids_add(list, NODE_BOOT_IDS_MAX, &count, record->boot_id);
    for (size_t i = 0; i < boot_ids_count && r == E_OK; i++)
        r = boot_ids_add(list, NODE_BOOT_IDS_MAX, &count, boot_ids[i]);
    if (r != E_OK) {
        free(list);
        if (r == E_EXHAUSTED)
            return error_set(err, r, "node %s has more boot ids than the %d that a fence can hold",
                             record->id, NODE_BOOT_IDS_MAX);
        return error_set(err, r, "one of the boot ids given for node %s is not 32 hex digits", record->id);
    }
    free(record->fenced_boot_ids);
    record->fenced_boot_ids = list;
    record->fenced_boot_ids_count = count;
    record->fenced = true;
    str_copy(record->fence_reason, sizeof(record->fence_reason), reason);
    return E_OK;
}

void fence_clear(struct node_record *record)
{
    free(record->fenced_boot_ids);
    record->fenced_boot_ids = NULL;
    record->fenced_boot_ids_count = 0;
    record->fenced = false;
    record->fence_reason[0] = '\0';
}
