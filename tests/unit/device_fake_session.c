/* The fake session: initiator_send() and what else requests.c calls, defined here instead of initiator.c. */
#include "tests/unit/device_fake_session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"

struct fake_session fake_session;

void fake_session_reset(void)
{
    memset(&fake_session, 0, sizeof fake_session);
}

bool initiator_send(struct initiator *initiator, struct scsi_task *task, iscsi_command_cb done,
                    void *private_data)
{
    (void)initiator;
    if (fake_session.no_memory || fake_session.count == FAKE_SENT_MAX)
        return false;
    fake_session.sent[fake_session.count++] = (struct fake_sent){task, done, private_data};
    return true;
}

void initiator_kick(struct initiator *initiator)
{
    (void)initiator;
}

bool initiator_lease_holds(const struct initiator *initiator)
{
    (void)initiator;
    return !fake_session.lease_over;
}

void initiator_drop(struct initiator *initiator, const char *why)
{
    (void)initiator;
    (void)why;
    fake_session.dropped++;
}

void fake_answer(unsigned index, int status)
{
    struct fake_sent *sent = &fake_session.sent[index];
    sent->done(NULL, status, sent->task, sent->private_data);
}

void fake_answer_sense(unsigned index, int key, int ascq)
{
    struct scsi_task *task = fake_session.sent[index].task;
    task->sense.key = key;
    task->sense.ascq = ascq;
    fake_answer(index, SCSI_STATUS_CHECK_CONDITION);
}

struct pause {
    struct loop_op op;
    struct loop *loop;
};

static void pause_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    loop_stop(container_of(op, struct pause, op)->loop);
}

void fake_session_run(struct loop *loop, unsigned ms)
{
    struct pause pause = {.op = {.done = pause_done}, .loop = loop};
    loop_timeout(loop, &pause.op, ms);
    assert_int_equal(loop_run(loop), 0);
}
