/*
 * The guards around a volume's bytes (invariants 1 and 5), for whichever backend holds them. Each command is
 * a column of steps: mark the volume "data" where that is due, the verb itself, a sync where it must be
 * stable.
 *
 * Runs on the loops; any number of them use one image at once. They share, under a mutex that is never held
 * across I/O, who waits for a sync and who for the record of a failure. Records are written on offload
 * threads.
 *
 * At most one sync of an image is in flight: the kernel reports an error once, to one caller, so two at a
 * time could let one lie. Those that arrive meanwhile share the next one, which is submitted after they came.
 */
#include "datapath/store/image.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "datapath/store/image_internal.h"
#include "datapath/store/scrub_internal.h"

static void image_begin(struct image_io *io);
static void image_mark(struct image_io *io);
static int image_mark_work(struct loop_work *work);
static void image_mark_done(struct loop_op *op, int res, unsigned flags);
static void image_start(struct image_io *io, enum image_step step);
static void image_start_done(struct loop_op *op, int res, unsigned flags);
static void image_probe(struct image_io *io, int res);
static void image_probe_done(struct image_io *io, int res);
static void image_sync(struct image_io *io);
static void image_sync_run(struct loop_message *message);
static void image_sync_done(struct image_io *io, int res);

/* ---- answering ---- */

static void image_answer_run(struct loop_message *message)
{
    struct image_io *io = container_of(message, struct image_io, message);

    io->done(io, io->result);
}

/* From anywhere: done() is called by io's own loop, later. */
static void image_answer_later(struct image_io *io, int result)
{
    io->result = result;
    io->message.run = image_answer_run;
    loop_post(io->loop, &io->message);
}

void image_answer_list(struct io_list *list)
{
    struct image_io *next;

    for (struct image_io *io = list->first; io; io = next) {
        next = io->next;
        image_answer_later(io, io->result);
    }
}

/* ---- a command comes in ---- */

static bool image_io_fits(const struct image *image, const struct image_io *io)
{
    uint32_t block = image->volume->block_size_bytes;
    bool transfer = io->verb == IMAGE_READ || io->verb == IMAGE_WRITE;

    if (io->offset % block || io->length % block)
        return false;
    if (transfer && (io->length > IMAGE_IO_MAX || io->iov.iov_len < io->length))
        return false;
    return size_range_fits(io->offset, io->length, volume_size_bytes(image->volume));
}

/* What was promised to a thick volume stays its own, whatever is deallocated. */
static void image_keep_space(struct image_io *io)
{
    if (io->image->volume->thick && io->verb == IMAGE_UNMAP) {
        io->verb = IMAGE_WRITE_ZEROES;
        io->allocate = true;
    }
}

void image_submit(struct image *image, struct loop *loop, struct image_io *io)
{
    bool changes = io->verb != IMAGE_READ && io->verb != IMAGE_FLUSH;

    io->image = image;
    io->loop = loop;
    io->progress = 0;
    image_keep_space(io);
    if (io->verb != IMAGE_FLUSH && !image_io_fits(image, io))
        image_answer_later(io, E_OUT_OF_RANGE);
    else if (io->verb != IMAGE_READ && image_write_failed(image))
        image_refuse_one(io);
    else if (io->verb == IMAGE_FLUSH)
        image_sync(io);
    else if (io->length == 0)
        image_answer_later(io, 0);
    else if (!changes)
        image_start(io, IMAGE_STEP_DATA);
    else if (!image_gate(io))
        image_change(io);
}

void image_change(struct image_io *io)
{
    if (image_write_failed(io->image)) /* it may have waited since it was submitted */
        image_refuse_one(io);
    else if (volume_write_marks(io->image->volume, io->epoch, io->generation))
        image_mark(io);
    else
        image_begin(io);
}

static void image_begin(struct image_io *io)
{
    image_stable_begin(io);
    image_start(io, IMAGE_STEP_DATA);
}

/* ---- the record says "data" before the first byte changes ---- */

static void image_mark(struct image_io *io)
{
    io->work = (struct loop_work){.work = image_mark_work, .op.done = image_mark_done};
    loop_offload(io->loop, &io->work);
}

static int image_mark_work(struct loop_work *work)
{
    struct image_io *io = container_of(work, struct image_io, work);
    _cleanup_error_ struct error err = {0};
    int rc = volume_mark_data(io->image->volume, io->epoch, io->generation, &err);

    if (rc)
        log_warning("volume %s: a write fails because its record cannot be written: %s",
                    io->image->volume->id, error_text(&err));
    return rc;
}

static void image_mark_done(struct loop_op *op, int res, unsigned flags)
{
    struct image_io *io = container_of(op, struct image_io, work.op);

    (void)flags;
    if (res)
        io->done(io, res);
    else if (image_write_failed(io->image))
        image_refuse_one(io);
    else
        image_begin(io);
}

/* ---- the verb ---- */

static void image_start(struct image_io *io, enum image_step step)
{
    io->step = step;
    if (io->iov.iov_base)
        io->rest = (struct iovec){(char *)io->iov.iov_base + io->progress, io->length - io->progress};
    io->op.done = image_start_done;
    io->image->ops->image_start(io->image->backend, io->loop, io);
}

/* Results of an operation that was refused before it began: nothing is known to be lost. */
static bool image_never_began(int res)
{
    return res == -EBUSY || res == -EINVAL || res == -EFAULT || res == -ECANCELED;
}

static bool image_is_full(int res)
{
    return res == -ENOSPC || res == -EDQUOT;
}

/* The backend's system calls end here, so this is where their errno is translated. */
static void image_data_failed(struct image_io *io, int res)
{
    if (io->verb == IMAGE_WRITE && io->stable && !image_is_full(res) && !image_never_began(res)) {
        image_probe(io, res);
        return;
    }
    if (io->verb != IMAGE_READ)
        image_stable_end(io, false);
    io->done(io, image_is_full(res) ? E_NO_SPACE : res);
}

/*
 * A write that was to be stable failed: the write, or the flush that came with it, and with that everybody's
 * who relied on the next one? The same write without the flush tells. Where others of this image relied on it
 * it takes no more changes meanwhile, and no flush. Of other volumes, flush.c tells those that were answered
 * meanwhile from those that are not concerned.
 */
static void image_probe(struct image_io *io, int res)
{
    io->lost = io->fua || image_stable_disturbed(io);
    if (io->lost)
        image_fail_unrecorded(io->image);
    io->result = res;
    io->stable = false;
    image_start(io, IMAGE_STEP_PROBE);
}

static void image_probe_done(struct image_io *io, int res)
{
    struct store *store = io->image->volume->store;

    if (res > 0)
        store_flush_failed(store, io->flush_begun, io->image->volume->id, io->image);
    image_stable_end(io, false);
    if (io->lost)
        image_fail_one(io, io->result);
    if (res > 0)
        store_flush_record(store, io->loop);
    if (!io->lost)
        io->done(io, io->result);
}

/* Where a scrub could not read, this is to be read again. */
static void image_note_change(const struct image_io *io)
{
    struct volume *volume = io->image->volume;

    if (io->verb != IMAGE_READ && atomic_load_explicit(&volume->suspect, memory_order_relaxed))
        scrub_note_change(volume, io->offset, io->length);
}

static void image_transferred(struct image_io *io, int bytes)
{
    if (bytes == 0) { /* the file ends before the volume does */
        image_data_failed(io, -EIO);
        return;
    }
    io->progress += (uint64_t)bytes;
    if (io->progress < io->length) {
        image_start(io, IMAGE_STEP_DATA);
        return;
    }
    if (io->verb == IMAGE_WRITE)
        image_stable_end(io, io->stable);
    image_note_change(io);
    if (io->verb == IMAGE_WRITE && io->stable && image_write_failed(io->image))
        image_refuse_one(io); /* the disk may have lost it before it was flushed */
    else
        io->done(io, 0);
}

static void image_range_changed(struct image_io *io)
{
    image_stable_end(io, false);
    image_note_change(io);
    if (io->fua)
        image_sync(io);
    else
        io->done(io, 0);
}

static void image_start_done(struct loop_op *op, int res, unsigned flags)
{
    struct image_io *io = container_of(op, struct image_io, op);
    bool zeroing = io->verb == IMAGE_WRITE_ZEROES && io->allocate;

    (void)flags;
    if (io->step == IMAGE_STEP_SYNC)
        image_sync_done(io, res);
    else if (io->step == IMAGE_STEP_PROBE)
        image_probe_done(io, res);
    else if (res == -EOPNOTSUPP && zeroing && io->step == IMAGE_STEP_DATA)
        image_start(io, IMAGE_STEP_PUNCH);
    else if (res < 0)
        image_data_failed(io, res);
    else if (io->verb == IMAGE_READ || io->verb == IMAGE_WRITE)
        image_transferred(io, res);
    else if (io->step == IMAGE_STEP_PUNCH)
        image_start(io, IMAGE_STEP_ALLOCATE);
    else
        image_range_changed(io);
}

/* ---- syncs: one at a time ---- */

static void image_sync(struct image_io *io)
{
    struct image *image = io->image;
    bool refused, needless, first;

    pthread_mutex_lock(&image->lock);
    if (io->verb == IMAGE_FLUSH)
        image_stable_flush_locked(image);
    refused = image_write_failed(image);
    needless = !refused && image_stable_is_all(image);
    first = !refused && !needless && !image->syncing;
    if (!refused && !needless)
        io_list_add(first ? &image->riders : &image->waiting, io);
    if (first) {
        image->syncing = true;
        image_stable_sync_begin(image);
    }
    pthread_mutex_unlock(&image->lock);
    if (refused)
        image_refuse_one(io);
    else if (needless)
        image_answer_later(io, 0);
    else if (first)
        image_start(io, IMAGE_STEP_SYNC);
}

/* The next sync is started by its first rider, on that one's loop. */
static void image_sync_run(struct loop_message *message)
{
    image_start(container_of(message, struct image_io, message), IMAGE_STEP_SYNC);
}

/*
 * A failure is everybody's: of those that shared this sync, and of those that wait for the next, which would
 * say nothing about what was lost. So is one that was met elsewhere while this sync ran: by a stable write,
 * or by another volume.
 */
static void image_sync_done(struct image_io *io, int res)
{
    struct image *image = io->image;
    struct store *store = image->volume->store;
    struct loop *loop = io->loop;
    bool failed = res < 0 && !image_never_began(res), refused, record = false;
    struct image_io *starter;
    struct io_list ended;

    if (failed)
        store_flush_failed(store, image->stable.sync_begun, image->volume->id, image);
    io_list_init(&ended);
    pthread_mutex_lock(&image->lock);
    refused = !failed && image_write_failed(image);
    io_list_move(&ended, &image->riders);
    io_list_set_result(&ended, res);
    if (res >= 0)
        image_stable_sync_end(image);
    if (failed || refused) {
        io_list_set_result(&image->waiting, E_WRITE_FAILED);
        io_list_move(&ended, &image->waiting);
    }
    if (failed)
        record = image_fail_locked(image, &ended);
    io_list_move(&image->riders, &image->waiting);
    starter = image->riders.first;
    image->syncing = starter != NULL;
    if (starter)
        image_stable_sync_begin(image);
    pthread_mutex_unlock(&image->lock);
    if (starter) {
        starter->message.run = image_sync_run;
        loop_post(starter->loop, &starter->message);
    }
    if (record)
        image_record(image, loop);
    if (failed)
        store_flush_record(store, loop);
    if (refused)
        image_refuse(image, loop, &ended);
    else
        image_answer_list(&ended);
}

/* ---- the rest ---- */

int image_extent(struct image *image, uint64_t offset, uint64_t length, bool *ret_mapped,
                 uint64_t *ret_length)
{
    if (length == 0 || !size_range_fits(offset, length, volume_size_bytes(image->volume)))
        return E_OUT_OF_RANGE;
    return image->ops->image_extent(image->backend, offset, length, ret_mapped, ret_length);
}

int image_discard_all(struct image *image, struct error *err)
{
    int r;

    if (atomic_load(&image->gates) > 0)
        return error_set(err, E_BUSY, "volume %s is held, or a copy of it is under way: retry later",
                         image->volume->id);
    r = image->ops->image_discard_all(image->backend, image->volume->thick, err);
    if (r < 0) /* it may have been the flush */
        store_flush_record(image->volume->store, NULL);
    if (r == E_OK && atomic_load(&image->volume->suspect))
        scrub_note_change(image->volume, 0, volume_size_bytes(image->volume));
    return r;
}

int image_new(struct volume *volume, struct image **ret, struct error *err)
{
    _cleanup_free_ struct image *image = calloc(1, sizeof(*image));
    struct volume_record record;
    int rc;

    if (!image)
        return error_errno(err, ENOMEM, "volume %s: image", volume->id);
    image->volume = volume;
    image->ops = volume->store->ops;
    io_list_init(&image->riders);
    io_list_init(&image->waiting);
    io_list_init(&image->failed);
    image_stable_init(image);
    rc = volume_snapshot_record(volume, &record);
    if (rc)
        return error_errno(err, -rc, "volume %s: image", volume->id);
    rc = image->ops->image_open(volume->store->backend, &record, &image->backend, err);
    volume_record_done(&record);
    if (rc)
        return rc;
    pthread_mutex_init(&image->lock, NULL);
    image_gate_init(image);
    *ret = TAKE_PTR(image);
    return 0;
}

struct image *image_free(struct image *image)
{
    if (!image)
        return NULL;
    image->ops->image_close(image->backend);
    image_gate_done(image);
    pthread_mutex_destroy(&image->lock);
    free(image);
    return NULL;
}
