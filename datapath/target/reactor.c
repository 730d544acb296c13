/*
 * One loop, its thread, and what lives on it; the accepting of connections, which the first reactor (or the
 * lobby) does for all. Started and stopped by server.c from the main thread.
 */
#include "datapath/target/reactor.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "datapath/target/connection.h"
#include "datapath/target/server.h"

#define TICK_MS 1000
#define MISSED_LATELY_NS (UINT64_C(10) * 1000000000)

struct acceptor {
    struct loop_op op;
    struct reactor *reactor;
    int fd;
    bool active;
    unsigned next_reactor;
    struct acceptor *next;
};

/* A connection on its way to the reactor that will have it. */
struct handover {
    struct loop_message message;
    struct reactor *reactor;
    int fd;
    bool beyond; /* the limit: a guest has to make room */
};

static void reactor_tick(struct loop_op *op, int res, unsigned flags);
static void reactor_flush(struct loop_message *message);
static void reactor_begin_stop(struct loop_message *message);
static void acceptor_done(struct loop_op *op, int res, unsigned flags);

int reactor_new(struct reactor **ret, struct server *server, unsigned index, int hold_fd, struct error *err)
{
    struct reactor *reactor = calloc(1, sizeof(*reactor));
    if (!reactor)
        return error_errno(err, ENOMEM, "event loop %u", index);
    *reactor = (struct reactor){.server = server,
                                .index = index,
                                .tick = {.done = reactor_tick},
                                .flush = {.run = reactor_flush},
                                .stop = {.run = reactor_begin_stop}};
    sem_init(&reactor->quiet, 0, 0);
    buffer_pool_init(&reactor->buffers, server->settings->buffer_bytes_per_loop);
    const struct loop_options options = {.entries = 512,
                                         .recv_buffers = 256,
                                         .recv_buffer_size = REACTOR_RECV_BUFFER_SIZE,
                                         .offload_threads = 2,
                                         .spin_us = 50};
    int code = loop_new(&reactor->loop, &options, err);
    if (code == 0 && hold_fd >= 0) {
        code = loop_hold_fd(reactor->loop, hold_fd);
        if (code)
            error_errno(err, -code, "cannot have event loop %u hold the pool's lock", index);
    }
    if (code) {
        reactor_free(reactor);
        return code;
    }
    *ret = reactor;
    return 0;
}

struct reactor *reactor_free(struct reactor *reactor)
{
    if (!reactor)
        return NULL;
    assert(!reactor->connections && !reactor->exports);
    loop_free(reactor->loop);
    while (reactor->acceptors) {
        struct acceptor *acceptor = reactor->acceptors;
        reactor->acceptors = acceptor->next;
        free(acceptor);
    }
    buffer_pool_done(&reactor->buffers);
    sem_destroy(&reactor->quiet);
    free(reactor);
    return NULL;
}

static void reactor_wait(sem_t *semaphore)
{
    while (sem_wait(semaphore) < 0)
        ;
}

static void *reactor_main(void *context)
{
    struct reactor *reactor = context;
    reactor->tick_pending = true;
    loop_timeout(reactor->loop, &reactor->tick, TICK_MS);
    int code = loop_run(reactor->loop);
    if (code) {
        /* Without this ring its sessions can neither be served nor ended: a restart is the way out. */
        log_error("event loop %u failed: %s", reactor->index, error_name(code));
        _exit(1);
    }
    /* Another thread may be within a loop_post() to it still: it is freed when all have been joined. */
    loop_drain(reactor->loop);
    return NULL;
}

int reactor_start(struct reactor *reactor)
{
    return -pthread_create(&reactor->thread, NULL, reactor_main, reactor);
}

/* ---- accepting ---- */

struct accept_start {
    struct loop_message message;
    struct acceptor *acceptor;
};

static void acceptor_start(struct acceptor *acceptor)
{
    acceptor->active = true;
    loop_accept(acceptor->reactor->loop, &acceptor->op, acceptor->fd);
}

static void accept_start_run(struct loop_message *message)
{
    struct accept_start *start = container_of(message, struct accept_start, message);
    struct acceptor *acceptor = start->acceptor;
    acceptor->next = acceptor->reactor->acceptors;
    acceptor->reactor->acceptors = acceptor;
    acceptor_start(acceptor);
    free(start);
}

int reactor_accept(struct reactor *reactor, struct error *err)
{
    for (unsigned i = 0; i < reactor->server->listeners_count; i++) {
        struct acceptor *acceptor = calloc(1, sizeof(*acceptor));
        struct accept_start *start = calloc(1, sizeof(*start));
        if (!acceptor || !start) {
            free(acceptor);
            free(start);
            return error_errno(err, ENOMEM, "portal %s", reactor->server->settings->portals[i]);
        }
        *acceptor = (struct acceptor){
            .op = {.done = acceptor_done}, .reactor = reactor, .fd = reactor->server->listeners[i]};
        *start = (struct accept_start){.message = {.run = accept_start_run}, .acceptor = acceptor};
        loop_post(reactor->loop, &start->message);
    }
    return 0;
}

/* Half of the connections are for guests, on all loops together. */
static unsigned reactor_guests_max(const struct reactor *reactor)
{
    const struct settings *settings = reactor->server->settings;
    uint64_t share = settings->connections_max / 2 / (reactor->lobby ? 1 : settings->loops);
    return share ? (unsigned)share : 1;
}

/*
 * Whoever can reach the portal can connect, and needs no secret for a discovery. Those who proved nothing
 * make room for each other, the oldest first: a login takes a moment, and has been proved before its turn
 * comes.
 */
static bool handover_find_room(const struct handover *handover)
{
    struct reactor *reactor = handover->reactor;
    if (!handover->beyond && reactor->guests < reactor_guests_max(reactor))
        return true;
    return connection_evict_guest(reactor);
}

static void handover_run(struct loop_message *message)
{
    struct handover *handover = container_of(message, struct handover, message);
    struct reactor *reactor = handover->reactor;
    bool room = !reactor->stopping && handover_find_room(handover);
    if (!room && !reactor->stopping)
        atomic_fetch_add(&reactor->server->refused_count, 1);
    if (!room || connection_new(reactor, handover->fd) != 0) {
        atomic_fetch_sub(&reactor->server->connections_count, 1);
        fd_close(handover->fd);
    }
    free(handover);
}

static void acceptor_take(struct acceptor *acceptor, int fd)
{
    struct server *server = acceptor->reactor->server;
    bool beyond = atomic_fetch_add(&server->connections_count, 1) >= server->settings->connections_max;
    if (beyond && atomic_load(&server->guests_count) == 0) {
        atomic_fetch_sub(&server->connections_count, 1);
        atomic_fetch_add(&server->refused_count, 1);
        fd_close(fd);
        return;
    }
    struct handover *handover = calloc(1, sizeof(*handover));
    if (!handover) {
        atomic_fetch_sub(&server->connections_count, 1);
        fd_close(fd);
        return;
    }
    struct reactor *reactor = acceptor->reactor;
    if (!reactor->lobby)
        reactor = server->reactors[acceptor->next_reactor++ % server->reactors_count];
    *handover =
        (struct handover){.message = {.run = handover_run}, .reactor = reactor, .fd = fd, .beyond = beyond};
    loop_post(reactor->loop, &handover->message);
}

static void acceptor_done(struct loop_op *op, int res, unsigned flags)
{
    struct acceptor *acceptor = container_of(op, struct acceptor, op);
    if (res >= 0 && acceptor->reactor->stopping)
        fd_close(res);
    else if (res >= 0)
        acceptor_take(acceptor, res);
    else if (res != -ECANCELED)
        log_warning("accept: %s", error_name(res));
    if (flags & LOOP_MORE)
        return;
    acceptor->active = false; /* the tick starts it again: never a busy loop on EMFILE */
    reactor_check_stopped(acceptor->reactor);
}

static void acceptor_tick(struct acceptor *acceptor)
{
    struct server *server = acceptor->reactor->server;
    unsigned refused = atomic_exchange(&server->refused_count, 0);
    if (refused)
        log_warning("refused %u connections: %lu are open, the limit (\"limits\": \"connections\")", refused,
                    (unsigned long)server->settings->connections_max);
    if (!acceptor->active && !acceptor->reactor->stopping)
        acceptor_start(acceptor);
}

/* ---- time ---- */

/* One who was sent away, with TASK SET FULL, comes again when it thinks best: until then it waits, too. */
static void reactor_look_at_buffers(struct reactor *reactor)
{
    struct buffer_pool *pool = &reactor->buffers;
    uint64_t now = loop_now_ns(reactor->loop);
    if (pool->missed)
        reactor->buffers_missed_ns = now;
    pool->missed = false;
    reactor->short_of_buffers = pool->first || (reactor->buffers_missed_ns != 0 &&
                                                now < reactor->buffers_missed_ns + MISSED_LATELY_NS);
}

static void reactor_tick(struct loop_op *op, int res, unsigned flags)
{
    struct reactor *reactor = container_of(op, struct reactor, tick);
    (void)res;
    (void)flags;
    reactor->tick_pending = false;
    for (struct acceptor *acceptor = reactor->acceptors; acceptor; acceptor = acceptor->next)
        acceptor_tick(acceptor);
    if (reactor->guests_evicted)
        log_warning("ended %u connections that had proved no attachment: others want to log in",
                    reactor->guests_evicted);
    reactor->guests_evicted = 0;
    reactor_look_at_buffers(reactor);
    for (struct connection *connection = reactor->connections, *next; connection; connection = next) {
        next = connection_next(connection);
        connection_tick(connection);
    }
    buffer_pool_retry(&reactor->buffers);
    if (!reactor->stopping && !reactor->lobby && reactor->index == 0)
        health_tick(&reactor->server->health, reactor->loop);
    if (!reactor->stopping) {
        reactor->tick_pending = true;
        loop_timeout(reactor->loop, &reactor->tick, TICK_MS);
    }
    reactor_check_stopped(reactor);
}

/* ---- sending at the end of a batch ---- */

void reactor_flush_later(struct reactor *reactor, struct connection *connection)
{
    connection_queue_unsent(connection, &reactor->unsent);
    if (reactor->flush_posted)
        return;
    reactor->flush_posted = true;
    loop_post(reactor->loop, &reactor->flush);
}

static void reactor_flush(struct loop_message *message)
{
    struct reactor *reactor = container_of(message, struct reactor, flush);
    reactor->flush_posted = false;
    struct connection *connection = reactor->unsent;
    reactor->unsent = NULL;
    while (connection)
        connection = connection_flush(connection);
    reactor_check_stopped(reactor);
}

/* ---- stopping ---- */

static void reactor_begin_stop(struct loop_message *message)
{
    struct reactor *reactor = container_of(message, struct reactor, stop);
    reactor->stopping = true;
    for (struct acceptor *acceptor = reactor->acceptors; acceptor; acceptor = acceptor->next)
        if (acceptor->active)
            loop_cancel(reactor->loop, &acceptor->op);
    if (reactor->tick_pending)
        loop_cancel(reactor->loop, &reactor->tick);
    for (struct connection *connection = reactor->connections, *next; connection; connection = next) {
        next = connection_next(connection);
        connection_close(connection, "mooring-target stops");
    }
    reactor_check_stopped(reactor);
}

void reactor_check_stopped(struct reactor *reactor)
{
    if (!reactor->stopping || reactor->quiet_reported || reactor->tick_pending || reactor->flush_posted ||
        reactor->connections || reactor->sessions_count || reactor->exports)
        return;
    for (struct acceptor *acceptor = reactor->acceptors; acceptor; acceptor = acceptor->next)
        if (acceptor->active)
            return;
    reactor->quiet_reported = true;
    sem_post(&reactor->quiet);
}

void reactor_stop_begin(struct reactor *reactor)
{
    loop_post(reactor->loop, &reactor->stop);
}

void reactor_stop_wait(struct reactor *reactor)
{
    reactor_wait(&reactor->quiet);
}

void reactor_stop_join(struct reactor *reactor)
{
    loop_stop(reactor->loop);
    pthread_join(reactor->thread, NULL);
}
