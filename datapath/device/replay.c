/* The replay's runner. Owns one request. Runs on the device's loop; called by device.c. */
#include "datapath/device/replay.h"

#include <stddef.h>

#include "common/cleanup.h"

static void replay_send(struct replay *replay);
static void replay_send_done(struct request *request, int result);
static void replay_flush(struct replay *replay);
static void replay_flush_done(struct request *request, int result);

static enum request_verb verb_of(const struct replay_entry *entry)
{
    if (entry->op == REPLAY_WRITE)
        return REQUEST_WRITE;
    return entry->op == REPLAY_ZERO ? REQUEST_ZERO : REQUEST_DISCARD;
}

static void replay_end(struct replay *replay, int result)
{
    replay->running = false;
    replay->done(replay->context, result);
}

static void replay_send(struct replay *replay)
{
    struct replay_entry *entry = replay->entry;
    if (!entry) {
        replay_flush(replay);
        return;
    }
    replay->request = (struct request){.verb = verb_of(entry), .internal = true};
    replay->request.offset = entry->offset;
    replay->request.length = entry->length;
    replay->request.data = replay_entry_payload(entry);
    replay->request.done = replay_send_done;
    requests_submit(replay->requests, &replay->request);
    requests_kick(replay->requests);
}

static void replay_send_done(struct request *request, int result)
{
    struct replay *replay = container_of(request, struct replay, request);
    if (result) {
        replay_end(replay, result);
        return;
    }
    replay->entries++;
    replay->entry = replay_log_next(replay->requests->log, replay->entry);
    replay_send(replay);
}

static void replay_flush(struct replay *replay)
{
    replay->request = (struct request){.verb = REQUEST_FLUSH, .internal = true, .done = replay_flush_done};
    requests_submit(replay->requests, &replay->request);
    requests_kick(replay->requests);
}

static void replay_flush_done(struct request *request, int result)
{
    replay_end(container_of(request, struct replay, request), result);
}

void replay_init(struct replay *replay, struct requests *requests, void (*done)(void *context, int result),
                 void *context)
{
    *replay = (struct replay){.requests = requests, .done = done, .context = context};
}

void replay_start(struct replay *replay)
{
    replay->running = true;
    replay->entries = 0;
    replay->entry = replay_log_first(replay->requests->log);
    replay_send(replay);
}

void replay_lost(struct replay *replay)
{
    replay->running = false;
}
