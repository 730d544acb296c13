/* CSI's Identity service, the same on the controller's and the node's socket but for what Probe says: on a
 * thread and queue of its own, so that no slow call can hold up Probe. CSI: "Identity Service RPC". */
#pragma once

#include <stdbool.h>

#include "rpc/rpc.h"

struct identity {
    /* Is the plugin ready? E_PRECONDITION, in words, when it never will be until somebody changes something.
     * Waits for nothing. NULL: that it answers says so. */
    int (*ready)(void *context, bool *ret_ready, struct error *err);
    void *context;
};

/* The service; *identity must outlive the server. */
struct rpc_service identity_service(struct identity *identity);
