/*
 * Initiators that stop in the middle of a transfer while others wait for the buffers that it holds (invariant
 * 10). What a session may hold is bounded, but a few of them together can hold all of their loop's buffers,
 * for as long as they like: TCP and pings go on. So, and only while somebody is short of buffers, the oldest
 * transfer of each connection must go on; whose does not is ended, and may log in again. Called by the tick
 * of the connection's loop: the data path pays nothing for it.
 */
#include <linux/tcp.h>
#include <netinet/in.h>

#include "datapath/target/reactor.h"
#include "datapath/target/task.h"

#define STALL_MAX_NS (UINT64_C(5) * 1000000000)
#define STALL_BYTES_MIN (64u * 1024) /* in that time: less is no transfer, but a way to hold its buffer */

/* The initiator has to take what was sent before it can go on. */
static bool stall_sends(const struct task *task)
{
    return task->state == TASK_ANSWERS || task->r2t.queued;
}

/* The oldest whose buffer waits for the initiator. */
static const struct task *stall_oldest(const struct connection *connection)
{
    const struct task *oldest = NULL;
    for (const struct task *task = connection->tasks.first; task; task = task->next)
        if (task->buffer && (task->state == TASK_COLLECTS || task->state == TASK_ANSWERS))
            oldest = task;
    return oldest;
}

static uint64_t stall_bytes(const struct connection *connection, const struct task *task)
{
    const struct iscsi_pdu_reader *reader = &connection->reader;
    if (stall_sends(task)) {
        struct tcp_info info = {0};
        socklen_t size = sizeof(info);
        getsockopt(connection->fd, IPPROTO_TCP, TCP_INFO, &info, &size);
        return info.tcpi_bytes_acked;
    }
    bool arriving = connection->tasks.receiving == task && reader->step == ISCSI_PDU_STEP_DATA;
    return (uint64_t)task->received + (arriving ? reader->filled : 0);
}

bool connection_stalled(struct connection *connection, uint64_t now_ns)
{
    struct stall_mark *mark = &connection->stall;
    const struct task *oldest = stall_oldest(connection);
    if (!oldest) {
        mark->since_ns = 0;
        return false;
    }
    bool sends = stall_sends(oldest);
    uint64_t bytes = stall_bytes(connection, oldest);
    if (mark->since_ns && mark->serial == oldest->serial && mark->sends == sends &&
        bytes < mark->bytes + STALL_BYTES_MIN)
        return now_ns > mark->since_ns + STALL_MAX_NS;
    *mark = (struct stall_mark){
        .serial = oldest->serial, .sends = sends, .bytes = bytes, .since_ns = now_ns ? now_ns : 1};
    return false;
}
