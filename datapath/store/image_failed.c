/*
 * How an image becomes write-failed (invariant 1): in memory at once, so that nothing is answered as stable
 * any more, then durably, and only then is anybody answered who was told of it.
 *
 * Runs on the loops; image_lose() and image_record_lost() on threads that block as well. Who waits for the
 * record is kept under the image's lock. Records are written on offload threads.
 */
#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "datapath/store/image_internal.h"

static int image_record_work(struct loop_work *work);
static void image_record_done(struct loop_op *op, int res, unsigned flags);

/*
 * The volume's flag alone would not do: a commit that clears an older failure may take it away again while a
 * new one is still being recorded.
 */
bool image_write_failed(const struct image *image)
{
    return atomic_load(&image->recording) || volume_write_failed(image->volume);
}

/* ---- who is told ---- */

/*
 * E_WRITE_FAILED, but not before the failure is on disk: what comes while it is being recorded waits for
 * that, and what comes after it could not be recorded tries again. loop is the one that runs this.
 */
void image_refuse(struct image *image, struct loop *loop, struct io_list *list)
{
    bool record = false;

    io_list_set_result(list, E_WRITE_FAILED);
    pthread_mutex_lock(&image->lock);
    if (image->recording || image->unrecorded)
        record = image_fail_locked(image, list);
    pthread_mutex_unlock(&image->lock);
    if (record)
        image_record(image, loop);
    image_answer_list(list);
}

void image_refuse_one(struct image_io *io)
{
    struct io_list list;

    io_list_init(&list);
    io_list_add(&list, io);
    image_refuse(io->image, io->loop, &list);
}

bool image_fail_locked(struct image *image, struct io_list *list)
{
    bool begins = !image->recording;

    atomic_store(&image->volume->write_failed, true);
    io_list_move(&image->failed, list);
    image->recording = true;
    return begins;
}

void image_fail_one(struct image_io *io, int result)
{
    struct image *image = io->image;
    struct io_list list;
    bool record;

    io_list_init(&list);
    io_list_add(&list, io);
    io_list_set_result(&list, result);
    pthread_mutex_lock(&image->lock);
    record = image_fail_locked(image, &list);
    pthread_mutex_unlock(&image->lock);
    if (record)
        image_record(image, io->loop);
}

/* ---- nobody is told yet ---- */

void image_fail_unrecorded(struct image *image)
{
    pthread_mutex_lock(&image->lock);
    atomic_store(&image->volume->write_failed, true);
    image->unrecorded = true;
    pthread_mutex_unlock(&image->lock);
}

void image_lose(struct image *image, uint64_t begun, const char *whose)
{
    pthread_mutex_lock(&image->lock);
    if (image_stable_may_lose(image, begun)) {
        atomic_store(&image->volume->write_failed, true);
        image->unrecorded = true;
        str_copy(image->lost_by, sizeof(image->lost_by), whose);
    }
    pthread_mutex_unlock(&image->lock);
}

bool image_is_unrecorded(struct image *image)
{
    bool unrecorded;

    pthread_mutex_lock(&image->lock);
    unrecorded = image->unrecorded && !image->recording;
    pthread_mutex_unlock(&image->lock);
    return unrecorded;
}

void image_record_lost(struct image *image, struct loop *loop)
{
    struct io_list none;
    bool record;

    io_list_init(&none);
    pthread_mutex_lock(&image->lock);
    record = image->unrecorded && image_fail_locked(image, &none);
    pthread_mutex_unlock(&image->lock);
    if (!record)
        return;
    if (loop) {
        image_record(image, loop);
    } else {
        volume_ref(image->volume);
        image_record_done(&image->record.op, image_record_work(&image->record), 0);
    }
}

/* ---- the record ---- */

void image_record(struct image *image, struct loop *loop)
{
    volume_ref(image->volume); /* whoever is answered may let go of it */
    image->record = (struct loop_work){.work = image_record_work, .op.done = image_record_done};
    loop_offload(loop, &image->record);
}

static bool is_recorded(struct volume *volume)
{
    bool recorded;

    pthread_mutex_lock(&volume->view_lock);
    recorded = volume->record.write_failed;
    pthread_mutex_unlock(&volume->view_lock);
    return recorded;
}

static void log_failure(const struct image *image, const char *lost_by, int rc, const struct error *err)
{
    const char *id = image->volume->id;

    if (rc)
        log_error("volume %s: its disk failed to make writes stable, and that cannot be recorded: %s", id,
                  error_text(err));
    else if (*lost_by)
        log_error("volume %s: its newest writes may be lost, since the disk failed to flush those of %s; it "
                  "takes no writes until an operator clears it",
                  id, lost_by);
    else
        log_error("volume %s: its disk failed to make writes stable; it takes no writes until an operator "
                  "clears it",
                  id);
}

static int image_record_work(struct loop_work *work)
{
    struct image *image = container_of(work, struct image, record);
    char lost_by[sizeof(image->lost_by)];
    _cleanup_error_ struct error err = {0};
    bool known = is_recorded(image->volume);
    int rc = volume_mark_write_failed(image->volume, &err);

    pthread_mutex_lock(&image->lock);
    str_copy(lost_by, sizeof(lost_by), image->lost_by);
    pthread_mutex_unlock(&image->lock);
    if (!known)
        log_failure(image, lost_by, rc, &err);
    return rc;
}

/* When even the record cannot be written there is no better answer to wait for: the volume refuses writes
 * while this process lives, and each refusal tries again. */
static void image_record_done(struct loop_op *op, int res, unsigned flags)
{
    struct image *image = container_of(op, struct image, record.op);
    struct io_list ended;

    (void)flags;
    io_list_init(&ended);
    pthread_mutex_lock(&image->lock);
    image->recording = false;
    image->unrecorded = res != 0;
    if (res == 0)
        image->lost_by[0] = '\0';
    io_list_move(&ended, &image->failed);
    pthread_mutex_unlock(&image->lock);
    image_answer_list(&ended);
    volume_unref(image->volume);
}
