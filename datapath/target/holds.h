/*
 * Holds: volumes of this server whose changes wait, so that snapshots here and on other servers are of one
 * moment. All of a hold's volumes or none. A hold ends by itself at its time, whatever becomes of who asked
 * for it; what was made under it counts only if it stood until it was released: else nobody can commit it,
 * and it is deleted. What is kept of holds is bounded (invariant 10) and ends with the process: after a
 * restart no hold stands.
 *
 * Functions are for any thread but a loop's, unless they say otherwise. A hold's end is a tick of one loop.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/id.h"
#include "datapath/loop/loop.h"
#include "datapath/store/snapshot.h"
#include "datapath/store/store.h"

#define HOLDS_MAX 16
#define HOLD_VOLUMES_MAX 64
#define HOLD_MS_MAX 5000u
#define HOLDS_REMEMBERED 128 /* that have ended */
#define HOLD_ID_LENGTH ID_BOOT_LENGTH

struct hold;

struct hold_end {
    char id[HOLD_ID_LENGTH + 1];
    bool stood; /* until it was released */
};

struct hold_table {
    pthread_mutex_t lock;
    struct hold *standing[HOLDS_MAX];
    struct hold_end ended[HOLDS_REMEMBERED]; /* a ring */
    unsigned ended_next;
    struct hold *left; /* that ended too early, with snapshots to delete */
    bool sweeping;
    struct loop_work sweep;
    struct store *store;
    struct loop *loop;
    struct loop_message begin;
    struct loop_op tick;
    bool ticking; /* or about to */
};

void hold_table_init(struct hold_table *table);
/* Before the first hold. */
void hold_table_start(struct hold_table *table, struct store *store, struct loop *loop);
void hold_table_stop(struct hold_table *table); /* end them all: the loop stops next */
void hold_table_done(struct hold_table *table);

/*
 * Hold the changes of all these for hold_ms. A repeat finds the hold that stands. E_PRECONDITION when one of
 * this id has ended; E_BUSY when a volume is held already; E_EXHAUSTED for more holds or volumes than may be;
 * E_INVALID_ARGUMENT for a time, an id, or volumes that are not those of the hold that stands.
 */
int hold_begin(struct hold_table *table, const char *hold_id, struct volume *const *volumes, size_t count,
               uint32_t hold_ms, struct error *err);

/* E_PRECONDITION unless the hold stands and is of this volume, too. */
int hold_check(struct hold_table *table, const char *hold_id, const struct volume *volume, struct error *err);

/* The snapshot was made under the hold: once for each of its volumes. E_PRECONDITION when it does not stand
 * (any more): the snapshot's moment is nobody's. */
int hold_add_snapshot(struct hold_table *table, const char *hold_id, struct snapshot *snapshot,
                      struct error *err);
bool hold_has_snapshot(struct hold_table *table, const char *hold_id, const struct snapshot *snapshot);

/* End it, and mark what was made under it as held. E_PRECONDITION when it had ended before, or is unknown. A
 * repeat gives the same. */
int hold_release(struct hold_table *table, const char *hold_id, struct error *err);
