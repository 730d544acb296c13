/*
 * A call's life on the server, in time order: asked for, begun, its request received, queued; then, on a
 * worker, admitted, parsed, handled and answered. Completions run on the service's queue thread and never
 * block; the handler and all it calls run on one worker.
 */
#include "rpc/server_call.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <grpc/slice.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "rpc/peer.h"
#include "rpc/status.h"
#include "rpc/wire.h"

#define CALL_TEXT_MAX 2048 /* of a status: what a peer's limit on metadata surely takes */

static void call_request_done(struct rpc_tag *tag, bool ok);
static void call_receive_done(struct rpc_tag *tag, bool ok);
static void call_close_done(struct rpc_tag *tag, bool ok);
static void call_send_done(struct rpc_tag *tag, bool ok);
static void call_finish(struct rpc_call *call, grpc_byte_buffer *response, int code, const struct error *err);
static void call_finish_done(struct rpc_tag *tag, bool ok);

static struct rpc_call *call_new(struct server_method *method)
{
    struct rpc_call *call = calloc(1, sizeof(*call));

    if (!call)
        return NULL;
    call->method = method;
    atomic_init(&call->references, 1);
    atomic_init(&call->cancelled, false);
    pthread_mutex_init(&call->lock, NULL);
    pthread_cond_init(&call->sent, NULL);
    grpc_call_details_init(&call->details);
    grpc_metadata_array_init(&call->metadata);
    return call;
}

static void call_unref(struct rpc_call *call)
{
    if (atomic_fetch_sub(&call->references, 1) != 1)
        return;
    grpc_metadata_array_destroy(&call->metadata);
    if (!call->method->spec)
        grpc_call_details_destroy(&call->details);
    if (call->payload)
        grpc_byte_buffer_destroy(call->payload);
    if (call->grpc)
        grpc_call_unref(call->grpc);
    pthread_cond_destroy(&call->sent);
    pthread_mutex_destroy(&call->lock);
    free(call);
}

/* Start a batch whose completion holds a reference. False when gRPC takes none any more. */
static bool call_start(struct rpc_call *call, const grpc_op *ops, size_t count, struct rpc_tag *tag,
                       void (*done)(struct rpc_tag *, bool))
{
    atomic_store(&tag->done, done);
    atomic_fetch_add(&call->references, 1);
    if (grpc_call_start_batch(call->grpc, ops, count, tag, NULL) == GRPC_CALL_OK)
        return true;
    call_unref(call);
    return false;
}

/* ---- asked for and begun ---- */

bool server_call_request(struct server_method *method)
{
    struct server_service *service = method->service;
    struct rpc_call *call = call_new(method);
    grpc_call_error failed;

    if (!call)
        return false;
    atomic_store(&call->request_tag.done, call_request_done);
    if (method->spec)
        failed = grpc_server_request_registered_call(service->grpc, method->registration, &call->grpc,
                                                     &call->deadline, &call->metadata, NULL, service->cq,
                                                     service->cq, &call->request_tag);
    else
        failed = grpc_server_request_call(service->grpc, &call->grpc, &call->details, &call->metadata,
                                          service->cq, service->cq, &call->request_tag);
    if (failed != GRPC_CALL_OK)
        call_unref(call);
    method->armed = true; /* a failure means that the server is shut down: there is no next call */
    return true;
}

static bool call_id_valid(const uint8_t *id, size_t length)
{
    if (!length || length > RPC_ID_MAX)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum(id[i]) && (!id[i] || !strchr("-_.", id[i])))
            return false;
    return true;
}

static void call_identify(struct rpc_call *call)
{
    uint64_t drawn = 0;

    for (size_t i = 0; i < call->metadata.count; i++) {
        grpc_slice value = call->metadata.metadata[i].value;
        if (grpc_slice_str_cmp(call->metadata.metadata[i].key, "x-request-id") == 0 &&
            call_id_valid(GRPC_SLICE_START_PTR(value), GRPC_SLICE_LENGTH(value))) {
            memcpy(call->id, GRPC_SLICE_START_PTR(value), GRPC_SLICE_LENGTH(value));
            call->id[GRPC_SLICE_LENGTH(value)] = '\0';
            return;
        }
    }
    io_random(&drawn, sizeof(drawn));
    snprintf(call->id, sizeof(call->id), "%016llx", (unsigned long long)drawn);
}

static void call_watch_close(struct rpc_call *call)
{
    grpc_op close = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};

    close.data.recv_close_on_server.cancelled = &call->closed_early;
    call_start(call, &close, 1, &call->close_tag, call_close_done);
}

static void call_receive(struct rpc_call *call)
{
    grpc_op receive = {.op = GRPC_OP_RECV_MESSAGE};

    receive.data.recv_message.recv_message = &call->payload;
    if (!call_start(call, &receive, 1, &call->receive_tag, call_receive_done))
        call_unref(call);
}

static void call_refuse(struct rpc_call *call, int code, const char *text)
{
    _cleanup_error_ struct error err = {0};

    error_set(&err, code, "%s", text);
    call_finish(call, NULL, code, &err);
}

static void call_request_done(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = container_of(tag, struct rpc_call, request_tag);

    if (!ok) { /* the server shuts down */
        call_unref(call);
        return;
    }
    call->method->armed = false;
    call->started_ns = time_now_ns();
    rpc_peer_identify(&call->peer, call->grpc, call->method->service->local);
    call_identify(call);
    call_watch_close(call);
    if (call->method->spec)
        call_receive(call);
    else
        call_refuse(call, E_UNIMPLEMENTED, "this server has no such method");
}

/* ---- received ---- */

static void call_receive_done(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = container_of(tag, struct rpc_call, receive_tag);

    if (atomic_load(&call->cancelled))
        call_refuse(call, E_CANCELLED, "cancelled before its request was whole");
    else if (!ok || !call->payload)
        call_refuse(call, E_INVALID_ARGUMENT, "the request holds no message, or one above the size limit");
    else if (!server_service_enqueue(call->method->service, call))
        call_refuse(call, E_EXHAUSTED, "too many calls wait for this service: retry later");
    call_unref(call); /* the completion's own reference; the line, or the answer, has the other */
}

static void call_close_done(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = container_of(tag, struct rpc_call, close_tag);

    if (!ok || call->closed_early)
        atomic_store(&call->cancelled, true);
    call_unref(call);
}

/* ---- handled, on a worker ---- */

static int call_admit(struct rpc_call *call, const ProtobufCMessage *request, struct error *err)
{
    const struct rpc_service *spec = call->method->service->spec;

    int code = 0;

    if (spec->authorize)
        code = spec->authorize(&call->peer, call->method->spec->name, request, spec->context, err);
    if (!code && spec->check)
        code = spec->check(request, err);
    return code;
}

static int call_handle(struct rpc_call *call, const ProtobufCMessage *request,
                       grpc_byte_buffer **ret_response, struct error *err)
{
    const struct server_method *method = call->method;
    const ProtobufCMessageDescriptor *output = method->descriptor->output;
    ProtobufCMessage *response = NULL;
    int code;

    if (!method->spec->streaming) {
        response = calloc(1, output->sizeof_message);
        if (!response)
            return error_errno(err, ENOMEM, "%s", method->path);
        protobuf_c_message_init(output, response);
    }
    code = method->spec->handle(call, request, response, method->service->spec->context, err);
    if (!code && response)
        code = rpc_wire_pack(response, method->service->message_max_bytes, ret_response, err);
    if (response)
        protobuf_c_message_free_unpacked(response, NULL);
    return code;
}

void server_call_run(struct rpc_call *call)
{
    _cleanup_error_ struct error err = {0};
    ProtobufCMessage *request = NULL;
    grpc_byte_buffer *response = NULL;
    int code;

    if (rpc_call_cancelled(call))
        code = error_set(&err, E_CANCELLED, "cancelled while it waited for its turn");
    else if (call->peer.role == RPC_ROLE_NONE)
        code = error_set(&err, E_UNAUTHENTICATED, "the certificate's common name states no role of ours");
    else
        code = rpc_wire_parse(call->method->descriptor->input, call->payload, &request, &err);
    if (!code)
        code = call_admit(call, request, &err);
    if (!code)
        code = call_handle(call, request, &response, &err);
    if (request)
        protobuf_c_message_free_unpacked(request, NULL);
    call_finish(call, response, code, &err);
}

const struct rpc_peer *rpc_call_peer(const struct rpc_call *call)
{
    return &call->peer;
}

const char *rpc_call_id(const struct rpc_call *call)
{
    return call->id;
}

bool rpc_call_cancelled(struct rpc_call *call)
{
    return atomic_load(&call->cancelled) || rpc_call_remaining_ms(call) <= 0;
}

int64_t rpc_call_remaining_ms(struct rpc_call *call)
{
    gpr_timespec deadline = gpr_convert_clock_type(call->deadline, GPR_CLOCK_MONOTONIC), left;

    if (gpr_time_cmp(deadline, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0)
        return INT64_MAX;
    left = gpr_time_sub(deadline, gpr_now(GPR_CLOCK_MONOTONIC));
    if (left.tv_sec > INT32_MAX)
        return INT64_MAX;
    return gpr_time_cmp(left, gpr_time_0(GPR_TIMESPAN)) <= 0 ? 0 : gpr_time_to_millis(left);
}

/* Until the reader made room for what is being sent. True when it did not in time: the call is ended, and the
 * sending with it. */
static bool call_wait_sent(struct rpc_call *call)
{
    unsigned timeout_ms = call->method->service->spec->send_timeout_ms;
    uint64_t until_ms = time_now_ms() + timeout_ms;
    const struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                                   .tv_nsec = (long)(until_ms % 1000) * 1000000};
    bool late = false;

    pthread_mutex_lock(&call->lock);
    while (call->sending) {
        if (!timeout_ms || late) {
            pthread_cond_wait(&call->sent, &call->lock);
        } else if (pthread_cond_clockwait(&call->sent, &call->lock, CLOCK_MONOTONIC, &until) == ETIMEDOUT &&
                   call->sending) {
            late = true;
            grpc_call_cancel_with_status(call->grpc, GRPC_STATUS_DEADLINE_EXCEEDED,
                                         "the caller reads too slowly", NULL);
        }
    }
    pthread_mutex_unlock(&call->lock);
    return late;
}

int rpc_call_send(struct rpc_call *call, const ProtobufCMessage *response, struct error *err)
{
    grpc_byte_buffer *buffer;
    grpc_op ops[2] = {{.op = GRPC_OP_SEND_MESSAGE}, {.op = GRPC_OP_SEND_INITIAL_METADATA}};
    bool failed, late;
    int code = rpc_wire_pack(response, call->method->service->message_max_bytes, &buffer, err);

    assert(call->method->spec->streaming);
    if (code)
        return code;
    ops[0].data.send_message.send_message = buffer;
    call->sending = true;
    failed = !call_start(call, ops, call->initial_sent ? 1 : 2, &call->send_tag, call_send_done);
    call->initial_sent = true;
    late = !failed && call_wait_sent(call);
    grpc_byte_buffer_destroy(buffer);
    if (late)
        return error_set(err, E_CANCELLED, "the caller reads too slowly: no response was taken in %u ms",
                         call->method->service->spec->send_timeout_ms);
    return failed || call->send_failed ? error_set(err, E_CANCELLED, "the caller went away") : 0;
}

static void call_send_done(struct rpc_tag *tag, bool ok)
{
    struct rpc_call *call = container_of(tag, struct rpc_call, send_tag);

    pthread_mutex_lock(&call->lock);
    call->sending = false;
    call->send_failed = !ok;
    pthread_cond_signal(&call->sent);
    pthread_mutex_unlock(&call->lock);
    call_unref(call);
}

/* ---- answered ---- */

/* The path of a method that is not ours comes from outside: one word, no control characters, not long. */
static void call_path(const struct rpc_call *call, char *ret_path, size_t size)
{
    size_t length, i;

    if (call->method->path) {
        snprintf(ret_path, size, "%s", call->method->path);
        return;
    }
    length = GRPC_SLICE_LENGTH(call->details.method);
    for (i = 0; i < length && i + 1 < size; i++) {
        char byte = (char)GRPC_SLICE_START_PTR(call->details.method)[i];
        ret_path[i] = byte > ' ' && byte < 0x7f ? byte : '?';
    }
    ret_path[i] = '\0';
}

/* A cause from outside (code < 0) is told in full: it speaks of this host, never of the message. */
static void call_log(const struct rpc_call *call, int code, const struct error *err)
{
    char peer[320], path[160];

    rpc_peer_format(&call->peer, peer, sizeof(peer));
    call_path(call, path, sizeof(path));
    log_info("call id=%s peer=%s method=%s status=%s duration_ms=%.1f%s%s", call->id, peer, path,
             error_name(code), (double)(time_now_ns() - call->started_ns) / 1e6, code < 0 ? " cause: " : "",
             code < 0 ? error_text(err) : "");
}

static size_t call_trailing(const struct rpc_call *call, int code, grpc_metadata ret_trailing[2])
{
    const char *boot_id = call->method->service->boot_id;
    size_t count = 0;

    if (code)
        ret_trailing[count++] = (grpc_metadata){.key = grpc_slice_from_static_string("mooring-code"),
                                                .value = grpc_slice_from_static_string(error_name(code))};
    if (boot_id)
        ret_trailing[count++] = (grpc_metadata){.key = grpc_slice_from_static_string("mooring-boot-id"),
                                                .value = grpc_slice_from_static_string(boot_id)};
    return count;
}

/* Logs, sends the status with, when it is unary, the response, and gives up the caller's reference. Takes
 * response.
 */
static void call_finish(struct rpc_call *call, grpc_byte_buffer *response, int code, const struct error *err)
{
    /* Cancelled by its own deadline, the call has that status on the caller's side too. */
    if (code == E_CANCELLED && rpc_call_remaining_ms(call) <= 0)
        code = E_DEADLINE;

    grpc_status_code status = (grpc_status_code)status_from_error(code);
    char text[CALL_TEXT_MAX];
    grpc_slice details;
    grpc_metadata trailing[2];
    grpc_op ops[3] = {{.op = GRPC_OP_SEND_STATUS_FROM_SERVER}};
    size_t count = 1;

    call_log(call, code, err);
    snprintf(text, sizeof(text), "%s", code ? error_text(err) : "");
    details = grpc_slice_from_copied_string(text);
    ops[0].data.send_status_from_server.status = status;
    ops[0].data.send_status_from_server.status_details = &details;
    ops[0].data.send_status_from_server.trailing_metadata = trailing;
    ops[0].data.send_status_from_server.trailing_metadata_count = call_trailing(call, code, trailing);
    if (!call->initial_sent)
        ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (response) {
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = response;
    }
    call_start(call, ops, count, &call->finish_tag, call_finish_done);
    if (response)
        grpc_byte_buffer_destroy(response);
    grpc_slice_unref(details);
    call_unref(call);
}

static void call_finish_done(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    call_unref(container_of(tag, struct rpc_call, finish_tag));
}
