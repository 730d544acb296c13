/* Decisions about what a volume holds (invariant 5): blank → formatting(epoch, generation) → data; pure
 * functions. */
#pragma once

#include "datapath/store/record.h"

/* Set "formatting" for this epoch and generation. *ret_discard: it was "formatting" already (of whatever
 * epoch), so the volume must be discarded before the caller answers. E_STALE unless epoch and generation are
 * the attachment's current ones; E_PRECONDITION when it holds data, or the attachment is read-only. */
int content_format_begin(struct volume_record *record, const char *node_id, uint64_t epoch,
                         uint64_t generation, bool *ret_discard, struct error *err);

/* "formatting" of this epoch and generation → data. 0 also when it is data already by the same. */
int content_format_end(struct volume_record *record, const char *node_id, uint64_t epoch, uint64_t generation,
                       struct error *err);

/* True when a changing command of this epoch and generation must first make the volume "data". */
bool content_write_marks(const struct volume_record *record, uint64_t epoch, uint64_t generation);

/* Blank or formatting → data, by a write that is not the formatting generation's. */
void content_mark_data(struct volume_record *record);
