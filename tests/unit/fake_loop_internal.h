/* What the two files of the fake loop share. */
#pragma once

#include "tests/unit/fake_loop.h"

struct pending {
    struct fake_op what;
    uint64_t number;  /* order of starting */
    uint64_t when_ns; /* FAKE_TIMEOUT */
    struct iovec *iov;
    unsigned iov_count;
    const struct msghdr *message;
    struct loop_work *work;
    bool cancelled;
    uint64_t progress; /* of a sendmsg */
};

struct loop {
    uint64_t random;
    uint64_t now_ns, number;
    fake_hook hook;
    void *hook_context;
    unsigned errors, shorts;
    struct pending **table;
    unsigned count, room;
    unsigned counts[FAKE_KINDS];
    struct loop_message *first, **last;
    unsigned held;
    bool stopping;
    char *buffers;
    unsigned buffers_count, buffer_size;
    bool *buffer_out;
};

extern struct loop *fake_loop_current;

/* The operation would not block now. */
bool fake_pending_ready(struct loop *loop, const struct pending *pending);

/* Carry it out, at most limit bytes of a transfer. The result; -EAGAIN when it goes on later. */
int fake_pending_run(struct loop *loop, struct pending *pending, uint64_t limit, unsigned *ret_flags);
