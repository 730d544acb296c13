/*
 * A session's commands that wait for their volume's limits (limits.h), in order, on the connection's loop and
 * one timer of it. The first of them has taken its time; those behind it take theirs when it goes. A command
 * that waits is in flight to everyone outside, but holds nothing up: a session that is closed, or a task
 * management function, ends it at once (invariant 2).
 *
 * One that brought no data with it waits before it gets a buffer, so that slow volumes do not use up what
 * others of the loop need; those that did may hold half of the loop's buffers together. (A WRITE SAME has its
 * block with it in any case, since that decides what it costs.)
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datapath/loop/loop.h"

struct connection;
struct task;

struct throttle {
    struct task *first, **at;
    uint64_t until_ns;    /* the first one's … */
    uint64_t taken_bytes; /* … for which so many were charged */
    struct loop_op timer;
    bool timing;
};

void throttle_init(struct throttle *throttle);

/* False: it may go on now. True: go_on() follows, unless it is aborted before (throttle_leave()). Asked at
 * each place where it might wait, a task waits at one. */
bool throttle_holds(struct task *task, void (*go_on)(struct task *task));

/* It is not to go on any more. */
void throttle_leave(struct task *task);

/* It went on, if it ever had to wait, and ends before it is carried out. */
void throttle_give_back(struct task *task);

/* Is there room for one more that has its data with it? */
bool throttle_has_room(const struct task *task);

/* The limits are others: whoever waits looks again. */
void throttle_look_again(struct connection *connection);
