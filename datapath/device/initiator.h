/*
 * One iSCSI session (RFC 7143) by libiscsi, with a reconnect of our own: the session's persisted ISID and
 * TSIH 0, so that each login reinstates the one before; several portals in turn; back-off from 20 ms to 1 s;
 * NOP-Outs to find a dead peer. libiscsi's own reconnect is off: it makes a new ISID, and re-sends by itself.
 *
 * One thread, the loop's. libiscsi is called from nowhere else in the device than initiator.c, and for
 * building and sending tasks from requests.c and identify.c.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "common/error.h"
#include "datapath/device/backoff.h"
#include "datapath/device/state.h"
#include "datapath/loop/loop.h"

struct initiator_events {
    /* Logged in: the old session's last command has ended, nothing was sent yet. */
    void (*up)(void *context);
    /* No session any more; nothing of libiscsi touches a buffer of ours from here on. fatal: the attachment
     * is over, no further login is tried. Also called for attempts that never came up. */
    void (*lost)(void *context, const char *why, bool fatal);
};

enum initiator_phase {
    INITIATOR_IDLE,
    INITIATOR_CONNECTING,
    INITIATOR_LOGIN,
    INITIATOR_UP,
    INITIATOR_LOGOUT,
    INITIATOR_CLOSING, /* waiting for the polls to come back */
    INITIATOR_BACKOFF,
    INITIATOR_STOPPED,
};

struct initiator {
    struct loop *loop;
    const struct device_state *state;
    const struct initiator_events *events;
    void *context;
    enum initiator_phase phase;
    struct iscsi_context *iscsi;
    struct backoff backoff;
    unsigned portal; /* the next one to try */
    struct loop_op poll_in, poll_out, tick, backoff_timer;
    bool poll_in_armed, poll_out_armed, tick_armed, backoff_armed;
    bool in_service;      /* within libiscsi: no second call into it */
    bool broken;          /* give this session up as soon as libiscsi returns */
    bool announce_up;     /* up() is due as soon as libiscsi returns */
    bool fatal, stopping; /* no further attempt */
    unsigned queued;      /* commands since the last kick */
    bool queued_data;     /* one of them at least writes */
    uint64_t phase_since_ms, heard_ms, nop_sent_ms;
    uint64_t reached_ms, probe_sent_ms; /* of the lease; time also counts while the host is suspended */
    bool probe_in_flight;
    char why[256];
};

/* E_CORRUPT when the ISID is of a kind that libiscsi cannot send. */
int initiator_init(struct initiator *initiator, struct loop *loop, const struct device_state *state,
                   const struct initiator_events *events, void *context, struct error *err);
void initiator_start(struct initiator *initiator);

/* Queue a task on the session (phase UP). false when libiscsi has no memory: try again later. */
bool initiator_send(struct initiator *initiator, struct scsi_task *task, iscsi_command_cb done,
                    void *private_data);

/* Write what is queued to the socket now; once a batch. */
void initiator_kick(struct initiator *initiator);

/*
 * Whether the server admitted us less than lease_ms ago (true where there is no lease). What proves that is
 * an answer in a session, and only for the moment at which its question was asked: an answer may have lain in
 * the socket for as long as this process was stopped. So a NOP-Out of its own is sent every quarter of the
 * lease, a login counts from its begin, and a session whose lease is over is given up before anything else is
 * read from it.
 */
bool initiator_lease_holds(const struct initiator *initiator);

/* Give the session up, and try again after the back-off. Safe from libiscsi's callbacks. */
void initiator_drop(struct initiator *initiator, const char *why);

/* An attempt that came up is good (identified, replayed): the next loss starts the back-off anew. */
void initiator_settled(struct initiator *initiator);

/* state->portals are others now: what stands goes on, what is being tried begins anew with the first of them.
 * Not from libiscsi's callbacks. */
void initiator_portals_changed(struct initiator *initiator);

/* Give the session up for good, without a word to the target; lost() is called before this returns. Not from
 * libiscsi's callbacks. */
void initiator_abandon(struct initiator *initiator);

/* Log out if there is a session, then stay down; lost() is called when that is done. */
void initiator_stop(struct initiator *initiator);
