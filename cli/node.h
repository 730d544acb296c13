/* What is known of the compute nodes over all storage servers. Pure functions on their answers. */
#pragma once

#include <jansson.h>

#include "cli/servers.h"

/* One row a node: its boot ids of all servers together, fenced where anyone says so. Rows are in the order of
 * node ids. answers are those of ListNodes. */
json_t *node_merge(const struct server_answers *answers);
