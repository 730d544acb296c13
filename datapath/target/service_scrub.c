/* The Storage service's calls about the scrub. Worker threads; memory only. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/store/scrub.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

#define ERRORS_MAX 1024u /* in one answer */

/* NULL: no memory. */
static Mooring__Storage__V1__ScrubRound *service_round_message(const struct scrub_round *round)
{
    Mooring__Storage__V1__ScrubRound *message = malloc(sizeof(*message));
    if (!message)
        return NULL;
    mooring__storage__v1__scrub_round__init(message);
    message->began_unix_s = round->began_unix_s;
    message->ended_unix_s = round->ended_unix_s;
    message->read_bytes = round->read_bytes;
    message->shared_bytes = round->shared_bytes;
    message->unreadable_bytes = round->unreadable_bytes;
    message->files_count = round->files_count;
    return message;
}

static int service_scrub_error(const struct scrub_error *found,
                               Mooring__Storage__V1__GetScrubResponse *answer)
{
    Mooring__Storage__V1__ScrubError *message = malloc(sizeof(*message));
    if (!message)
        return -ENOMEM;
    mooring__storage__v1__scrub_error__init(message);
    answer->errors[answer->n_errors++] = message;
    message->id = strdup(found->id);
    message->error = strdup(error_name(-found->errnum));
    message->offset = found->offset;
    message->length = found->length;
    message->since_unix_s = found->since_unix_s;
    return message->id && message->error ? 0 : -ENOMEM;
}

static int service_scrub_errors(struct store *store, Mooring__Storage__V1__GetScrubResponse *answer)
{
    _cleanup_free_ struct scrub_error *found = calloc(ERRORS_MAX, sizeof(*found));
    answer->errors = calloc(ERRORS_MAX, sizeof(*answer->errors));
    if (!found || !answer->errors)
        return -ENOMEM;
    answer->errors_count = store_scrub_errors(store, NULL, found, ERRORS_MAX);
    int code = 0;
    for (size_t i = 0; code == 0 && i < MIN(answer->errors_count, ERRORS_MAX); i++)
        code = service_scrub_error(&found[i], answer);
    return code;
}

int service_get_scrub(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                      void *context, struct error *err)
{
    Mooring__Storage__V1__GetScrubResponse *answer = (Mooring__Storage__V1__GetScrubResponse *)response;
    struct store *store = ((struct storage_service *)context)->server->store;
    struct scrub_status status;
    (void)call;
    (void)request;
    store_scrub_status(store, &status);
    answer->bytes_per_s = status.bytes_per_s;
    answer->progress_percent = status.progress_percent;
    answer->next_unix_s = status.next_unix_s;
    answer->round = status.running ? service_round_message(&status.round) : NULL;
    answer->last = status.last.began_unix_s ? service_round_message(&status.last) : NULL;
    if ((status.running && !answer->round) || (status.last.began_unix_s && !answer->last) ||
        service_scrub_errors(store, answer) != 0)
        return error_errno(err, ENOMEM, "scrub");
    return 0;
}

int service_start_scrub(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                        void *context, struct error *err)
{
    (void)call;
    (void)request;
    (void)response;
    return store_scrub_request(((struct storage_service *)context)->server->store, err);
}
