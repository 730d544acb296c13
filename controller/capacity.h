/* GetCapacity: what new volumes may still be promised, over the servers that a wish reaches. */
#pragma once

#include "controller/controller.h"

struct capacity {
    uint64_t available_bytes;
    uint64_t size_max_bytes; /* the largest volume that could be made now: where servers overcommit, more */
};

/* E_UNAVAILABLE when a server does not answer and is not declared gone. */
int capacity_get(struct controller *controller, const struct topology_wish *wish, bool thick,
                 uint64_t deadline_ms, struct capacity *ret, struct error *err);
