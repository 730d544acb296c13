/* What the two files of the tests' storage server share. */
#pragma once

#include "tests/unit/controller_peer.h"

#define HANDLER(function)                                                                                    \
    int function(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,         \
                 void *context, struct error *err)

/* Around each handler: the hook, and the lock. */
int peer_begin(struct peer *peer, const char *method, struct error *err);
int peer_end(struct peer *peer, int r);

/* Is there something on this server whose claim must stay? */
bool peer_keeps_claim(struct peer *peer, const char *id);

HANDLER(peer_create_snapshot);
HANDLER(peer_delete_snapshot);
HANDLER(peer_get_snapshot);
HANDLER(peer_list_snapshots);
HANDLER(peer_hold_volumes);
HANDLER(peer_release_volumes);
HANDLER(peer_commit_snapshots);
HANDLER(peer_list_extents);
