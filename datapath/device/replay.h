/*
 * The replay (invariant 1): the target is another boot than the one that answered the log's entries, so each
 * is sent again, in order, one at a time, then a flush, then the log takes the new boot id. All other
 * requests wait behind the gate (REQUESTS_INTERNAL). Interrupted at any point, it begins anew: harmless.
 * Where the target refuses it, it is tried again later, in the gate REQUESTS_REFUSED.
 */
#pragma once

#include <stdbool.h>

#include "datapath/device/requests.h"

struct replay {
    struct requests *requests;
    void (*done)(void *context, int result); /* 0, or the negative errno that the target gave */
    void *context;

    bool running;
    struct replay_entry *entry; /* being sent; NULL while the flush is */
    struct request request;
    unsigned long long entries;
};

void replay_init(struct replay *replay, struct requests *requests, void (*done)(void *context, int result),
                 void *context);
void replay_start(struct replay *replay);

/* The session is gone: requests.c has dropped the request. done() is not called. */
void replay_lost(struct replay *replay);
