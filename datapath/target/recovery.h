/* What a stopped mooring-target left half-done. */
#pragma once

struct server;

/* Finish the removals that had begun, and those of fenced nodes. Before anyone is served: no session exists.
 * What cannot be finished now is logged. */
void recovery_run(struct server *server);
