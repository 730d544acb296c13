/*
 * The requests under way on the volume: each becomes SCSI commands one after the other (a READ or WRITE is
 * split by the target's limits), is sent again on the session that reinstates a lost one and only there, and
 * waits as long as there is none, or until requests_expire().
 *
 * The gate: CLOSED (no session), INTERNAL (identification and replay only), OPEN, REFUSED (the target refused
 * the replay: reads pass, with what the log holds laid over them; changes and flushes end with its errno),
 * FAILED (the attachment is over: everything ends with EIO). The number of requests is bounded by who submits
 * them (fuse_frontend's table). One thread, the loop's.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "datapath/device/initiator.h"
#include "datapath/device/limits.h"
#include "datapath/device/replay_log.h"
#include "datapath/loop/loop.h"

enum request_verb { REQUEST_READ, REQUEST_WRITE, REQUEST_FLUSH, REQUEST_DISCARD, REQUEST_ZERO };

enum request_state { REQUEST_IDLE, REQUEST_WAITING, REQUEST_SENT, REQUEST_DELAYED, REQUEST_FINISHED };

/* Fill the first part, keep it alive until done(); done() never runs from within requests_submit(). */
struct request {
    enum request_verb verb;
    bool fua;
    bool internal;           /* of the replay: goes through INTERNAL, is dropped when the session is lost */
    uint64_t offset, length; /* bytes, multiples of the block size; 0 for a flush */
    void *data;              /* read into, written from */
    bool patient;            /* waits for the path for ever, whatever limits the others' waiting */
    struct replay_entry *entry;                            /* of a change that is in the log */
    void (*settling)(struct request *request, int result); /* or NULL: before the log learns of the result */
    void (*done)(struct request *request, int result);     /* 0 or a negative errno for the kernel */

    /* requests.c's own */
    enum request_state state;
    int result;
    struct request *next, *previous;
    struct requests *requests;
    struct scsi_task *task;   /* &command while it is sent */
    struct scsi_task command; /* here, so that no request needs the allocator */
    struct scsi_iovec iov;
    uint64_t progress;      /* bytes that are done */
    uint64_t piece;         /* bytes of the command that is sent */
    uint64_t clock;         /* of a flush */
    bool anew;              /* a read that was sent before the replay: its answer is too old */
    uint8_t parameters[24]; /* of an UNMAP */
};

enum requests_gate {
    REQUESTS_CLOSED,
    REQUESTS_INTERNAL,
    REQUESTS_OPEN,
    REQUESTS_REFUSED,
    REQUESTS_FAILED,
};

struct request_list {
    struct request *first, *last;
};

struct requests {
    struct loop *loop;
    struct initiator *initiator;
    struct replay_log *log;
    struct volume_limits limits;
    enum requests_gate gate;
    bool expired;    /* while there is no path: I/O ends with EIO instead of waiting; path.c's */
    bool distrusted; /* a flush failed: the session is being dropped, its answers do not count */
    int refusal;     /* of the gate REFUSED: EIO or ENOSPC */
    struct request_list waiting, sent, delayed, finished;
    struct loop_op pause; /* for `delayed` */
    bool pause_armed;
    struct loop_message finish; /* for `finished` */
    bool finish_posted;
    struct request relief; /* the flush that the device sends by itself */
    void (*relieved)(void *context, int result);
    /* Both NULL or set after requests_init(), and called with the same context: the target said that the
     * volume's size is another; a request of the kernel's ended with an error. */
    void (*capacity_changed)(void *context);
    void (*erred)(void *context);
    uint64_t errors; /* such requests so far */
    /* After requests_fail(), once: the last of what waited then has its answer. NULL or set, as those. */
    void (*failed)(void *context);
    uint64_t failed_ns; /* time_now_ns() of the failure */
    unsigned failed_count;
    bool failing; /* until that */
    void *context;
    void *zeroes; /* a block, for WRITE SAME */
};

/* relieved() follows each flush of the device's own: the log has room again, or result says why not. */
void requests_init(struct requests *requests, struct loop *loop, struct initiator *initiator,
                   struct replay_log *log, void (*relieved)(void *context, int result), void *context);

/* Start it, or keep it until the gate allows; nothing is on the wire before requests_kick(). */
void requests_submit(struct requests *requests, struct request *request);
void requests_kick(struct requests *requests);

/* A write, discard or zeroes, for which replay_log_reserve() has just found room (a write's data is there):
 * put it into the log, then submit it. false, and nothing is changed, when the log cannot take it after all.
 */
bool requests_submit_change(struct requests *requests, struct request *request);

/* The log is filling up, or full (now): flush, unless that is under way. */
void requests_relieve(struct requests *requests, bool now);

void requests_session_identified(struct requests *requests, const struct volume_limits *limits);

/* After the replay, or where there was none: from INTERNAL, or from REFUSED when a later replay succeeded. */
void requests_session_open(struct requests *requests);

/* No path for too long: what waits ends with EIO, and so does what comes until `expired` is taken back. */
void requests_expire(struct requests *requests);

/* The target answered the replay with this errno. The next one may run in this gate. */
void requests_session_refused(struct requests *requests, int number);
void requests_session_lost(struct requests *requests);

/* The attachment is over: all that is here and all that comes ends with -EIO. */
void requests_fail(struct requests *requests);
