/*
 * Claims of volume names (invariant 8): before a volume is made, its name is claimed durably on every
 * configured server, in the order of their ids; who claims second adopts what stands on the first, so two
 * controllers at once come to one volume. A claim whose volume was never made, or was on a server that is
 * declared gone, is replaced.
 */
#pragma once

#include "controller/controller.h"

/*
 * Claim name everywhere for candidate_id, or for whom a claim stands: volume_id holds the candidate, and
 * afterwards whose claim stands on all servers. E_UNAVAILABLE when a server does not answer; E_BUSY when two
 * controllers keep crossing each other.
 */
int claim_name(struct controller *controller, const char *name, char volume_id[ID_VOLUME_MAX + 1],
               uint64_t deadline_ms, struct error *err);

/* Release name on every server, from the last to the first. name "": whichever volume_id claimed. Tries all,
 * and reports the first that failed. */
int claim_release(struct controller *controller, const char *name, const char *volume_id,
                  uint64_t deadline_ms, struct error *err);

/* Give up the claims of a volume that was not made. A failure is logged only: a later create finds it. */
void claim_abandon(struct controller *controller, const char *name, const char *volume_id);
