/*
 * What becomes of the holder while the device lives. A holder that ends takes nothing with it, since the
 * device has all descriptors too; but until there is another one, a crash of the device is not survived. So
 * its end is told, and its socket tried until a new holder (mooring-node starts it) has been given everything
 * again. Runs on the loop, the hand-over on an offload thread.
 */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "datapath/loop/loop.h"

struct holder_watch {
    struct loop *loop;
    int dir_fd;     /* of holder.sock */
    int connection; /* to the holder; -1: there is none */
    /* On an offload thread: put everything on this connection. What is needed with something else must be
     * there before it: the device may die between any two. */
    int (*hand_over)(void *context, int connection, struct error *err);
    /* The connection has changed: -1, and later another one. */
    void (*changed)(void *context, int connection);
    void *context;

    struct loop_op poll, timer;
    struct loop_work work;
    int offered; /* of the work under way */
    bool busy;   /* one of these is under way */
    bool stopped;
};

/* Fill in the first part before; takes over the connection. Also after a stop. */
void holder_watch_start(struct holder_watch *watch);

/* Look no more; a hand-over that is under way ends all the same. */
void holder_watch_stop(struct holder_watch *watch);
