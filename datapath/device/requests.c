/*
 * The table of requests: what waits, what is sent, what is to be sent again after a pause, what is finished
 * and not yet told. Owns the tasks and the device's own flush. Runs on the device's loop; called by
 * fuse_frontend.c and replay.c (submit), device.c (the session's life).
 */
#include "datapath/device/requests.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/time.h"
#include "datapath/device/answer.h"
#include "datapath/device/request_command.h"

#define PAUSE_MS 20u

static void request_send(struct requests *requests, struct request *request);
static void request_send_done(struct iscsi_context *iscsi, int status, void *data, void *private_data);
static void request_finish(struct requests *requests, struct request *request, int result);

/* ---- lists ---- */

static struct request_list *list_of(struct requests *requests, enum request_state state)
{
    switch (state) {
    case REQUEST_WAITING:
        return &requests->waiting;
    case REQUEST_SENT:
        return &requests->sent;
    case REQUEST_DELAYED:
        return &requests->delayed;
    case REQUEST_FINISHED:
        return &requests->finished;
    case REQUEST_IDLE:
        break;
    }
    return NULL;
}

static void list_remove(struct request_list *list, struct request *request)
{
    *(request->previous ? &request->previous->next : &list->first) = request->next;
    *(request->next ? &request->next->previous : &list->last) = request->previous;
    request->next = request->previous = NULL;
}

static void list_append(struct request_list *list, struct request *request)
{
    request->previous = list->last;
    request->next = NULL;
    *(list->last ? &list->last->next : &list->first) = request;
    list->last = request;
}

static void list_prepend(struct request_list *list, struct request *request)
{
    request->next = list->first;
    request->previous = NULL;
    *(list->first ? &list->first->previous : &list->last) = request;
    list->first = request;
}

static void request_move(struct requests *requests, struct request *request, enum request_state state)
{
    struct request_list *from = list_of(requests, request->state), *to = list_of(requests, state);
    if (from)
        list_remove(from, request);
    if (to)
        list_append(to, request);
    request->state = state;
}

/* ---- finishing: never from within a submit ---- */

static void finish_run(struct loop_message *message)
{
    struct requests *requests = container_of(message, struct requests, finish);
    requests->finish_posted = false;
    for (struct request *request; (request = requests->finished.first);)
        request_finish(requests, request, request->result);
    if (!requests->failing)
        return;
    requests->failing = false;
    if (requests->failed)
        requests->failed(requests->context);
}

static void request_finish_later(struct requests *requests, struct request *request, int result)
{
    request->result = result;
    request_move(requests, request, REQUEST_FINISHED);
    if (requests->finish_posted)
        return;
    requests->finish_posted = true;
    loop_post(requests->loop, &requests->finish);
}

static void request_settle_log(struct requests *requests, struct request *request, int result)
{
    if (request->verb == REQUEST_FLUSH) {
        if (result == 0)
            replay_log_flushed(requests->log, request->clock);
    } else if (request->entry && !request->internal) {
        bool stable = request->verb == REQUEST_WRITE && requests->limits.write_through;
        if (result == 0)
            replay_log_answered(requests->log, request->entry, stable);
        else
            replay_log_voided(requests->log, request->entry);
        request->entry = NULL;
    }
}

static void request_finish(struct requests *requests, struct request *request, int result)
{
    if (request->verb == REQUEST_READ && result == 0 && requests->gate == REQUESTS_REFUSED)
        replay_log_overlay(requests->log, request->offset, request->length, request->data);
    if (result < 0 && result != -EOPNOTSUPP && !request->internal) {
        requests->errors++;
        if (requests->erred)
            requests->erred(requests->context);
    }
    request_move(requests, request, REQUEST_IDLE);
    if (request->settling)
        request->settling(request, result);
    request_settle_log(requests, request, result);
    request->done(request, result);
}

/* ---- sending ---- */

static void pause_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct requests *requests = container_of(op, struct requests, pause);
    requests->pause_armed = false;
    for (struct request *last = requests->delayed.last, *request = NULL; last && request != last;) {
        request = requests->delayed.first; /* one that has to wait again is behind `last` */
        requests_submit(requests, request);
    }
    requests_kick(requests);
}

static void request_delay(struct requests *requests, struct request *request)
{
    request_move(requests, request, REQUEST_DELAYED);
    if (requests->pause_armed)
        return;
    requests->pause_armed = true;
    loop_timeout(requests->loop, &requests->pause, PAUSE_MS);
}

static void request_send(struct requests *requests, struct request *request)
{
    request->anew = false;
    request->task = request_command_next(request, &requests->limits, requests->zeroes);
    if (!request->task) {
        request_finish_later(requests, request, -EOPNOTSUPP);
        return;
    }
    if (request->verb == REQUEST_FLUSH)
        request->clock = replay_log_flush_begin(requests->log);
    if (!initiator_send(requests->initiator, request->task, request_send_done, request)) {
        request_command_done(request);
        request_delay(requests, request);
        return;
    }
    request_move(requests, request, REQUEST_SENT);
}

static bool read_is_short(const struct request *request)
{
    return request->verb == REQUEST_READ && request->task->residual_status != SCSI_RESIDUAL_NO_RESIDUAL;
}

/* What a failed flush was to make stable may be gone from the server, and its next flush, once someone has
 * cleared the error there, would succeed all the same. With no boot id the log's entries count as sent to
 * another boot: they are replayed before anything else, by the next session or by the next process. */
static void flush_failed(struct requests *requests)
{
    if (requests->limits.write_through || replay_log_empty(requests->log))
        return;
    replay_log_set_boot_id(requests->log, "");
    requests->distrusted = true;
}

/* A write that was to be stable at once is a flush in this, except where there was no space for it. */
static bool stable_failed(const struct request *request, int number)
{
    return !request->internal && (request->verb == REQUEST_FLUSH || (request->fua && number != ENOSPC));
}

static void request_answered(struct requests *requests, struct request *request, enum answer answer,
                             int number)
{
    switch (answer) {
    case ANSWER_GOOD:
        request->progress = request->anew ? 0 : request->progress + request->piece;
        if (request->anew || request->progress < request->length)
            request_send(requests, request);
        else
            request_finish(requests, request, 0);
        break;
    case ANSWER_AGAIN:
        request_send(requests, request);
        break;
    case ANSWER_LATER:
        request_delay(requests, request);
        break;
    case ANSWER_LOST:
        break;
    case ANSWER_ERROR:
        log_warning("the storage server refuses a command on %s at %llu: %s",
                    requests->initiator->state->volume_id, (unsigned long long)request->offset,
                    error_name(-number));
        if (stable_failed(request, number))
            flush_failed(requests);
        request_finish(requests, request, -number);
        if (requests->distrusted)
            initiator_drop(requests->initiator, "a flush failed: what it was to make stable is sent again");
        break;
    }
}

static void request_send_done(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    (void)iscsi;
    (void)data;
    struct request *request = private_data;
    struct requests *requests = request->requests;
    int number = 0;
    enum answer answer = answer_classify(status, request->task, &number);
    if (requests->capacity_changed && answer_tells_capacity(status, request->task))
        requests->capacity_changed(requests->context);
    if (answer == ANSWER_GOOD && read_is_short(request)) {
        answer = ANSWER_ERROR;
        number = EIO;
    }
    if (requests->distrusted) /* the session ends: no flush of it may count any more */
        return;
    if (answer == ANSWER_LOST) { /* the request stays as it is until requests_session_lost() */
        initiator_drop(requests->initiator, "the connection to the storage server was lost");
        return;
    }
    request_command_done(request);
    request_answered(requests, request, answer, number);
}

/* ---- the device's own flush ---- */

static void relief_done(struct request *request, int result)
{
    struct requests *requests = container_of(request, struct requests, relief);
    requests->relieved(requests->context, result);
}

void requests_relieve(struct requests *requests, bool now)
{
    bool filling = replay_log_used_bytes(requests->log) > requests->log->capacity_bytes / 2;
    if ((!filling && !now) || requests->relief.state != REQUEST_IDLE)
        return;
    requests->relief = (struct request){.verb = REQUEST_FLUSH, .done = relief_done};
    requests_submit(requests, &requests->relief);
}

/* ---- for the layers above and below ---- */

void requests_init(struct requests *requests, struct loop *loop, struct initiator *initiator,
                   struct replay_log *log, void (*relieved)(void *context, int result), void *context)
{
    static uint8_t zeroes[4096];
    *requests = (struct requests){.loop = loop, .initiator = initiator, .log = log};
    requests->relieved = relieved;
    requests->context = context;
    requests->zeroes = zeroes;
    requests->pause.done = pause_done;
    requests->finish.run = finish_run;
}

static bool request_is_impatient(const struct request *request)
{
    return !request->internal && !request->patient;
}

void requests_submit(struct requests *requests, struct request *request)
{
    if (request->state == REQUEST_IDLE) {
        request->requests = requests;
        request->progress = 0;
        request->task = NULL;
    }
    if (requests->gate == REQUESTS_FAILED) {
        request_finish_later(requests, request, -EIO);
        return;
    }
    if (requests->expired && requests->gate < REQUESTS_OPEN && request_is_impatient(request)) {
        request_finish_later(requests, request, -EIO);
        return;
    }
    if (requests->gate == REQUESTS_REFUSED && !request->internal && request->verb != REQUEST_READ)
        request_finish_later(requests, request, -requests->refusal);
    else if (requests->gate >= REQUESTS_OPEN || (requests->gate == REQUESTS_INTERNAL && request->internal))
        request_send(requests, request);
    else
        request_move(requests, request, REQUEST_WAITING);
}

static enum replay_op change_op(const struct request *request)
{
    switch (request->verb) {
    case REQUEST_DISCARD:
        return REPLAY_DISCARD;
    case REQUEST_ZERO:
        return REPLAY_ZERO;
    case REQUEST_READ:
    case REQUEST_WRITE:
    case REQUEST_FLUSH:
        break;
    }
    assert(request->verb == REQUEST_WRITE);
    return REPLAY_WRITE;
}

bool requests_submit_change(struct requests *requests, struct request *request)
{
    enum replay_op op = change_op(request);
    uint64_t payload_bytes = op == REPLAY_WRITE ? request->length : 0;
    request->entry = replay_log_append(requests->log, op, request->offset, request->length, payload_bytes);
    if (!request->entry)
        return false;
    request->data = payload_bytes ? replay_entry_payload(request->entry) : NULL;
    requests_submit(requests, request);
    requests_relieve(requests, false);
    return true;
}

void requests_kick(struct requests *requests)
{
    initiator_kick(requests->initiator);
}

void requests_session_identified(struct requests *requests, const struct volume_limits *limits)
{
    assert(requests->gate == REQUESTS_CLOSED);
    requests->limits = *limits;
    requests->distrusted = false;
    requests->gate = REQUESTS_INTERNAL;
}

/* A read that overtook the replay may have seen what was there before, and the log that covered it is gone.
 */
static void reads_begin_anew(struct requests *requests)
{
    for (struct request *request = requests->sent.first; request; request = request->next)
        request->anew = request->verb == REQUEST_READ;
    for (struct request *request = requests->delayed.first; request; request = request->next)
        if (request->verb == REQUEST_READ)
            request->progress = 0;
}

/* The gate has changed: what waits goes through it, each request once. */
static void waiting_submit(struct requests *requests)
{
    for (struct request *request = requests->waiting.first, *next; request; request = next) {
        next = request->next;
        requests_submit(requests, request);
    }
    requests_kick(requests);
}

void requests_session_open(struct requests *requests)
{
    assert(requests->gate == REQUESTS_INTERNAL || requests->gate == REQUESTS_REFUSED);
    if (requests->gate == REQUESTS_REFUSED)
        reads_begin_anew(requests);
    requests->gate = REQUESTS_OPEN;
    waiting_submit(requests);
}

void requests_session_refused(struct requests *requests, int number)
{
    assert(requests->gate == REQUESTS_INTERNAL || requests->gate == REQUESTS_REFUSED);
    requests->refusal = number == ENOSPC ? ENOSPC : EIO;
    requests->gate = REQUESTS_REFUSED;
    waiting_submit(requests);
}

/* What was sent goes back to the front of the queue, in its order: the next session begins with it. */
void requests_session_lost(struct requests *requests)
{
    if (requests->gate != REQUESTS_FAILED)
        requests->gate = REQUESTS_CLOSED;
    for (struct request *request; (request = requests->sent.last);) {
        request_command_done(request);
        list_remove(&requests->sent, request);
        request->state = REQUEST_IDLE;
        if (request->internal)
            continue;
        if (request->verb ==
            REQUEST_READ) /* its earlier pieces may be older than the next session's replay */
            request->progress = 0;
        list_prepend(&requests->waiting, request);
        request->state = REQUEST_WAITING;
    }
    for (struct request *request = requests->delayed.first, *next; request; request = next) {
        next = request->next;
        if (request->internal)
            request_move(requests, request, REQUEST_IDLE);
    }
}

void requests_expire(struct requests *requests)
{
    assert(requests->gate < REQUESTS_OPEN || requests->gate == REQUESTS_FAILED);
    requests->expired = true;
    for (struct request *request = requests->waiting.first, *next; request; request = next) {
        next = request->next;
        if (request_is_impatient(request))
            request_finish_later(requests, request, -EIO);
    }
}

void requests_fail(struct requests *requests)
{
    requests->gate = REQUESTS_FAILED;
    assert(!requests->sent.first);
    requests->failed_ns = time_now_ns();
    for (struct request *request; (request = requests->waiting.first); requests->failed_count++)
        request_finish_later(requests, request, -EIO);
    for (struct request *request; (request = requests->delayed.first); requests->failed_count++)
        request_finish_later(requests, request, -EIO);
    requests->failing = requests->failed_count > 0;
}
