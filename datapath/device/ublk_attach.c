/*
 * The frontend "ublk" as a whole: the device is added or taken over, its queue served by ublk_queue.c, and
 * ended once nobody uses it. The kernel keeps it, with the requests under way, while no process serves it.
 * Called through frontend.h by device.c and device_end.c; each function there says on which thread.
 */
#include "datapath/device/ublk_attach.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/device/holder_client.h"
#include "datapath/device/ublk_control.h"
#include "datapath/device/ublk_find.h"
#include "datapath/device/ublk_kernels.h"
#include "datapath/device/ublk_namespace.h"
#include "datapath/device/ublk_queue.h"

#define NODE_WAIT_MS 5000u
#define NODE_PAUSE_MS 20
#define DEATH_WAIT_MS 60000u /* a saturated queue's dead server is seen by its requests' timeout only */
#define TIMEOUT_MS "1000"
#define PAGE 4096u
/* What begins with "fuse" the holder takes to live for as long as poll(2) has no error to tell of it
 * (holder.h): so do those of earlier versions, which an upgrade leaves running. */
#define LIFE_NAME "fuse-ublk"

struct ublk_attach {
    struct frontend frontend;
    struct ublk_queue queue;
    uint64_t mark;
    uint32_t id; /* UBLK_CONTROL_ANY: none */
    unsigned depth;
    int fd;
    int life_fd; /* of the block device, in sysfs; -1: none */
    void *map;
    size_t map_bytes;
    bool started; /* the block device may be there */
};

static struct ublk_attach *of(struct frontend *frontend)
{
    return container_of(frontend, struct ublk_attach, frontend);
}

/* ---- device nodes ---- */

/* Without devtmpfs or udev nobody makes the node. attribute: "<major>:<minor>" in sysfs. */
static void node_make(const char *node, const char *attribute, mode_t type)
{
    char text[32];
    const char *rest;
    uint64_t major, minor;
    _cleanup_fd_ int fd = open(attribute, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (length <= 0)
        return;
    text[length] = '\0';
    if (str_parse_uint64(text, &major, &rest) && *rest == ':' && str_parse_uint64(rest + 1, &minor, &rest))
        mknod(node, type | 0600, makedev((unsigned)major, (unsigned)minor)); /* the caller looks again */
}

static int char_open(uint32_t id, int *ret_fd, struct error *err)
{
    char node[32], attribute[64];
    uint64_t deadline_ms = time_now_ms() + NODE_WAIT_MS;
    snprintf(node, sizeof node, "/dev/ublkc%u", id);
    snprintf(attribute, sizeof attribute, "/sys/class/ublk-char/ublkc%u/dev", id);
    while ((*ret_fd = open(node, O_RDWR | O_CLOEXEC)) < 0) {
        if ((errno != ENOENT && errno != EBUSY) || time_now_ms() >= deadline_ms)
            return error_errno(err, errno, "%s", node);
        if (errno == ENOENT)
            node_make(node, attribute, S_IFCHR);
        poll(NULL, 0, NODE_PAUSE_MS);
    }
    return 0;
}

static void block_node_wait(const struct ublk_attach *attach)
{
    char attribute[64];
    uint64_t deadline_ms = time_now_ms() + NODE_WAIT_MS;
    snprintf(attribute, sizeof attribute, "/sys/block/ublkb%u/dev", attach->id);
    while (access(attach->frontend.path, F_OK) < 0 && time_now_ms() < deadline_ms) {
        node_make(attach->frontend.path, attribute, S_IFBLK);
        poll(NULL, 0, NODE_PAUSE_MS);
    }
}

/* Before Linux 6.15 the death of a server that holds every request is noticed when one of them times out,
 * after 30 s as it comes. Nothing else happens at a timeout. */
static void shorten_timeout(const struct ublk_attach *attach)
{
    char path[64];
    snprintf(path, sizeof path, "/sys/block/ublkb%u/queue/io_timeout", attach->id);
    _cleanup_fd_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, TIMEOUT_MS, sizeof TIMEOUT_MS - 1) < 0)
        log_warning("%s: %s: a take-over may take 30 s", path, error_name(-errno));
}

static void path_set(struct ublk_attach *attach)
{
    snprintf(attach->frontend.path, sizeof attach->frontend.path, "/dev/ublkb%u", attach->id);
}

/* ---- the holder ---- */

/* An attribute that was read has nothing to say to poll(2) until its device is gone. By that the holder
 * knows, when a signal asks it to end, whether the log in its hands is of a device that stands, served or
 * not. */
static void life_open(struct ublk_attach *attach)
{
    char path[64], text[32];
    if (attach->life_fd >= 0)
        return;
    snprintf(path, sizeof path, "/sys/block/ublkb%u/dev", attach->id);
    attach->life_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (attach->life_fd < 0 || read(attach->life_fd, text, sizeof text) < 0)
        log_warning("%s: %s: a signal may end mooring-holder too early", path, error_name(-errno));
}

static int ublk_attach_hand_over(struct frontend *frontend, int holder, struct error *err)
{
    const struct ublk_attach *attach = of(frontend);
    return attach->life_fd < 0 ? 0 : holder_client_put(holder, LIFE_NAME, attach->life_fd, err);
}

/* To a holder that has just ended nothing can be told: the next one is given everything (holder_watch.h). */
static void life_tell(struct ublk_attach *attach)
{
    _cleanup_error_ struct error err = {0};
    life_open(attach);
    if (ublk_attach_hand_over(&attach->frontend, attach->frontend.parts.holder, &err))
        log_warning("%s", error_text(&err));
}

/* ---- up ---- */

static int ublk_attach_adopt(struct frontend *frontend, bool log_ours, struct error *err)
{
    struct ublk_attach *attach = of(frontend);
    struct ublksrv_ctrl_dev_info info;
    if (!log_ours)
        return ublk_find_remove(attach->mark, DEATH_WAIT_MS, err);
    int r = ublk_find(attach->mark, &info, err);
    if (r == 0 && info.state == UBLK_S_DEV_DEAD) /* never started, or stopped: nobody has it */
        return ublk_find_remove(attach->mark, 0, err);
    if (r == E_NOT_FOUND) {
        error_done(err);
        return 0;
    }
    if (r)
        return r;
    if (info.nr_hw_queues != 1 || info.queue_depth > UBLK_PROTO_DEPTH_MAX ||
        info.max_io_buf_bytes > UBLK_PROTO_MAX_IO || (info.flags & UBLK_PROTO_FLAGS) != UBLK_PROTO_FLAGS)
        return error_set(err, E_PRECONDITION, "/dev/ublkb%u was made in a way that this version cannot serve",
                         info.dev_id);
    frontend->adopted = attach->started = true;
    attach->id = info.dev_id;
    attach->depth = info.queue_depth;
    path_set(attach);
    life_open(attach);
    return 0;
}

/* What the server splits is no limit here; 4 GiB less a block is the most that a request can name. */
static void params_fill(const struct ublk_attach *attach, struct ublk_params *params)
{
    const struct device_state *state = attach->frontend.parts.state;
    const struct volume_limits *limits = &attach->frontend.parts.requests->limits;
    uint8_t shift = state->block_size_bytes == 512 ? 9 : 12;
    uint32_t most = (uint32_t)((UINT32_MAX & ~(uint32_t)(state->block_size_bytes - 1)) >> 9);
    *params = (struct ublk_params){.types = UBLK_PARAM_TYPE_BASIC};
    params->basic.attrs = UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA;
    params->basic.attrs |= state->read_only ? UBLK_ATTR_READ_ONLY : 0;
    params->basic.logical_bs_shift = shift;
    params->basic.physical_bs_shift = 12;
    params->basic.io_min_shift = 12;
    params->basic.max_sectors = UBLK_PROTO_MAX_IO >> 9;
    params->basic.dev_sectors = state->size_bytes >> 9;
    if (!limits->unmap_max_bytes && !limits->same_max_bytes)
        return;
    params->types |= UBLK_PARAM_TYPE_DISCARD;
    params->discard.discard_granularity = (uint32_t)state->block_size_bytes;
    params->discard.max_discard_sectors = most;
    params->discard.max_write_zeroes_sectors = limits->same_max_bytes ? most : 0;
    params->discard.max_discard_segments = 1;
}

static int device_add(struct ublk_attach *attach, struct error *err)
{
    struct ublk_params params;
    struct ublksrv_ctrl_dev_info info = {.dev_id = UBLK_CONTROL_ANY,
                                         .nr_hw_queues = 1,
                                         .queue_depth = UBLK_PROTO_DEPTH,
                                         .max_io_buf_bytes = UBLK_PROTO_MAX_IO,
                                         .flags = UBLK_PROTO_FLAGS,
                                         .ublksrv_flags = attach->mark};
    int r = ublk_control_add(&info, err);
    if (r)
        return r;
    attach->id = info.dev_id;
    attach->depth = info.queue_depth;
    params_fill(attach, &params);
    if ((info.flags & UBLK_PROTO_FLAGS) != UBLK_PROTO_FLAGS)
        return error_set(err, E_UNIMPLEMENTED, "the ublk driver grants 0x%llx of the features 0x%llx",
                         (unsigned long long)info.flags, (unsigned long long)UBLK_PROTO_FLAGS);
    return ublk_control_set_params(attach->id, &params, err);
}

static int device_map(struct ublk_attach *attach, struct error *err)
{
    size_t bytes = ROUND_UP(attach->depth * sizeof(struct ublksrv_io_desc), (size_t)PAGE);
    int r = char_open(attach->id, &attach->fd, err);
    if (r)
        return r;
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, attach->fd, UBLKSRV_CMD_BUF_OFFSET);
    if (map == MAP_FAILED)
        return error_errno(err, errno, "/dev/ublkc%u: cannot map the requests", attach->id);
    attach->map = map;
    attach->map_bytes = bytes;
    return ublk_queue_init(&attach->queue, &attach->frontend.parts, attach->fd, map, attach->depth, err);
}

static void device_unmap(struct ublk_attach *attach)
{
    if (attach->map)
        munmap(attach->map, attach->map_bytes);
    attach->map = NULL;
    attach->fd = fd_close(attach->fd);
}

static void queue_gone(void *context, int result)
{
    struct ublk_attach *attach = context;
    const struct frontend_parts *parts = &attach->frontend.parts;
    char words[128];
    if (result == UBLK_IO_RES_ABORT)
        snprintf(words, sizeof words, "%s was taken away", attach->frontend.path);
    else
        snprintf(words, sizeof words, "%s cannot be served (%s) and was stopped", attach->frontend.path,
                 error_name(result));
    parts->gone(parts->context, words, result != UBLK_IO_RES_ABORT);
}

static int ublk_attach_open(struct frontend *frontend, struct error *err)
{
    struct ublk_attach *attach = of(frontend);
    _cleanup_error_ struct error ignored = {0};
    int r = frontend->adopted ? ublk_control_recover_begin(attach->id, DEATH_WAIT_MS, err)
                              : device_add(attach, err);
    r = r ? r : device_map(attach, err);
    attach->queue.gone = queue_gone;
    attach->queue.context = attach;
    if (r && !frontend->adopted && attach->id != UBLK_CONTROL_ANY) {
        device_unmap(attach);
        ublk_control_delete(attach->id, &ignored);
        attach->id = UBLK_CONTROL_ANY;
    }
    return r;
}

static int ublk_attach_serve(struct frontend *frontend, struct error *err)
{
    (void)err;
    ublk_queue_serve(&of(frontend)->queue);
    return 0;
}

static int ublk_attach_attach(struct frontend *frontend, bool find_only, struct error *err)
{
    struct ublk_attach *attach = of(frontend);
    (void)find_only; /* nothing fails between open() and here */
    path_set(attach);
    attach->started = true;
    int r =
        frontend->adopted ? ublk_control_recover_end(attach->id, err) : ublk_control_start(attach->id, err);
    if (r)
        return r;
    block_node_wait(attach);
    shorten_timeout(attach);
    life_tell(attach);
    frontend->take_over = true;
    return 0;
}

/* ---- serving ---- */

static void ublk_attach_resume(struct frontend *frontend, int log_result)
{
    struct ublk_attach *attach = of(frontend);
    if (attach->queue.slots)
        ublk_queue_resume(&attach->queue, log_result);
}

static int ublk_attach_resize(struct frontend *frontend, uint64_t size_bytes, struct error *err)
{
    return ublk_control_resize(of(frontend)->id, size_bytes, err);
}

static int ublk_attach_abort(struct frontend *frontend, struct error *err)
{
    struct ublk_attach *attach = of(frontend);
    atomic_store(&attach->queue.stopping, true);
    return ublk_control_stop(attach->id, err);
}

/* ---- down ---- */

/* Stopping fails what its users write: first nobody may be left. What the last of them wrote is flushed by
 * its close, and once more here. Between the look and the stop a new one may come, before Linux 7.0. */
static int stop_unused(struct ublk_attach *attach, struct error *err)
{
    int r = ublk_control_try_stop(attach->id, err);
    if (r != E_UNIMPLEMENTED)
        return r;
    error_done(err);
    if (ublk_find_in_use(attach->id))
        return error_set(err, E_BUSY, "%s is still in use", attach->frontend.path);
    return ublk_control_stop(attach->id, err);
}

static int ublk_attach_detach(struct frontend *frontend, struct error *err)
{
    struct ublk_attach *attach = of(frontend);
    if (attach->id == UBLK_CONTROL_ANY || !attach->started)
        return 0;
    bool was_stopping = atomic_exchange(&attach->queue.stopping, true);
    int r = stop_unused(attach, err);
    if (r)
        atomic_store(&attach->queue.stopping, was_stopping);
    return r;
}

static int ublk_attach_close(struct frontend *frontend, bool force, struct error *err)
{
    struct ublk_attach *attach = of(frontend);
    (void)force; /* stopped already: nothing holds it */
    if (attach->id == UBLK_CONTROL_ANY)
        return 0;
    device_unmap(attach);
    int r = ublk_control_delete(attach->id, err);
    if (r == 0)
        attach->id = UBLK_CONTROL_ANY;
    return r;
}

static void ublk_attach_stop(struct frontend *frontend)
{
    atomic_store(&of(frontend)->queue.stopping, true);
}

static void ublk_attach_done(struct frontend *frontend)
{
    struct ublk_attach *attach = of(frontend);
    ublk_queue_done(&attach->queue);
    device_unmap(attach);
    fd_close(attach->life_fd);
    free(attach);
}

static const struct frontend_ops ublk_attach_ops = {
    .adopt = ublk_attach_adopt,
    .open = ublk_attach_open,
    .serve = ublk_attach_serve,
    .attach = ublk_attach_attach,
    .hand_over = ublk_attach_hand_over,
    .resize = ublk_attach_resize,
    .resume = ublk_attach_resume,
    .detach = ublk_attach_detach,
    .close = ublk_attach_close,
    .stop = ublk_attach_stop,
    .abort = ublk_attach_abort,
    .done = ublk_attach_done,
};

int ublk_attach_check(struct error *err)
{
    struct utsname system;
    const char *problem = uname(&system) == 0 ? ublk_kernels_problem(system.release) : NULL;
    if (problem)
        return error_set(err, E_UNIMPLEMENTED, "Linux %s: %s", system.release, problem);
    uint64_t features = 0;
    int r = ublk_control_features(&features, err);
    if (r == 0 && (features & UBLK_PROTO_FLAGS) != UBLK_PROTO_FLAGS)
        return error_set(err, E_UNIMPLEMENTED, "the ublk driver has 0x%llx of the features 0x%llx",
                         (unsigned long long)features, (unsigned long long)UBLK_PROTO_FLAGS);
    return r;
}

int ublk_attach_new(struct frontend **ret, const struct frontend_parts *parts, struct error *err)
{
    int r = ublk_attach_check(err);
    if (r)
        return r;
    struct ublk_attach *attach = calloc(1, sizeof *attach);
    if (!attach)
        return error_errno(err, ENOMEM, "no memory for the ublk frontend");
    attach->frontend = (struct frontend){.ops = &ublk_attach_ops, .parts = *parts};
    attach->mark = ublk_find_mark(parts->state->volume_id, parts->state->dir);
    attach->id = UBLK_CONTROL_ANY;
    attach->fd = attach->life_fd = -1;
    r = ublk_namespace_enter(parts->state->dir, err);
    if (r)
        free(attach);
    else
        *ret = &attach->frontend;
    return r;
}
