/* The commands of a connection that wait for their volume's limits; see throttle.h. The connection's loop. */
#include "datapath/target/throttle.h"

#include <errno.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/target/limits.h"
#include "datapath/target/reactor.h"
#include "datapath/target/session.h"
#include "datapath/target/task.h"

#define NS_PER_MS UINT64_C(1000000)

static void throttle_timer_done(struct loop_op *op, int res, unsigned flags);

void throttle_init(struct throttle *throttle)
{
    *throttle = (struct throttle){.at = &throttle->first, .timer = {.done = throttle_timer_done}};
}

static void throttle_take(const struct task *task)
{
    struct connection *connection = task->connection;
    struct throttle *throttle = &connection->throttle;
    throttle->taken_bytes = scsi_task_limited_bytes(&task->scsi);
    throttle->until_ns = limits_take(connection->session->limits, throttle->taken_bytes,
                                     loop_now_ns(connection->reactor->loop));
}

static void throttle_arm(struct connection *connection)
{
    struct throttle *throttle = &connection->throttle;
    struct loop *loop = connection->reactor->loop;
    uint64_t now_ns = loop_now_ns(loop);
    if (throttle->timing || !throttle->first)
        return;
    uint64_t wait_ns = throttle->until_ns > now_ns ? throttle->until_ns - now_ns : 0;
    throttle->timing = true;
    connection->inflight++;
    loop_timeout(loop, &throttle->timer, (wait_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static size_t throttle_held_bytes(const struct task *task)
{
    return task->buffer ? task->buffer_size : 0;
}

static void throttle_add(struct task *task, void (*go_on)(struct task *task))
{
    struct throttle *throttle = &task->connection->throttle;
    task->state = TASK_THROTTLED;
    task->go_on = go_on;
    task->list_next = NULL;
    *throttle->at = task;
    throttle->at = &task->list_next;
    task->connection->reactor->throttled_bytes += throttle_held_bytes(task);
}

static void throttle_remove(struct task *task)
{
    struct throttle *throttle = &task->connection->throttle;
    struct task **link = &throttle->first;
    while (*link != task)
        link = &(*link)->list_next;
    *link = task->list_next;
    if (throttle->at == &task->list_next)
        throttle->at = link;
    task->connection->reactor->throttled_bytes -= throttle_held_bytes(task);
}

bool throttle_holds(struct task *task, void (*go_on)(struct task *task))
{
    struct connection *connection = task->connection;
    struct throttle *throttle = &connection->throttle;
    if (task->charged || !limits_on(connection->session->limits) || !scsi_task_limited(&task->scsi))
        return false;
    task->charged = true;
    if (!throttle->first) {
        throttle_take(task);
        if (throttle->until_ns <= loop_now_ns(connection->reactor->loop))
            return false;
    }
    throttle_add(task, go_on);
    throttle_arm(connection);
    return true;
}

/* Whoever's time has come. The caller holds an operation of the connection. */
static void throttle_run(struct connection *connection)
{
    struct throttle *throttle = &connection->throttle;
    uint64_t now_ns = loop_now_ns(connection->reactor->loop);
    while (throttle->first && throttle->until_ns <= now_ns) {
        struct task *task = throttle->first;
        throttle_remove(task);
        if (throttle->first)
            throttle_take(throttle->first);
        task->go_on(task);
    }
    throttle_arm(connection);
}

static void throttle_timer_done(struct loop_op *op, int res, unsigned flags)
{
    struct throttle *throttle = container_of(op, struct throttle, timer);
    struct connection *connection = container_of(throttle, struct connection, throttle);
    (void)res;
    (void)flags;
    throttle->timing = false;
    throttle_run(connection);
    connection_operation_end(connection);
}

/* It gives back what it was charged, so that an initiator that loses patience again and again does not use
 * the limit up; whoever comes next goes at the time that it had taken, but pays for itself. */
void throttle_leave(struct task *task)
{
    struct connection *connection = task->connection;
    struct throttle *throttle = &connection->throttle;
    bool taken = throttle->first == task;
    throttle_remove(task);
    task->charged = false;
    if (!taken)
        return;
    limits_give_back(connection->session->limits, throttle->taken_bytes);
    if (throttle->first) {
        uint64_t until_ns = throttle->until_ns;
        throttle_take(throttle->first);
        throttle->until_ns = until_ns;
    } else if (throttle->timing) {
        loop_cancel(connection->reactor->loop, &throttle->timer);
    }
}

void throttle_give_back(struct task *task)
{
    if (!task->charged)
        return;
    task->charged = false;
    limits_give_back(task->connection->session->limits, scsi_task_limited_bytes(&task->scsi));
}

bool throttle_has_room(const struct task *task)
{
    const struct connection *connection = task->connection;
    const struct reactor *reactor = connection->reactor;
    return !limits_on(connection->session->limits) || !scsi_task_limited(&task->scsi) ||
           reactor->throttled_bytes + task->buffer_size <= reactor->buffers.limit_bytes / 2;
}

void throttle_look_again(struct connection *connection)
{
    struct throttle *throttle = &connection->throttle;
    if (!throttle->first)
        return;
    connection->inflight++;
    throttle_take(throttle->first);
    if (throttle->timing)
        loop_cancel(connection->reactor->loop, &throttle->timer); /* its end looks at the new time */
    throttle_run(connection);
    connection_operation_end(connection);
}
