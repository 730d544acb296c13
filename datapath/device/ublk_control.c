/*
 * ublk's control commands, one at a time, on a ring of 128-byte entries that lives for one command. Runs on
 * offload threads and before the loop runs; called by ublk_attach.c, ublk_find.c and attach_check.c.
 */
#include "datapath/device/ublk_control.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/time.h"

#define CONTROL_DEVICE "/dev/ublk-control"
#define RECOVER_PAUSE_MS 20

static int control_open(int *ret_fd, struct error *err)
{
    *ret_fd = open(CONTROL_DEVICE, O_RDWR | O_CLOEXEC);
    if (*ret_fd >= 0)
        return 0;
    if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
        return error_set(err, E_UNIMPLEMENTED,
                         "there is no %s: the module ublk_drv is not loaded, or not built", CONTROL_DEVICE);
    if (errno == EACCES || errno == EPERM)
        return error_set(err, E_UNIMPLEMENTED, "%s may not be opened by this process", CONTROL_DEVICE);
    return error_errno(err, errno, "%s", CONTROL_DEVICE);
}

static int ring_run(struct io_uring *ring, int fd, uint32_t code, const struct ublksrv_ctrl_cmd *command)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    struct io_uring_cqe *cqe = NULL;
    int r;
    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, NULL, 0, 0);
    sqe->cmd_op = code;
    sqe->user_data = 0;
    memcpy(sqe->cmd, command, sizeof *command);
    r = io_uring_submit(ring);
    while (r >= 0 || r == -EINTR) {
        r = io_uring_wait_cqe(ring, &cqe);
        if (r == 0)
            return cqe->res;
    }
    return r;
}

/* What the driver answers: 0, or a negative errno, which only the caller interprets. Another one, with words,
 * when the command did not get there: *ret_sent tells them apart. */
static int control_run(uint32_t code, struct ublksrv_ctrl_cmd *command, bool *ret_sent, struct error *err)
{
    struct io_uring ring;
    struct io_uring_params params = {.flags = IORING_SETUP_SQE128};
    _cleanup_fd_ int fd = -1;
    *ret_sent = false;
    int r = control_open(&fd, err);
    if (r)
        return r;
    r = io_uring_queue_init_params(4, &ring, &params);
    if (r < 0)
        return error_errno(err, -r, "io_uring: cannot set up a ring for %s", CONTROL_DEVICE);
    command->queue_id = UINT16_MAX;
    *ret_sent = true;
    r = ring_run(&ring, fd, code, command);
    io_uring_queue_exit(&ring);
    return r < 0 ? r : 0;
}

/* A command on a device that is expected to be there: every answer but 0 is an error. */
static int control_simple(uint32_t code, uint32_t id, uint64_t data, const char *what, struct error *err)
{
    struct ublksrv_ctrl_cmd command = {.dev_id = id, .data = {data}};
    bool sent;
    int r = control_run(code, &command, &sent, err);
    return r && sent ? error_errno(err, -r, "/dev/ublkb%u: cannot %s", id, what) : r;
}

int ublk_control_features(uint64_t *ret_features, struct error *err)
{
    uint64_t features = 0;
    struct ublksrv_ctrl_cmd command = {
        .dev_id = UBLK_CONTROL_ANY, .len = sizeof features, .addr = (uintptr_t)&features};
    bool sent;
    int r = control_run(UBLK_PROTO_GET_FEATURES, &command, &sent, err);
    if (r && sent)
        return error_set(err, E_UNIMPLEMENTED,
                         "the ublk driver does not tell its features (%s): Linux 6.5 or newer is needed",
                         error_name(r));
    if (r == 0)
        *ret_features = features;
    return r;
}

int ublk_control_info(uint32_t id, struct ublksrv_ctrl_dev_info *ret_info, struct error *err)
{
    struct ublksrv_ctrl_dev_info info = {0};
    struct ublksrv_ctrl_cmd command = {.dev_id = id, .len = sizeof info, .addr = (uintptr_t)&info};
    bool sent;
    int r = control_run(UBLK_PROTO_GET_DEV_INFO, &command, &sent, err);
    if (r == -ENODEV && sent)
        return error_set(err, E_NOT_FOUND, "there is no ublk device %u", id);
    if (r && sent)
        return error_errno(err, -r, "ublk device %u: cannot read what it is", id);
    if (r == 0)
        *ret_info = info;
    return r;
}

int ublk_control_add(struct ublksrv_ctrl_dev_info *info, struct error *err)
{
    struct ublksrv_ctrl_cmd command = {.dev_id = info->dev_id, .len = sizeof *info, .addr = (uintptr_t)info};
    bool sent;
    int r = control_run(UBLK_PROTO_ADD_DEV, &command, &sent, err);
    return r && sent ? error_errno(err, -r, "cannot add a ublk device") : r;
}

int ublk_control_set_params(uint32_t id, struct ublk_params *params, struct error *err)
{
    params->len = sizeof *params;
    struct ublksrv_ctrl_cmd command = {.dev_id = id, .len = sizeof *params, .addr = (uintptr_t)params};
    bool sent;
    int r = control_run(UBLK_PROTO_SET_PARAMS, &command, &sent, err);
    return r && sent ? error_errno(err, -r, "/dev/ublkb%u: the kernel refuses its parameters", id) : r;
}

/* The kernel compares the server's number with what it was given, in its own, outermost PID namespace. */
static int control_serve(uint32_t code, uint32_t id, const char *what, struct error *err)
{
    int r = control_simple(code, id, (uint64_t)getpid(), what, err);
    if (r == -EINVAL)
        error_wrap(err, "mooring-device must run in the host's PID namespace");
    return r;
}

int ublk_control_start(uint32_t id, struct error *err)
{
    return control_serve(UBLK_PROTO_START_DEV, id, "start it", err);
}

int ublk_control_recover_begin(uint32_t id, unsigned timeout_ms, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    for (;;) {
        struct ublksrv_ctrl_cmd command = {.dev_id = id};
        bool sent;
        int r = control_run(UBLK_PROTO_START_USER_RECOVERY, &command, &sent, err);
        if (r == 0 || !sent)
            return r;
        if (r != -EBUSY)
            return error_errno(err, -r, "/dev/ublkb%u: cannot take it over", id);
        if (time_now_ms() >= deadline_ms)
            return error_set(err, E_DEADLINE, "/dev/ublkb%u: the kernel does not let its dead server go", id);
        poll(NULL, 0, RECOVER_PAUSE_MS);
    }
}

int ublk_control_recover_end(uint32_t id, struct error *err)
{
    return control_serve(UBLK_PROTO_END_USER_RECOVERY, id, "take it over", err);
}

int ublk_control_resize(uint32_t id, uint64_t size_bytes, struct error *err)
{
    uint64_t features = 0;
    int r = ublk_control_features(&features, err);
    if (r == 0 && !(features & UBLK_PROTO_F_UPDATE_SIZE))
        r = error_set(err, E_UNIMPLEMENTED,
                      "this kernel cannot resize a ublk device (Linux 6.16 can): it takes the volume's size "
                      "when it is staged anew");
    return r ? r : control_simple(UBLK_PROTO_UPDATE_SIZE, id, size_bytes >> 9, "resize it", err);
}

int ublk_control_try_stop(uint32_t id, struct error *err)
{
    struct ublksrv_ctrl_cmd command = {.dev_id = id};
    bool sent;
    int r = control_run(UBLK_PROTO_TRY_STOP_DEV, &command, &sent, err);
    if (!sent || r == 0 || r == -ENODEV)
        return sent ? 0 : r;
    if (r == -EBUSY)
        return error_set(err, E_BUSY, "/dev/ublkb%u is still in use", id);
    if (r == -EOPNOTSUPP)
        return error_set(err, E_UNIMPLEMENTED, "this kernel cannot tell whether a ublk device is in use");
    return error_errno(err, -r, "/dev/ublkb%u: cannot stop it", id);
}

/* Gone already is as good. */
static int control_end(uint32_t code, uint32_t id, const char *what, struct error *err)
{
    int r = control_simple(code, id, 0, what, err);
    if (r == -ENODEV) {
        error_done(err);
        r = 0;
    }
    return r;
}

int ublk_control_stop(uint32_t id, struct error *err)
{
    return control_end(UBLK_PROTO_STOP_DEV, id, "stop it", err);
}

int ublk_control_delete(uint32_t id, struct error *err)
{
    int r = control_end(UBLK_PROTO_DEL_DEV_ASYNC, id, "delete it", err);
    if (r != -EOPNOTSUPP) /* before Linux 6.9 */
        return r;
    error_done(err);
    return control_end(UBLK_PROTO_DEL_DEV, id, "delete it", err);
}
