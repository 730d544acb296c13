/*
 * Life and end of one connection. Made by the reactor that got it; every function runs on its loop. Whoever
 * enters from outside (a completion, a message, the tick) holds an operation meanwhile, so that the
 * connection is freed in one place only, connection_operation_end(), when the last one has ended.
 */
#include "datapath/target/connection.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "datapath/target/reactor.h"
#include "datapath/target/server.h"
#include "datapath/target/session.h"

#define NS_PER_S UINT64_C(1000000000)
#define PING_AFTER_NS (60 * NS_PER_S) /* of silence */
#define GUEST_MAX_NS (30 * NS_PER_S)
#define DEAD_AFTER_NS (120 * NS_PER_S) /* of silence: the peer is gone, what it holds is given back */

static void connection_set_peer(struct connection *connection)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof(address);
    char text[INET6_ADDRSTRLEN] = "?";
    unsigned port = 0;
    if (getpeername(connection->fd, (struct sockaddr *)&address, &length) == 0) {
        if (address.ss_family == AF_INET) {
            const struct sockaddr_in *in = (const struct sockaddr_in *)&address;
            inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
            port = ntohs(in->sin_port);
        } else if (address.ss_family == AF_INET6) {
            const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;
            inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
            port = ntohs(in6->sin6_port);
        }
    }
    snprintf(connection->peer_address, sizeof(connection->peer_address),
             strchr(text, ':') ? "[%s]:%u" : "%s:%u", text, port);
    str_copy(connection->log_name, sizeof(connection->log_name), connection->peer_address);
}

static void connection_link(struct connection *connection)
{
    struct reactor *reactor = connection->reactor;
    connection->next = reactor->connections;
    if (reactor->connections)
        reactor->connections->previous = connection;
    reactor->connections = connection;
}

static void connection_unlink(struct connection *connection)
{
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        connection->reactor->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
}

static void connection_free(struct connection *connection)
{
    login_phase_done(connection);
    text_phase_done(connection);
    task_set_done(connection);
    free(connection->text);
    free(connection);
}

int connection_new(struct reactor *reactor, int fd)
{
    struct connection *connection = calloc(1, sizeof(*connection));
    if (!connection)
        return -ENOMEM;
    connection->reactor = reactor;
    connection->fd = fd;
    connection->heard_ns = loop_now_ns(reactor->loop);
    connection->tasks.held_at = &connection->tasks.held;
    connection->tasks.starved_at = &connection->tasks.starved;
    throttle_init(&connection->throttle);
    connection->text = malloc(CONNECTION_TEXT_MAX + 1);
    if (!connection->text || login_phase_start(connection) != 0) {
        connection_free(connection);
        return -ENOMEM;
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    connection_set_peer(connection);
    connection_link(connection);
    connection->guest = true;
    connection->accepted_ns = connection->heard_ns;
    reactor->guests++;
    atomic_fetch_add(&reactor->server->guests_count, 1);
    connection_receive_start(connection);
    return 0;
}

void connection_guest_done(struct connection *connection)
{
    if (!connection->guest)
        return;
    connection->guest = false;
    connection->reactor->guests--;
    atomic_fetch_sub(&connection->reactor->server->guests_count, 1);
}

bool connection_evict_guest(struct reactor *reactor)
{
    struct connection *oldest = NULL;
    for (struct connection *connection = reactor->connections; connection; connection = connection->next)
        if (connection->guest) /* the newest comes first */
            oldest = connection;
    if (!oldest)
        return false;
    reactor->guests_evicted++;
    connection_close(oldest, "others want to log in, and it is the oldest that has not");
    return true;
}

struct connection *connection_next(struct connection *connection)
{
    return connection->next;
}

/* The last operation has ended. The session, if any, is the owner's to let go. */
static void connection_finish(struct connection *connection)
{
    struct reactor *reactor = connection->reactor;
    assert(!connection->rounds && !connection->sending && !connection->receiving);
    connection_unlink(connection);
    fd_close(connection->fd);
    if (connection->session && connection->session->owner)
        session_end(connection->session);
    else
        free(connection->session);
    connection_free(connection);
    atomic_fetch_sub(&reactor->server->connections_count, 1);
    reactor_check_stopped(reactor);
}

void connection_operation_end(struct connection *connection)
{
    assert(connection->inflight > 0);
    if (--connection->inflight == 0 && connection->closing)
        connection_finish(connection);
}

/* Hold, release: nothing is being carried out any more, or never will be. */
static void connection_answer_rounds(struct connection *connection)
{
    if (connection->tasks.executing)
        return;
    while (connection->rounds) {
        struct round_part *part = connection->rounds;
        connection->rounds = part->next;
        round_part_answer(part);
    }
}

void connection_close(struct connection *connection, const char *why)
{
    if (connection->closing)
        return;
    connection->inflight++;
    connection->closing = true;
    connection_guest_done(connection);
    if (connection->session)
        log_info("session of %s ends: %s", connection->log_name, why);
    else
        log_debug("connection of %s ends: %s", connection->log_name, why);
    shutdown(connection->fd, SHUT_RDWR);
    if (connection->receiving)
        loop_cancel(connection->reactor->loop, &connection->recv);
    if (connection->sending)
        loop_cancel(connection->reactor->loop, &connection->send);
    else
        connection_drop_output(connection);
    task_set_drop(connection);
    task_management_drop(connection);
    connection_answer_rounds(connection);
    connection_operation_end(connection);
}

void connection_tick(struct connection *connection)
{
    uint64_t now = loop_now_ns(connection->reactor->loop);
    if (connection->closing)
        return;
    uint64_t silent = now > connection->heard_ns ? now - connection->heard_ns : 0;
    if (login_phase_late(connection, now))
        connection_close(connection, "the login took too long");
    else if (connection->guest && now > connection->accepted_ns + GUEST_MAX_NS)
        connection_close(connection, "it proved no attachment, and its time is over");
    else if (connection->phase == CONNECTION_ADMITTING)
        return;
    else if (silent > DEAD_AFTER_NS)
        connection_close(connection, "nothing was heard for two minutes");
    else if (connection->reactor->short_of_buffers && connection_stalled(connection, now))
        connection_close(connection, "its transfer does not go on, and others wait for its buffers");
    else if (silent > PING_AFTER_NS && !connection->pinged && connection->phase == CONNECTION_FULL_FEATURE)
        request_ping(connection);
}

void connection_round(struct connection *connection, struct round_part *part)
{
    connection->inflight++;
    switch (part->round->kind) {
    case ROUND_HOLD:
        connection->holds++;
        break;
    case ROUND_RELEASE:
        if (--connection->holds == 0 && !connection->closing)
            task_set_go_on(connection);
        round_part_answer(part);
        connection_operation_end(connection);
        return;
    }
    part->next = connection->rounds;
    connection->rounds = part;
    connection_answer_rounds(connection);
    connection_operation_end(connection);
}

void connection_task_ended(struct connection *connection)
{
    task_management_task_ended(connection);
    connection_answer_rounds(connection);
    task_set_serve(connection);
}
