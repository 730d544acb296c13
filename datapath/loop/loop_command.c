/*
 * Commands to drivers (IORING_OP_URING_CMD). A file of its own: a test that plays the driver defines
 * loop_command() itself. The loop's thread only; called by whoever embeds the operation.
 */
#include <string.h>

#include "datapath/loop/loop_internal.h"

void loop_command(struct loop *loop, struct loop_op *op, int fd, uint32_t code, const void *command)
{
    struct io_uring_sqe *sqe = loop_queue(loop, op);

    if (!sqe)
        return;
    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, NULL, 0, 0);
    sqe->cmd_op = code;
    memcpy(sqe->cmd, command, LOOP_COMMAND_BYTES);
    io_uring_sqe_set_data64(sqe, (uintptr_t)op | LOOP_COMMAND_TAG);
    loop->inflight--;
    loop->commands++;
}
