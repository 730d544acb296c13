/*
 * Reads a caller's role off its certificate. Whoever holds a certificate of the private CA has the role that
 * its subject CN states, so a CN that is not exactly of one of our shapes gives none. Stateless; the server's
 * queue threads call it, and the client's handshake.
 */
#include "rpc/peer.h"

#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/strings.h"

static const struct {
    const char *prefix;
    enum rpc_role role;
    bool (*id_valid)(const char *id); /* NULL: the role has no id, and prefix is the whole name */
} roles[] = {
    {"mooring:controller", RPC_ROLE_CONTROLLER, NULL},
    {"mooring:operator", RPC_ROLE_OPERATOR, NULL},
    {"mooring:node:", RPC_ROLE_NODE, id_node_valid},
    {"mooring:server:", RPC_ROLE_SERVER, id_server_valid},
};

void rpc_peer_parse(struct rpc_peer *peer, const char *common_name, size_t length)
{
    char name[sizeof(peer->id) + 32];

    peer->role = RPC_ROLE_NONE;
    peer->id[0] = '\0';
    if (length >= sizeof(name) || memchr(common_name, '\0', length))
        return;
    memcpy(name, common_name, length);
    name[length] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
        if (!roles[i].id_valid && str_equal(name, roles[i].prefix)) {
            peer->role = roles[i].role;
            return;
        }
        if (!roles[i].id_valid || !str_starts_with(name, roles[i].prefix))
            continue;
        const char *id = name + strlen(roles[i].prefix);
        if (roles[i].id_valid(id) && str_copy(peer->id, sizeof(peer->id), id))
            peer->role = roles[i].role;
        return;
    }
}

static void peer_identify_certificate(struct rpc_peer *peer, grpc_call *call)
{
    grpc_auth_context *context = grpc_call_auth_context(call);
    grpc_auth_property_iterator iterator;
    const grpc_auth_property *name, *second;

    peer->role = RPC_ROLE_NONE;
    if (!context)
        return;
    if (grpc_auth_context_peer_is_authenticated(context)) {
        iterator = grpc_auth_context_find_properties_by_name(context, GRPC_X509_CN_PROPERTY_NAME);
        name = grpc_auth_property_iterator_next(&iterator);
        second = name ? grpc_auth_property_iterator_next(&iterator) : NULL;
        if (name && !second)
            rpc_peer_parse(peer, name->value, name->value_length);
    }
    grpc_auth_context_release(context);
}

void rpc_peer_identify(struct rpc_peer *ret_peer, grpc_call *call, bool local)
{
    char *address = grpc_call_get_peer(call);

    memset(ret_peer, 0, sizeof(*ret_peer));
    if (address)
        snprintf(ret_peer->address, sizeof(ret_peer->address), "%s", address);
    gpr_free(address);
    if (local)
        ret_peer->role = RPC_ROLE_LOCAL;
    else
        peer_identify_certificate(ret_peer, call);
}

static const char *role_name(enum rpc_role role)
{
    switch (role) {
    case RPC_ROLE_NONE:
        return "none";
    case RPC_ROLE_LOCAL:
        return "local";
    case RPC_ROLE_CONTROLLER:
        return "controller";
    case RPC_ROLE_NODE:
        return "node";
    case RPC_ROLE_OPERATOR:
        return "operator";
    case RPC_ROLE_SERVER:
        return "server";
    }
    return "none";
}

void rpc_peer_format(const struct rpc_peer *peer, char *ret_text, size_t size)
{
    snprintf(ret_text, size, "%s%s%s@%s", role_name(peer->role), peer->id[0] ? ":" : "", peer->id,
             peer->address[0] ? peer->address : "?");
}
