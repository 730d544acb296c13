/* What a stopped mooring-target left half-done. */
#pragma once

#include "common/error.h"

struct server;

/* Finish the removals that had begun, and those of fenced nodes. Before anyone is served: no session exists.
 */
int recovery_run(struct server *server, struct error *err);
