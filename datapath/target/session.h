/*
 * One session (RFC 7143: an I_T nexus of one connection). It lives on its connection's loop; its admission is
 * the owner loop's (export.h). The two talk by messages, each embedded here and each posted once:
 *
 *   connection's loop                     owner loop
 *   session_ask()  ──────────ask────────▶ registered, then checked
 *   decided()      ◀───────decision──────
 *   connection_close() ◀─────close─────── its epoch or generation is gone, or a login reinstates it
 *   throttle_look_again() ◀──changed───── its volume's limits are others (posted once at a time)
 *   session_end()  ──────────end────────▶ its last command has ended: taken off the list
 *   freed          ◀───────release───────  (nothing of the owner's is under way any more)
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/id.h"
#include "datapath/loop/loop.h"
#include "datapath/scsi/scsi.h"

struct connection;
struct export;
struct limits;
struct reactor;

enum session_verdict {
    SESSION_GRANTED,
    SESSION_FORBIDDEN,   /* removed, fenced, an old epoch or generation: login status 0202 */
    SESSION_UNKNOWN,     /* no such volume: 0203 */
    SESSION_EXHAUSTED,   /* too many sessions: 0302 */
    SESSION_UNAVAILABLE, /* not now: 0301 */
};

enum session_standing { /* in the owner's list */
                        SESSION_WAITING,
                        SESSION_ADMITTED,
                        SESSION_OUT, /* refused or ended */
};

struct session {
    struct reactor *reactor;
    struct connection *connection; /* NULL once its last command has ended */

    /* who it is: constant from session_ask() on */
    char volume_id[ID_VOLUME_MAX + 1];
    char initiator_name[ID_IQN_MAX + 1];
    uint8_t isid[6];
    uint64_t epoch, generation;
    char peer_address[64];
    int64_t connected_unix_s;
    void (*decided)(struct session *session, enum session_verdict verdict); /* on the connection's loop */

    /* filled by the owner before it grants, constant afterwards; unit_attention is the connection's */
    struct scsi_nexus nexus;
    struct limits *limits; /* its export's */
    char node_id[ID_NODE_MAX + 1];

    /* counted by the connection's loop, read by any */
    atomic_uint_fast64_t commands, read_bytes, written_bytes;
    atomic_uint outstanding;

    /* the owner's */
    struct reactor *owner;
    struct export *export;
    struct session *next, *previous;
    enum session_standing standing;
    bool closing;         /* told to close: grants nothing any more */
    atomic_bool changing; /* `changed` is on its way */

    enum session_verdict verdict;
    struct loop_message ask, decision, close, changed, end, release;
};

/* For the connection; 0 or -ENOMEM. Free it by session_end(), or by free() before session_ask(). */
int session_new(struct session **ret, struct connection *connection, struct reactor *reactor);

/* Ask for admission with the identity filled in. decided() follows, unless session_end() comes first. */
void session_ask(struct session *session);

/* Its volume's limits were set anew. Owner loop. */
void session_limits_changed(struct session *session);

/* The connection is gone and its last command has ended: the session is the owner's from here on. */
void session_end(struct session *session);
