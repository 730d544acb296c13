/*
 * The frontend "fuse" as a whole: the mount and its descriptors (which the holder keeps), the loop device
 * over the file, and fuse_frontend.c, which serves it. Called through frontend.h by device.c and
 * device_end.c; each function there says on which thread.
 */
#include "datapath/device/fuse_attach.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/device/fuse_frontend.h"
#include "datapath/device/fuse_mount.h"
#include "datapath/device/fuse_uring.h"
#include "datapath/device/holder_client.h"
#include "datapath/device/loop_device.h"

struct fuse_attach {
    struct frontend frontend;
    struct fuse_frontend data;
    struct fuse_uring uring;
    struct fuse_ledger ledger;
    int ledger_fd;
    int fds[FUSE_CHANNELS];
    bool lost;       /* what the predecessor had taken can neither be sent again nor found in a ledger */
    char file[4096]; /* the backing file's path */
};

#define LEDGER_NAME "requests" /* in the holder */

static const char *const fuse_names[FUSE_CHANNELS] = {"fuse0", "fuse1"};

static struct fuse_attach *of(struct frontend *frontend)
{
    return container_of(frontend, struct fuse_attach, frontend);
}

static const char *mount_point_of(const struct fuse_attach *attach)
{
    return attach->frontend.parts.state->mount_point;
}

/* ---- up ---- */

/* A connection that was aborted or unmounted says so, and serves nobody. */
static bool fuse_is_dead(int fd)
{
    struct pollfd poll_fd = {.fd = fd};
    return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLERR | POLLNVAL));
}

/* The predecessor's, or a new one, which is the holder's before any request is in it. */
static int ledger_open(struct fuse_attach *attach, bool *ret_found, struct error *err)
{
    int holder = attach->frontend.parts.holder;
    *ret_found = false;
    int r = holder_client_get(holder, LEDGER_NAME, &attach->ledger_fd, err);
    r = r ? r : fuse_ledger_adopt(&attach->ledger, attach->ledger_fd, err);
    if (r == 0) {
        *ret_found = true;
        return 0;
    }
    if (r != E_NOT_FOUND && r != E_CORRUPT)
        return r;
    error_done(err);
    attach->ledger_fd = fd_close(attach->ledger_fd);
    r = fuse_ledger_create(&attach->ledger, &attach->ledger_fd, err);
    return r ? r : holder_client_put(holder, LEDGER_NAME, attach->ledger_fd, err);
}

/* What the predecessor had taken and not answered: the kernel sends it again, or the ledger has it. */
static int requests_adopt(struct fuse_attach *attach, struct error *err)
{
    bool found;
    int r = ledger_open(attach, &found, err);
    if (r)
        return r;
    fuse_frontend_set_ledger(&attach->data, &attach->ledger);
    bool resent = attach->frontend.adopted && attach->frontend.parts.state->resend &&
                  fuse_frontend_resend(&attach->data, attach->fds[0]) == 0;
    if (!attach->frontend.adopted || resent)
        fuse_ledger_clear(&attach->ledger);
    else if (found)
        log_info("%u requests of the crashed process are taken up from the holder's memory",
                 fuse_frontend_claim(&attach->data, attach->fds));
    else
        attach->lost = true;
    return 0;
}

static int fuse_attach_adopt(struct frontend *frontend, bool log_ours, struct error *err)
{
    struct fuse_attach *attach = of(frontend);
    int r = log_ours ? 0 : fuse_abort(mount_point_of(attach), err); /* seen to be dead below */
    if (r)
        return r;
    for (int i = 0; i < FUSE_CHANNELS; i++) {
        r = holder_client_get(frontend->parts.holder, fuse_names[i], &attach->fds[i], err);
        if (r && r != E_NOT_FOUND)
            return r;
        error_done(err);
    }
    if (fuse_is_dead(attach->fds[0]) || fuse_is_dead(attach->fds[1])) {
        log_warning("the earlier FUSE mount is dead: it is made anew");
        for (int i = 0; i < FUSE_CHANNELS; i++)
            attach->fds[i] = fd_close(attach->fds[i]);
    }
    frontend->adopted = attach->fds[0] >= 0;
    if (frontend->adopted) {
        loop_device_find(attach->file, frontend->path, err);
        error_done(err);
    }
    return requests_adopt(attach, err);
}

/* Loop devices over the file of a mount that is dead: nothing can be read there any more. */
static int clear_dead_loops(struct fuse_attach *attach, struct error *err)
{
    char path[LOOP_DEVICE_PATH_MAX];
    int r;
    while ((r = loop_device_find(attach->file, path, err)) == 0) {
        r = loop_device_clear(path, attach->file, err);
        if (r)
            return error_wrap(err, "left by an earlier mooring-device that nobody took over");
    }
    if (r == E_NOT_FOUND)
        error_done(err);
    return r == E_NOT_FOUND ? 0 : r;
}

/* A wish: where it cannot be, /dev/fuse serves as well. Before there is a mount, whose INIT it is part of. */
static void uring_prepare(struct fuse_attach *attach)
{
    const struct frontend_parts *parts = &attach->frontend.parts;
    _cleanup_error_ struct error err = {0};
    if (!parts->state->fuse_io_uring)
        return;
    int r = fuse_uring_check(&err);
    r = r ? r : fuse_uring_init(&attach->uring, parts, &err);
    if (r)
        log_warning("fuse_io_uring is asked for and cannot be, requests come by /dev/fuse: %s",
                    error_text(&err));
    else
        attach->data.agreement.uring_wanted = true;
}

/* Each descriptor is the holder's before the next step: a crash in between leaves what can be taken over. Not
 * where io_uring is wanted: the mount must end with this process. */
static int fuse_attach_open(struct frontend *frontend, struct error *err)
{
    struct fuse_attach *attach = of(frontend);
    int *fds = attach->fds, holder = frontend->parts.holder;
    int r = 0;
    if (fds[0] < 0) {
        uring_prepare(attach);
        r = clear_dead_loops(attach, err);
        r = r ? r : fuse_mount(mount_point_of(attach), frontend->parts.state->volume_id, &fds[0], err);
        if (attach->data.agreement.uring_wanted)
            return r;
        r = r ? r : holder_client_put(holder, fuse_names[0], fds[0], err);
    }
    if (r == 0 && fds[1] < 0) {
        r = fuse_clone(fds[0], &fds[1], err);
        r = r ? r : holder_client_put(holder, fuse_names[1], fds[1], err);
    }
    return r;
}

static int fuse_attach_serve(struct frontend *frontend, struct error *err)
{
    struct fuse_attach *attach = of(frontend);
    for (int i = 0; i < FUSE_CHANNELS && attach->fds[i] >= 0; i++)
        fuse_frontend_add(&attach->data, attach->fds[i]);
    if (!attach->lost) {
        fuse_frontend_recover(&attach->data);
        return 0;
    }
    _cleanup_error_ struct error ignored = {0};
    fuse_abort(mount_point_of(attach), &ignored);
    return error_set(err, E_UNIMPLEMENTED,
                     "the crashed process was of a version that kept no ledger, and this kernel has no "
                     "FUSE_NOTIFY_RESEND (Linux 6.9): the requests that it had taken are lost, the block "
                     "device was aborted");
}

static int fuse_attach_attach(struct frontend *frontend, bool find_only, struct error *err)
{
    struct fuse_attach *attach = of(frontend);
    const struct device_state *state = frontend->parts.state;
    int r = loop_device_find(attach->file, frontend->path, err);
    if (r == E_NOT_FOUND && !find_only) {
        error_done(err);
        r = loop_device_create(attach->file, (uint32_t)state->block_size_bytes, state->read_only,
                               frontend->path, err);
    }
    frontend->take_over = !atomic_load(&attach->uring.active);
    if (r == 0 && frontend->take_over && attach->fds[1] < 0) /* wanted, and INIT did not grant it */
        r = holder_client_put(frontend->parts.holder, fuse_names[0], attach->fds[0], err);
    return r;
}

static int fuse_attach_hand_over(struct frontend *frontend, int holder, struct error *err)
{
    struct fuse_attach *attach = of(frontend);
    int r = holder_client_put(holder, LEDGER_NAME, attach->ledger_fd, err);
    if (atomic_load(&attach->uring.active))
        return r;
    for (int i = 0; i < FUSE_CHANNELS && attach->fds[i] >= 0 && r == 0; i++)
        r = holder_client_put(holder, fuse_names[i], attach->fds[i], err);
    return r;
}

/* ---- serving ---- */

/*
 * The kernel's idea of the file's size. Not by a GETATTR, whose answer it drops when a write ends meanwhile;
 * nor by truncate(2), which waits for writes that may wait for this process's successor. A byte that is
 * stored behind the end moves the end; nobody reads it, the file is open for direct I/O only.
 */
static int fuse_attach_resize(struct frontend *frontend, uint64_t size_bytes, struct error *err)
{
    struct fuse_attach *attach = of(frontend);
    int r = fuse_notify_size(attach->fds[0], FUSE_PROTO_VOLUME_INO, size_bytes, err);
    return r ? r : loop_device_resize(frontend->path, attach->file, size_bytes, err);
}

static void fuse_attach_resume(struct frontend *frontend, int log_result)
{
    fuse_frontend_resume(&of(frontend)->data, log_result);
    fuse_uring_resume(&of(frontend)->uring, log_result);
}

/* Nobody reads the mount any more: where it still lives, its users would wait for ever. */
static void data_gone(void *context, int result)
{
    struct fuse_attach *attach = context;
    const struct frontend_parts *parts = &attach->frontend.parts;
    char words[128];
    if (result == -ENODEV) {
        parts->gone(parts->context, "the FUSE mount was taken away", false);
        return;
    }
    snprintf(words, sizeof words, "the FUSE mount cannot be read (%s) and was aborted", error_name(result));
    parts->gone(parts->context, words, true);
}

static void data_switched(void *context)
{
    struct fuse_attach *attach = context;
    log_warning(
        "requests come by io_uring (fuse_io_uring): a crash of this process ends the volume's I/O with "
        "errors, nobody can take it over");
    fuse_uring_serve(&attach->uring, attach->fds[0]);
}

static int fuse_attach_abort(struct frontend *frontend, struct error *err)
{
    return fuse_abort(mount_point_of(of(frontend)), err);
}

/* ---- down ---- */

static int fuse_attach_detach(struct frontend *frontend, struct error *err)
{
    if (frontend->path[0] == '\0')
        return 0;
    return loop_device_clear(frontend->path, of(frontend)->file, err);
}

static int fuse_attach_close(struct frontend *frontend, bool force, struct error *err)
{
    const char *mount_point = mount_point_of(of(frontend));
    int r = fuse_unmount(mount_point, err);
    if (r && force)
        fuse_abort(mount_point, err);
    return r;
}

static void fuse_attach_stop(struct frontend *frontend)
{
    fuse_frontend_stop(&of(frontend)->data);
    fuse_uring_stop(&of(frontend)->uring);
}

static void fuse_attach_done(struct frontend *frontend)
{
    struct fuse_attach *attach = of(frontend);
    fuse_frontend_done(&attach->data);
    fuse_uring_done(&attach->uring);
    fuse_ledger_done(&attach->ledger);
    fd_close(attach->ledger_fd);
    for (int i = 0; i < FUSE_CHANNELS; i++)
        fd_close(attach->fds[i]);
    free(attach);
}

static const struct frontend_ops fuse_attach_ops = {
    .adopt = fuse_attach_adopt,
    .open = fuse_attach_open,
    .serve = fuse_attach_serve,
    .attach = fuse_attach_attach,
    .hand_over = fuse_attach_hand_over,
    .resize = fuse_attach_resize,
    .resume = fuse_attach_resume,
    .detach = fuse_attach_detach,
    .close = fuse_attach_close,
    .stop = fuse_attach_stop,
    .abort = fuse_attach_abort,
    .done = fuse_attach_done,
};

int fuse_attach_new(struct frontend **ret, const struct frontend_parts *parts, struct error *err)
{
    struct fuse_attach *attach = calloc(1, sizeof *attach);
    if (!attach)
        return error_errno(err, ENOMEM, "no memory for the FUSE frontend");
    attach->frontend = (struct frontend){.ops = &fuse_attach_ops, .parts = *parts};
    attach->fds[0] = attach->fds[1] = attach->ledger_fd = -1;
    snprintf(attach->file, sizeof attach->file, "%s/%s", mount_point_of(attach), FUSE_PROTO_VOLUME_NAME);
    int r = fuse_frontend_init(&attach->data, parts->loop, parts->state, parts->requests, parts->log,
                               parts->buffers, err);
    if (r) {
        free(attach);
        return r;
    }
    attach->data.gone = attach->uring.gone = data_gone;
    attach->data.switched = data_switched;
    attach->data.context = attach->uring.context = attach;
    *ret = &attach->frontend;
    return 0;
}
