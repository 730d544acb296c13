/* A session's messages between its connection's loop and its volume's owner; see session.h. */
#include "datapath/target/session.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "datapath/target/connection.h"
#include "datapath/target/export.h"
#include "datapath/target/reactor.h"
#include "datapath/target/server.h"

static void session_ask_run(struct loop_message *message)
{
    export_admit(container_of(message, struct session, ask));
}

static void session_decision_run(struct loop_message *message)
{
    struct session *session = container_of(message, struct session, decision);
    if (session->connection)
        session->decided(session, session->verdict);
}

static void session_close_run(struct loop_message *message)
{
    struct session *session = container_of(message, struct session, close);
    if (session->connection)
        connection_close(session->connection, "the storage server ended the session");
}

static void session_changed_run(struct loop_message *message)
{
    struct session *session = container_of(message, struct session, changed);
    atomic_store(&session->changing, false);
    if (session->connection)
        throttle_look_again(session->connection);
}

static void session_end_run(struct loop_message *message)
{
    struct session *session = container_of(message, struct session, end);
    export_session_ended(session);
    loop_post(session->reactor->loop, &session->release);
}

static void session_release_run(struct loop_message *message)
{
    struct session *session = container_of(message, struct session, release);
    struct reactor *reactor = session->reactor;
    free(session);
    reactor->sessions_count--;
    reactor_check_stopped(reactor);
}

int session_new(struct session **ret, struct connection *connection, struct reactor *reactor)
{
    struct session *session = calloc(1, sizeof(*session));
    if (!session)
        return -ENOMEM;
    session->reactor = reactor;
    session->connection = connection;
    session->ask.run = session_ask_run;
    session->decision.run = session_decision_run;
    session->close.run = session_close_run;
    session->changed.run = session_changed_run;
    session->end.run = session_end_run;
    session->release.run = session_release_run;
    *ret = session;
    return 0;
}

void session_ask(struct session *session)
{
    session->owner = server_owner(session->reactor->server, session->volume_id);
    session->reactor->sessions_count++;
    loop_post(session->owner->loop, &session->ask);
}

void session_limits_changed(struct session *session)
{
    if (!atomic_exchange(&session->changing, true))
        loop_post(session->reactor->loop, &session->changed);
}

void session_end(struct session *session)
{
    session->connection = NULL;
    loop_post(session->owner->loop, &session->end);
}
