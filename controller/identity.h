/* CSI's Identity service of the controller, for rpc/: on a thread and queue of its own, so that no slow call
 * can hold up Probe. */
#pragma once

#include "controller/monitor.h"
#include "rpc/rpc.h"

/* The service; monitor must outlive the server. */
struct rpc_service identity_service(struct monitor *monitor);
