/*
 * What one loop's thread owns: its connections, its data buffers, and the exports of the volumes that it
 * decides on. Everything in it is for that thread, unless it says otherwise.
 */
#pragma once

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>

#include "datapath/loop/loop.h"
#include "datapath/target/buffer_pool.h"
#include "datapath/target/export.h"

struct connection;
struct export;
struct server;

struct reactor {
    struct server *server;
    unsigned index;
    bool lobby; /* the pool is not open yet: refuses each login */
    struct loop *loop;
    pthread_t thread;
    struct buffer_pool buffers;
    size_t throttled_bytes; /* of them: what waits for volumes' limits */
    bool short_of_buffers;  /* as of the last tick: somebody waits for one, or was sent away lately */
    uint64_t buffers_missed_ns;
    struct connection *connections;
    unsigned guests;         /* of them: those that proved no attachment */
    unsigned guests_evicted; /* since the last log line */
    unsigned sessions_count; /* of its connections, that the owners have not let go yet */
    struct export *exports;
    struct export_debt debts[EXPORT_DEBTS]; /* a ring */
    unsigned debts_next;
    struct acceptor *acceptors; /* of this reactor, while it accepts */
    struct connection *unsent;  /* have something to send when the batch is over */
    struct loop_message flush;
    bool flush_posted;
    struct loop_op tick; /* each second: what waits too long */
    bool tick_pending;
    bool stopping, quiet_reported;
    sem_t quiet; /* posted once: stopping, and the last session has ended */
    struct loop_message stop;
};

#define REACTOR_RECV_BUFFER_SIZE 16384u

/* A loop of its own with a thread; hold_fd (-1: none) stays open while any of its I/O is in flight. */
int reactor_new(struct reactor **ret, struct server *server, unsigned index, int hold_fd, struct error *err);

/* Start the thread. Any thread. 0 or -errno. */
int reactor_start(struct reactor *reactor);

/* Accept connections for all of the server's reactors (for the lobby, if this is it). Any thread. */
int reactor_accept(struct reactor *reactor, struct error *err);

/*
 * Stopping takes three steps over all reactors, because a session on one may need its owner on another: begin
 * (close the connections), wait until each is quiet (the last command of the last session has ended), join.
 * None is freed before all are joined. Main thread.
 */
void reactor_stop_begin(struct reactor *reactor);
void reactor_stop_wait(struct reactor *reactor);
void reactor_stop_join(struct reactor *reactor);
struct reactor *reactor_free(struct reactor *reactor); /* not running; returns NULL */

/* A connection or an export went: the reactor may be waiting for the last one. */
void reactor_check_stopped(struct reactor *reactor);

/* Have connection_flush() called for this connection when the current batch of completions is over. */
void reactor_flush_later(struct reactor *reactor, struct connection *connection);
