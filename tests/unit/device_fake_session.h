/* A session that records what is sent over it and answers when the test says so: stands in for initiator.c.
 */
#pragma once

#include "datapath/device/initiator.h"
#include "datapath/loop/loop.h"

#define FAKE_SENT_MAX 256

struct fake_sent {
    struct scsi_task *task;
    iscsi_command_cb done;
    void *private_data;
};

struct fake_session {
    struct fake_sent sent[FAKE_SENT_MAX];
    unsigned count, dropped;
    bool no_memory;
    bool lease_over;
};

extern struct fake_session fake_session;

void fake_session_reset(void);

/* Let the loop's timers, messages and completions run for so long. */
void fake_session_run(struct loop *loop, unsigned ms);

/* Answer the index'th command that was sent since the reset. */
void fake_answer(unsigned index, int status);
void fake_answer_sense(unsigned index, int key, int ascq);
