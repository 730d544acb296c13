/*
 * Claims of names (invariant 8): before a volume, a snapshot or a group of snapshots is made, its name is
 * claimed durably on every configured server, in the order of their ids; who claims second adopts what stands
 * on the first, so two controllers at once come to one object. A claim whose object was never made, or was on
 * a server that is declared gone, is replaced. The kinds have a space of names each.
 */
#pragma once

#include "controller/controller.h"

#define CLAIM_ID_MAX ID_SNAPSHOT_MAX /* the longest of the ids that claim */

enum claim_kind { CLAIM_VOLUME, CLAIM_SNAPSHOT, CLAIM_GROUP };

/*
 * Claim name everywhere for a candidate, or for whom a claim stands: id holds the candidate's, and afterwards
 * whose claim stands on all servers. E_UNAVAILABLE when a server does not answer; E_PRECONDITION when one
 * does not serve the kind; E_BUSY when two controllers keep crossing each other.
 */
int claim_name(struct controller *controller, enum claim_kind kind, const char *name,
               char id[CLAIM_ID_MAX + 1], uint64_t deadline_ms, struct error *err);

/* Release name on every server, from the last to the first. name "": whichever id claimed. Tries all, and
 * reports the first that failed. */
int claim_release(struct controller *controller, enum claim_kind kind, const char *name, const char *id,
                  uint64_t deadline_ms, struct error *err);

/* Give up the claims of what was not made. A failure is logged only: a later create finds it. */
void claim_abandon(struct controller *controller, enum claim_kind kind, const char *name, const char *id);

/* Release what the id of something that is gone still claims: its delete was cut short, and nobody knows its
 * name any more. */
int claim_release_unnamed(struct controller *controller, enum claim_kind kind, const char *id,
                          uint64_t deadline_ms, struct error *err);
