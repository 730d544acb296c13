/*
 * Calls of a client: each runs on its caller's thread, on a completion queue of its own, and is over when it
 * returns. A unary call is a stream of one response. Here is the one retry policy: while the server is
 * UNAVAILABLE, nothing of its answer has arrived and time remains, wait (50 ms, growing to 2 s, with jitter)
 * and try again.
 */
#include <assert.h>
#include <errno.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "rpc/client.h"
#include "rpc/status.h"
#include "rpc/wire.h"

#define CALL_TIMEOUT_MS_DEFAULT 30000
#define CALL_BACKOFF_FIRST_MS 50
#define CALL_BACKOFF_MAX_MS 2000

/* What the caller wants, through all attempts. */
struct client_call {
    struct rpc_client *client;
    const ProtobufCMethodDescriptor *method;
    char *path;
    const ProtobufCMessage *request;
    char id[17];
    gpr_timespec deadline;
    bool retry;
    unsigned attempts; /* so far */
    char *ret_boot_id; /* or NULL */
    /* Takes each response, and owns it. */
    int (*receive)(struct client_call *call, ProtobufCMessage *response);
    bool received; /* one arrived: no more retries */

    ProtobufCMessage *response; /* of a unary call */
    int (*stream_receive)(const ProtobufCMessage *response, void *context);
    void *stream_context;
};

/* One try; gRPC writes its results here. */
struct client_attempt {
    struct client_channel *channel; /* a reference */
    grpc_completion_queue *cq;
    grpc_call *grpc;
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *payload;
    grpc_status_code status;
    grpc_slice details;
    const char *debug_text;
    bool answered; /* the status is a server's of ours, not gRPC's own about a connection */
};

enum { TAG_SEND = 1, TAG_STATUS, TAG_RECEIVE };

static void *attempt_tag(intptr_t number)
{
    return (void *)number;
}

static void attempt_pluck(struct client_attempt *attempt, int tag)
{
    grpc_completion_queue_pluck(attempt->cq, attempt_tag(tag), gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
}

static void attempt_start(struct client_attempt *attempt, const grpc_op *ops, size_t count, int tag)
{
    grpc_call_error failed = grpc_call_start_batch(attempt->grpc, ops, count, attempt_tag(tag), NULL);

    assert(failed == GRPC_CALL_OK); /* anything else is a misuse of the API */
    (void)failed;
}

static void attempt_init(struct client_attempt *attempt, struct client_call *call)
{
    grpc_slice method = grpc_slice_from_copied_string(call->path);

    memset(attempt, 0, sizeof(*attempt));
    attempt->channel = client_channel_get(call->client);
    if (call->attempts++ > 0)
        grpc_channel_reset_connect_backoff(attempt->channel->grpc);
    attempt->cq = grpc_completion_queue_create_for_pluck(NULL);
    attempt->grpc = grpc_channel_create_call(attempt->channel->grpc, NULL, GRPC_PROPAGATE_DEFAULTS,
                                             attempt->cq, method, NULL, call->deadline, NULL);
    attempt->details = grpc_empty_slice();
    grpc_metadata_array_init(&attempt->initial);
    grpc_metadata_array_init(&attempt->trailing);
    grpc_slice_unref(method);
}

static void attempt_done(struct client_attempt *attempt, struct client_call *call)
{
    grpc_call_unref(attempt->grpc);
    client_channel_put(call->client, attempt->channel);
    grpc_completion_queue_shutdown(attempt->cq);
    grpc_completion_queue_destroy(attempt->cq);
    grpc_metadata_array_destroy(&attempt->initial);
    grpc_metadata_array_destroy(&attempt->trailing);
    grpc_slice_unref(attempt->details);
    gpr_free((void *)attempt->debug_text);
}

static void attempt_send(struct client_attempt *attempt, struct client_call *call, grpc_byte_buffer *request)
{
    grpc_metadata id = {.key = grpc_slice_from_static_string("x-request-id"),
                        .value = grpc_slice_from_copied_string(call->id)};
    grpc_op send[] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_SEND_MESSAGE},
                      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
                      {.op = GRPC_OP_RECV_INITIAL_METADATA}};
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};

    send[0].data.send_initial_metadata.count = 1;
    send[0].data.send_initial_metadata.metadata = &id;
    send[1].data.send_message.send_message = request;
    send[3].data.recv_initial_metadata.recv_initial_metadata = &attempt->initial;
    status.data.recv_status_on_client.trailing_metadata = &attempt->trailing;
    status.data.recv_status_on_client.status = &attempt->status;
    status.data.recv_status_on_client.status_details = &attempt->details;
    status.data.recv_status_on_client.error_string = &attempt->debug_text;
    attempt_start(attempt, &status, 1, TAG_STATUS);
    attempt_start(attempt, send, ARRAY_SIZE(send), TAG_SEND);
    grpc_slice_unref(id.value);
}

/* Hand on each response until the server's status, or until the receiver or a response is not in order. */
static int attempt_receive(struct client_attempt *attempt, struct client_call *call, struct error *err)
{
    grpc_op receive = {.op = GRPC_OP_RECV_MESSAGE};
    ProtobufCMessage *response;
    int code = 0;

    receive.data.recv_message.recv_message = &attempt->payload;
    while (!code) {
        attempt_start(attempt, &receive, 1, TAG_RECEIVE);
        attempt_pluck(attempt, TAG_RECEIVE);
        if (!attempt->payload)
            return 0;
        call->received = true;
        code = rpc_wire_parse(call->method->output, attempt->payload, &response, err);
        grpc_byte_buffer_destroy(TAKE_PTR(attempt->payload));
        if (code)
            code = error_errno(err, EPROTO, "the response of %s cannot be read", call->path);
        else if ((code = call->receive(call, response)))
            error_set(err, code, "%s was ended by its receiver", call->path);
    }
    grpc_call_cancel(attempt->grpc, NULL);
    return code;
}

static const grpc_slice *attempt_find(const struct client_attempt *attempt, const char *key)
{
    for (size_t i = 0; i < attempt->trailing.count; i++)
        if (grpc_slice_str_cmp(attempt->trailing.metadata[i].key, key) == 0)
            return &attempt->trailing.metadata[i].value;
    return NULL;
}

/* The error code of the status; notes whether a server of ours sent it. */
static int attempt_code(struct client_attempt *attempt)
{
    const grpc_slice *exact = attempt_find(attempt, "mooring-code");
    char *name;
    int code;

    if (!exact)
        return status_to_error((int)attempt->status);
    name = grpc_slice_to_c_string(*exact);
    code = status_refine((int)attempt->status, name);
    gpr_free(name);
    attempt->answered = true;
    return code;
}

static void attempt_keep_boot_id(const struct client_attempt *attempt, const struct client_call *call)
{
    const grpc_slice *stated = attempt_find(attempt, "mooring-boot-id");
    size_t length = stated ? GRPC_SLICE_LENGTH(*stated) : 0;

    if (!call->ret_boot_id)
        return;
    if (length > RPC_BOOT_ID_MAX)
        length = 0;
    if (length > 0)
        memcpy(call->ret_boot_id, GRPC_SLICE_START_PTR(*stated), length);
    call->ret_boot_id[length] = '\0';
}

/*
 * gRPC's words for a connection that failed are about its own parts. Under TLS 1.3 a server refuses a
 * client's certificate only after the client's handshake is done, so all that the client sees is a connection
 * that closes.
 */
static void attempt_explain(const struct client_attempt *attempt, const struct client_call *call,
                            const char *text, struct error *err)
{
    const struct rpc_endpoint *endpoint = &call->client->endpoint;
    const char *name = endpoint->local ? endpoint->path : endpoint->target;
    const char *debug = attempt->debug_text ? attempt->debug_text : "";

    if (strstr(text, "Verify peer callback") || strstr(debug, "Verify peer callback"))
        error_set(err, E_UNAVAILABLE, "%s: its certificate is not a storage server's (mooring:server:…)",
                  name);
    else if (strstr(text, "is not in peer certificate") || strstr(debug, "is not in peer certificate"))
        error_set(err, E_UNAVAILABLE, "%s: its certificate does not carry the name it was called by", name);
    else if (strstr(text, "CERTIFICATE_VERIFY_FAILED") || strstr(debug, "certificate verify failed"))
        error_set(err, E_UNAVAILABLE, "%s: its certificate was not issued by our CA, or has expired", name);
    else if (strstr(text, "handshake") || strstr(debug, "handshake"))
        error_set(err, E_UNAVAILABLE, "%s: the TLS handshake failed (%s)", name, text);
    else if (!endpoint->local &&
             (strstr(text, "Socket closed") || strstr(text, "reset") || strstr(text, "pipe")))
        error_set(err, E_UNAVAILABLE,
                  "%s closed the connection (%s): it stopped, or it refused our certificate", name, text);
    else
        error_set(err, E_UNAVAILABLE, "%s cannot be reached: %s", name, text);
}

static int attempt_result(struct client_attempt *attempt, struct client_call *call, struct error *err)
{
    grpc_channel *channel = attempt->channel->grpc;
    char *text = grpc_slice_to_c_string(attempt->details);
    int code = attempt_code(attempt);

    if (code == E_UNAVAILABLE && !attempt->answered)
        attempt_explain(attempt, call, text, err);
    else if (code == E_DEADLINE && !attempt->answered &&
             grpc_channel_check_connectivity_state(channel, 0) != GRPC_CHANNEL_READY)
        code = error_set(err, E_UNAVAILABLE, "%s cannot be reached: no connection in the time given",
                         call->client->endpoint.target);
    else if (code == E_DEADLINE && !attempt->answered)
        error_set(err, code, "%s: no answer in the time given; it may still be carried out", call->path);
    else if (code)
        error_set(err, code, "%s", text[0] ? text : error_name(code));
    gpr_free(text);
    return code;
}

static int call_attempt(struct client_call *call, struct error *err)
{
    struct client_attempt attempt;
    grpc_byte_buffer *request;
    int code = rpc_wire_pack(call->request, call->client->message_max_bytes, &request, err), received;

    if (code)
        return code;
    attempt_init(&attempt, call);
    attempt_send(&attempt, call, request);
    received = attempt_receive(&attempt, call, err);
    attempt_pluck(&attempt, TAG_STATUS);
    attempt_pluck(&attempt, TAG_SEND);
    attempt_keep_boot_id(&attempt, call);
    code = received ? received : attempt_result(&attempt, call, err);
    grpc_byte_buffer_destroy(request);
    attempt_done(&attempt, call);
    return code;
}

/* ---- all attempts ---- */

static uint64_t call_remaining_ms(const struct client_call *call)
{
    gpr_timespec left = gpr_time_sub(call->deadline, gpr_now(GPR_CLOCK_MONOTONIC));

    return gpr_time_cmp(left, gpr_time_0(GPR_TIMESPAN)) <= 0 ? 0 : (uint64_t)gpr_time_to_millis(left);
}

/* Wait between three and five quarters of *backoff_ms, and double it. False when the time is up before that.
 */
static bool call_back_off(const struct client_call *call, uint64_t *backoff_ms)
{
    uint64_t jitter = 0, wait_ms;
    struct timespec pause;

    io_random(&jitter, sizeof(jitter));
    wait_ms = *backoff_ms * 3 / 4 + jitter % (*backoff_ms / 2 + 1);
    *backoff_ms = MIN(*backoff_ms * 2, CALL_BACKOFF_MAX_MS);
    if (wait_ms >= call_remaining_ms(call))
        return false;
    pause.tv_sec = (time_t)(wait_ms / 1000);
    pause.tv_nsec = (long)(wait_ms % 1000) * 1000000;
    while (nanosleep(&pause, &pause) < 0 && errno == EINTR)
        ;
    return true;
}

/* The last attempt's words are kept: "cannot be reached" says more than that the time is up. */
static int call_run(struct client_call *call, struct error *err)
{
    uint64_t backoff_ms = CALL_BACKOFF_FIRST_MS;
    _cleanup_error_ struct error last = {0};
    int code = call_attempt(call, &last);

    while (code == E_UNAVAILABLE && call->retry && !call->received && call_back_off(call, &backoff_ms))
        code = call_attempt(call, &last);
    if (code)
        error_move(err, &last);
    return code;
}

static int call_init(struct client_call *call, struct rpc_client *client,
                     const ProtobufCServiceDescriptor *descriptor, const char *method_name,
                     const ProtobufCMessage *request, const struct rpc_call_options *options,
                     struct error *err)
{
    unsigned timeout_ms = options && options->timeout_ms ? options->timeout_ms : CALL_TIMEOUT_MS_DEFAULT;
    uint64_t drawn = 0;

    memset(call, 0, sizeof(*call));
    call->client = client;
    call->method = protobuf_c_service_descriptor_get_method_by_name(descriptor, method_name);
    assert(call->method && call->method->input == request->descriptor);
    call->request = request;
    call->retry = options && options->retry;
    call->ret_boot_id = options ? options->ret_boot_id : NULL;
    if (call->ret_boot_id)
        call->ret_boot_id[0] = '\0';
    call->deadline =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis((int64_t)timeout_ms, GPR_TIMESPAN));
    io_random(&drawn, sizeof(drawn));
    snprintf(call->id, sizeof(call->id), "%016llx", (unsigned long long)drawn);
    call->path = str_format("/%s/%s", descriptor->name, method_name);
    return call->path ? 0 : error_errno(err, ENOMEM, "call %s", method_name);
}

/* gRPC's own rule for a unary call: exactly one response. */
static int call_keep_response(struct client_call *call, ProtobufCMessage *response)
{
    if (call->response) {
        protobuf_c_message_free_unpacked(response, NULL);
        return -EPROTO;
    }
    call->response = response;
    return 0;
}

int rpc_client_call(struct rpc_client *client, const ProtobufCServiceDescriptor *descriptor,
                    const char *method_name, const ProtobufCMessage *request,
                    const struct rpc_call_options *options, ProtobufCMessage **ret_response,
                    struct error *err)
{
    struct client_call call;
    int code = call_init(&call, client, descriptor, method_name, request, options, err);

    if (code)
        return code;
    call.receive = call_keep_response;
    code = call_run(&call, err);
    if (!code && !call.response)
        code = error_errno(err, EPROTO, "%s answered OK without a response", call.path);
    if (!code)
        *ret_response = call.response;
    else if (call.response)
        protobuf_c_message_free_unpacked(call.response, NULL);
    free(call.path);
    return code;
}

static int call_hand_on_response(struct client_call *call, ProtobufCMessage *response)
{
    int code = call->stream_receive(response, call->stream_context);

    protobuf_c_message_free_unpacked(response, NULL);
    return code;
}

int rpc_client_stream(struct rpc_client *client, const ProtobufCServiceDescriptor *descriptor,
                      const char *method_name, const ProtobufCMessage *request,
                      const struct rpc_call_options *options,
                      int (*receive)(const ProtobufCMessage *response, void *context), void *context,
                      struct error *err)
{
    struct client_call call;
    int code = call_init(&call, client, descriptor, method_name, request, options, err);

    if (code)
        return code;
    call.receive = call_hand_on_response;
    call.stream_receive = receive;
    call.stream_context = context;
    code = call_run(&call, err);
    free(call.path);
    return code;
}
