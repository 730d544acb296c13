/*
 * What Probe answers (CSI 1.13, "Probe"). Not ready until this node has registered with a storage server and
 * a way to attach volumes was found; ready from then on, whatever comes: what goes wrong later is told by the
 * calls and by NodeGetStorageHealth, and a liveness probe that ended mooring-node for it would mend nothing.
 * A node that has volumes at its start has registered in an earlier life.
 */
#pragma once

#include "node/node.h"

struct readiness;

/* Starts to look, on a thread of its own, which a program that hangs may keep: it outlives readiness_free()
 * then, and touches nothing of the node's. */
int readiness_new(struct readiness **ret, const struct node *node, struct error *err);
struct readiness *readiness_free(struct readiness *readiness);

/* For struct identity; context is the struct readiness. E_PRECONDITION, saying why, while no volume could be
 * attached in any way. Waits for nothing. */
int readiness_tell(void *context, bool *ret_ready, struct error *err);
