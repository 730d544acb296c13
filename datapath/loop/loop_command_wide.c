/*
 * Commands to drivers that do not fit an ordinary entry. A file of its own for the same reason as
 * loop_command.c. The loop's thread only; called by whoever embeds the operation.
 */
#include <assert.h>
#include <string.h>

#include "datapath/loop/loop_internal.h"

void loop_command_wide(struct loop *loop, struct loop_op *op, int fd, const struct loop_wide_command *command)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);

    assert(loop->ring.flags & IORING_SETUP_SQE128);
    assert(command->length <= LOOP_WIDE_COMMAND_BYTES);
    if (!sqe)
        return;
    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, command->iov, command->iov_count, 0);
    sqe->cmd_op = command->code;
    memset(sqe->cmd, 0, LOOP_WIDE_COMMAND_BYTES);
    memcpy(sqe->cmd, command->data, command->length);
    io_uring_sqe_set_data64(sqe, (uintptr_t)op | LOOP_COMMAND_TAG);
    loop->inflight--;
    loop->commands++;
}
