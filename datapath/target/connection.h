/*
 * One TCP connection of an initiator, from accept to its last completion, on one reactor's loop. There is one
 * connection a session (MaxConnections=1, ErrorRecoveryLevel=0). The files share the struct:
 *
 *   connection.c       life and teardown
 *   receive.c          bytes → PDUs → who handles them
 *   send.c             what goes out, in batches
 *   login_phase.c      the login, and asking the owner for admission
 *   request.c          NOP, logout, reject
 *   text_phase.c       SendTargets
 *   task.c             SCSI commands, data both ways
 *   task_management.c  aborts and resets
 *   throttle.c         commands that wait for limits
 *   stall.c            transfers that do not go on
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/id.h"
#include "datapath/iscsi/login.h"
#include "datapath/iscsi/negotiate.h"
#include "datapath/iscsi/pdu.h"
#include "datapath/iscsi/response.h"
#include "datapath/loop/loop.h"
#include "datapath/target/buffer_pool.h"
#include "datapath/target/round.h"
#include "datapath/target/throttle.h"

struct connection;
struct reactor;
struct session;
struct task;

#define CONNECTION_RECV_SEGMENT_MAX (256u * 1024) /* our MaxRecvDataSegmentLength */
#define CONNECTION_BURST_MAX (1024u * 1024)
#define CONNECTION_FIRST_BURST_MAX (64u * 1024)
#define CONNECTION_TEXT_MAX ISCSI_LOGIN_DATA_MAX /* data of a login, text or NOP request */
#define CONNECTION_CONTROL_MAX 64  /* PDUs that are no SCSI answer, queued for a peer that does not read */
#define CONNECTION_IMMEDIATE_MAX 8 /* SCSI commands beside the window */

/* ---- what goes out ---- */

struct out_pdu {
    union iscsi_bhs *bhs;
    const void *data; /* lives until sent() */
    uint32_t data_size;
    bool sealed; /* a login's: no digests */
};

/* Something in the send queue; it makes one PDU after the other when there is room in a batch. */
struct out {
    struct out *next;
    bool queued;
    /* Write the next PDU; true when it was the last. The out may be queued again at once after that. */
    bool (*build)(struct out *out, struct connection *connection, struct out_pdu *pdu);
    /* Its last PDU has left, or the connection is closing. May be NULL; may free it. */
    void (*sent)(struct out *out, struct connection *connection);
};

#define SEND_BATCH_PDUS 32

struct send_batch {
    struct iscsi_pdu_header headers[SEND_BATCH_PDUS];
    uint8_t trailers[SEND_BATCH_PDUS][8]; /* padding and data digest */
    struct iovec iov[SEND_BATCH_PDUS * 3];
    struct out *finished[SEND_BATCH_PDUS];
    unsigned pdus, iov_count, finished_count;
    size_t bytes;
    struct msghdr message;
};

/* ---- SCSI commands ---- */

struct task_set {
    struct task **all; /* capacity places; a task is made when its place is first needed */
    unsigned capacity, made;
    unsigned window; /* commands that may be unanswered at once */
    struct task *free;
    struct task *first;                 /* in use */
    struct task *held, **held_at;       /* wait for the end of a hold, in order */
    struct task *starved, **starved_at; /* wait until this session holds fewer buffers, in order */
    size_t buffer_bytes;                /* held, or waited for at the pool */
    unsigned in_use;                    /* but the immediate ones */
    unsigned immediate;                 /* commands beside the window */
    unsigned unanswered;                /* of in_use: no answer built yet */
    unsigned executing;                 /* handed to scsi/ and not back */
    struct task *receiving;             /* the reader puts data into its buffer */
    bool dropping;                      /* several tasks are being ended: look who waited for it afterwards */
    uint64_t serial;                    /* of the task made last */
    struct control *tmfs;               /* task management answers that wait for aborted tasks to end */
};

/* How far the oldest transfer was when it was looked at: stall.c's. */
struct stall_mark {
    uint64_t serial, bytes;
    uint64_t since_ns; /* 0: nothing was under way */
    bool sends;        /* bytes are those that the initiator took; else those that it sent */
};

enum connection_phase {
    CONNECTION_LOGIN,
    CONNECTION_ADMITTING, /* the owner decides */
    CONNECTION_FULL_FEATURE,
    CONNECTION_LOGGING_OUT, /* the answer is on its way, nothing more is taken */
};

struct connection {
    struct reactor *reactor;
    struct connection *next, *previous;
    int fd;
    char peer_address[64];
    char log_name[ID_VOLUME_MAX + ID_NODE_MAX + 80]; /* for log lines: peer, then session */
    enum connection_phase phase;
    bool guest; /* proved no attachment (yet), or a discovery: has a bounded share and time */
    uint64_t accepted_ns;
    bool closing;
    bool close_when_sent;
    unsigned inflight; /* operations of the loop; the connection lives until there are none */

    /* receive.c */
    struct loop_op recv;
    bool receiving; /* recv is in flight */
    struct iscsi_pdu_reader reader;
    char *text; /* CONNECTION_TEXT_MAX + 1 bytes for the data of control PDUs */
    uint64_t heard_ns;
    bool pinged;

    /* send.c */
    struct loop_op send;
    bool sending;
    bool unsent; /* in the reactor's list */
    struct connection *unsent_next;
    struct out *out_first, *out_last;
    unsigned controls;
    struct send_batch batch;

    /* login_phase.c */
    struct iscsi_login *login; /* until the full feature phase */
    uint64_t login_started_ns;
    char chap_volume_id[ID_VOLUME_MAX + 1]; /* whose secret was shown, or "" */
    uint64_t chap_epoch, chap_generation;
    bool discovery;

    /* the full feature phase */
    struct iscsi_parameters parameters;
    uint32_t stat_sn, exp_cmd_sn;
    struct session *session; /* NULL in discovery */
    struct task_set tasks;
    struct throttle throttle;
    struct stall_mark stall;
    unsigned holds;
    struct round_part *rounds; /* to answer when nothing is being carried out */

    /* text_phase.c */
    struct iscsi_negotiation negotiation;
    char *text_answer; /* what is left to send of a long answer */
    size_t text_answer_size, text_answer_at;
};

/* ---- connection.c ---- */

/* Take over an accepted socket. 0, or -errno with fd still the caller's. */
int connection_new(struct reactor *reactor, int fd);

/* It is no guest any more: it has proved its attachment, or ends. */
void connection_guest_done(struct connection *connection);

/* Make room for a newcomer: end the reactor's oldest guest. False: there is none. */
bool connection_evict_guest(struct reactor *reactor);

/* End it: nothing more is received, answered or begun; it goes when its last operation has ended. why is for
 * the log. The connection may be gone afterwards only if no operation was in flight: callers return at once.
 */
void connection_close(struct connection *connection, const char *why);

/* An operation has ended; the connection may be gone afterwards. */
void connection_operation_end(struct connection *connection);

struct connection *connection_next(struct connection *connection);
void connection_tick(struct connection *connection);

/* A task has left the set: aborts and rounds may have waited for it. */
void connection_task_ended(struct connection *connection);

/* Pause or go on: see round.h. */
void connection_round(struct connection *connection, struct round_part *part);

/* ---- receive.c ---- */
void connection_receive_start(struct connection *connection);
/* The session's part of a request's header: false when the PDU is to be ignored (CmdSN) or the connection
 * closes. */
bool connection_take_cmd_sn(struct connection *connection, uint32_t cmd_sn, bool immediate);

/* ---- send.c ---- */
void connection_send(struct connection *connection, struct out *out);
/* Take it back; false when it was not queued (any more). */
bool connection_unsend(struct connection *connection, struct out *out);
struct iscsi_numbers connection_numbers(struct connection *connection); /* of a PDU that consumes no StatSN */
struct iscsi_numbers connection_numbers_next(struct connection *connection); /* of one that does */
struct connection *
connection_flush(struct connection *connection); /* returns the next one of the reactor's list */
void connection_queue_unsent(struct connection *connection, struct connection **list);
void connection_drop_output(struct connection *connection);

/* A PDU on the heap, header finished by fill() when it is sent; data are copied. */
struct control {
    struct out out;
    union iscsi_bhs bhs;
    void (*fill)(struct control *control, struct connection *connection);
    uint32_t task_tag;
    uint32_t argument;
    uint32_t referenced_tag;
    uint8_t lun[8];
    bool sealed;
    struct control *waiting_next;
    uint32_t data_size;
    char data[];
};
/* NULL, and the connection closes, when memory or CONNECTION_CONTROL_MAX is used up. */
struct control *connection_control_new(struct connection *connection, const void *data, uint32_t data_size);

/* ---- login_phase.c ---- */
int login_phase_start(struct connection *connection); /* 0 or -errno */
void login_phase_receive(struct connection *connection);
void login_phase_done(struct connection *connection); /* free what it holds */
bool login_phase_late(const struct connection *connection, uint64_t now_ns);

/* ---- request.c ---- */
void request_nop_out(struct connection *connection);
void request_ping(struct connection *connection);
void request_logout(struct connection *connection);
void request_reject(struct connection *connection, enum iscsi_reject_reason reason);

/* ---- text_phase.c ---- */
void text_phase_receive(struct connection *connection);
void text_phase_done(struct connection *connection);

/* ---- task.c: tasks ---- */
int task_set_init(struct connection *connection, unsigned window); /* 0 or -ENOMEM */
void task_set_done(struct connection *connection);
void task_command_header(struct connection *connection);
void task_data_out_header(struct connection *connection);
void task_data_complete(struct connection *connection); /* of the PDU of either */
void task_set_drop(struct connection *connection);      /* what is not being carried out ends */
void task_set_go_on(struct connection *connection);     /* after a hold */
void task_set_serve(struct connection *connection);     /* what waits for this session's share of buffers */
uint32_t task_set_window(const struct connection *connection);

/* ---- stall.c ---- */
/* Asked by the tick while others wait for buffers: its oldest transfer has not gone on for a while. */
bool connection_stalled(struct connection *connection, uint64_t now_ns);

/* ---- task_management.c ---- */
void task_management_receive(struct connection *connection);
void task_management_task_ended(struct connection *connection);
void task_management_drop(struct connection *connection);
