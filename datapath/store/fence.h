/* Decisions about nodes (invariant 3): registration, fence, unfence; pure functions on a node record. */
#pragma once

#include "datapath/store/record.h"

/* A node registers (or heartbeats) with its host's boot id. A fence that stands is lifted only by a boot id
 * that is not among fenced_boot_ids; one without any boot id by an operator only. *ret_changed: the record
 * differs and must be committed. */
int fence_register(struct node_record *record, const char *boot_id, const char *address, bool *ret_changed,
                   struct error *err);

/* Set the fence, refusing the record's own boot id and those given; adds to a fence that stands. */
int fence_set(struct node_record *record, const char *reason, const char *const *boot_ids,
              size_t boot_ids_count, struct error *err);

void fence_clear(struct node_record *record);
