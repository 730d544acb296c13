/*
 * A snapshot whose cut is recorded while its copying is surely half-way: for the tests that fail or kill the
 * store at each of its system calls. Between before and after there is a third state then: lost.
 */
#pragma once

#include "datapath/store/snapshot.h"

/* As spec says, recorded, and then whole; what was lost by an earlier try is deleted first. Waits until the
 * copying has ended in any case. */
int gate_snapshot(struct store *store, const char *volume_id, const struct snapshot_record *spec,
                  struct error *err);

/* The same, with something done while nothing is shared yet. */
int gate_snapshot_during(struct store *store, const char *volume_id, const struct snapshot_record *spec,
                         void (*meanwhile)(void *context), void *context, struct error *err);

/* The third state: what the pool has when everything ends right after the record. */
int gate_record_alone(struct store *store, const char *volume_id, const struct snapshot_record *spec,
                      struct error *err);
