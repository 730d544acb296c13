/*
 * Which storage server a new volume goes to: by topology first (CSI, TopologyRequirement: preferred in order,
 * then requisite), by free capacity second. Pure functions. Topologies are JSON objects of strings.
 */
#pragma once

#include "controller/controller.h"

struct placement_server {
    const char *id;
    json_t *topology;    /* from where its volumes can be reached; NULL or empty: from everywhere. Borrowed */
    uint64_t free_bytes; /* the more of it, the better the server */
    uint64_t size_max_bytes; /* of one volume */
    uint64_t room_bytes;     /* for this volume: not less than free_bytes */
};

/* Can a volume of a server in this topology be reached from place? Where both name a key (letter case
 * ignored) they must agree, and they must share one. */
bool placement_reaches(json_t *topology, json_t *place);

/* Does a server in this topology satisfy the wish? */
bool placement_fits(json_t *topology, const struct topology_wish *wish);

/* E_EXHAUSTED when no server fits the wish (CSI: RESOURCE_EXHAUSTED), E_OUT_OF_RANGE when none that fits
 * takes volumes of this size, E_NO_SPACE when none has room. */
int placement_choose(const struct placement_server *servers, size_t count, const struct topology_wish *wish,
                     uint64_t size_bytes, size_t *ret_index, struct error *err);
