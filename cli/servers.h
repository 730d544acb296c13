/*
 * The CLI as an operator's client of the storage servers themselves: what must not wait for a controller,
 * such as a fence. All are asked at once, each by a thread of its own, so that one that does not answer holds
 * up no other. Each must answer with the pool that the configuration names.
 */
#pragma once

#include "cli/cli.h"
#include "proto/storage.pb-c.h"

struct server_answer {
    const struct server_config *config;
    ProtobufCMessage *message; /* NULL when it did not answer */
    struct error err;          /* then: why */
};

struct server_answers {
    struct server_answer *items; /* in the order of ids, without those declared gone */
    size_t count;
    size_t failed;
};

/* The same call to every configured server that is not gone. Only a configuration that has no servers or no
 * certificate is an error here. The caller calls servers_done(). */
int servers_ask(const struct cli *cli, const char *method, const ProtobufCMessage *request,
                struct server_answers *ret, struct error *err);
void servers_done(struct server_answers *answers);

/* The outcome of a command over all: 0; the first error when all failed; CLI_E_PARTIAL, naming those that
 * failed after `what`, otherwise. */
int servers_outcome(const struct server_answers *answers, const char *what, struct error *err);

/* One call to one server. */
int servers_ask_one(const struct cli *cli, const char *server_id, const char *method,
                    const ProtobufCMessage *request, ProtobufCMessage **ret_response, struct error *err);

/* One call to the server of a volume id. */
int servers_ask_volume(const struct cli *cli, const char *volume_id, const char *method,
                       const ProtobufCMessage *request, ProtobufCMessage **ret_response, struct error *err);
