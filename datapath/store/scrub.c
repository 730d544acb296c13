/*
 * Reads all data files of a pool, slowly, for what the disk cannot read. Owns the thread that does, the
 * schedule and the rate; what is known is in scrub_state.c. A step is one read at most, and opens its file
 * anew: so nothing waits for a scrub longer than for that read, and a deletion frees its space at once.
 *
 * A read keeps its file's lock, and what allocates, discards or shares there waits for it. So it must not be
 * put off for the disk's other users: it has the lowest priority of the common class, not the idle one, which
 * some schedulers let wait for 10 s. Instead the scrub itself stands back, three times as long as it read:
 * the busier the disk, the longer.
 */
#include "datapath/store/scrub.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/ioprio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/image.h"
#include "datapath/store/scrub_internal.h"
#include "datapath/store/snapshot.h"

#define SECOND_NS UINT64_C(1000000000)
#define CHUNK_BYTES (256 * KIB)
#define PIECE_BYTES (4 * KIB)              /* to find out where a chunk cannot be read */
#define EXTENT_BYTES (64 * MIB)            /* the file's extents are asked for again after that */
#define STAND_BACK 3                       /* times as long as a step took … */
#define STAND_BACK_MAX_NS (10 * SECOND_NS) /* … at most */
#define IDLE_NS (60 * SECOND_NS)
#define FIRST_ROUND_S 3600 /* after a pool is served for the first time */
#define SAVE_NS (30 * SECOND_NS)
#define SAVE_URGENT_NS (2 * SECOND_NS)
#define RETRY_NS SECOND_NS
#define TRIES_MAX 5u
#define TOLD_MAX 16u /* lines in the log about one file in a round */

/* ---- life ---- */

static uint64_t host_now_ns(void)
{
    return time_now_ns();
}

static int64_t host_unix_s(void)
{
    return (int64_t)time(NULL);
}

struct scrub *scrub_free(struct scrub *scrub)
{
    if (!scrub)
        return NULL;
    scrub_state_done(scrub);
    scrub_seen_done(&scrub->seen);
    pthread_mutex_destroy(&scrub->lock);
    pthread_cond_destroy(&scrub->wake);
    free(scrub->buffer);
    free(scrub);
    return NULL;
}

static struct scrub *scrub_new(struct store *store, const struct scrub_options *options)
{
    struct scrub *scrub = calloc(1, sizeof(*scrub));
    pthread_condattr_t attributes;

    if (!scrub)
        return NULL;
    scrub->store = store;
    scrub->options = *options;
    if (!scrub->options.now_ns)
        scrub->options.now_ns = host_now_ns;
    if (!scrub->options.unix_s)
        scrub->options.unix_s = host_unix_s;
    pthread_mutex_init(&scrub->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&scrub->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    scrub->buffer = aligned_alloc(IMAGE_ALIGN, CHUNK_BYTES);
    return scrub->buffer ? scrub : scrub_free(scrub);
}

/* What cannot be read is no reason not to serve: then nothing is known. */
int store_scrub_open(struct store *store, const struct scrub_options *options, struct error *err)
{
    _cleanup_error_ struct error problem = {0};
    struct scrub *scrub = scrub_new(store, options);
    int r;

    if (!scrub)
        return error_errno(err, ENOMEM, "the scrub of the pool");
    r = scrub_state_load(scrub, &problem);
    if (r != E_OK && r != E_NOT_FOUND) {
        log_warning("what the scrub knew of the pool is lost: %s", error_text(&problem));
        scrub_free(scrub);
        scrub = scrub_new(store, options);
        if (!scrub)
            return error_errno(err, ENOMEM, "the scrub of the pool");
        scrub->entries.key = store->volumes.key;
    }
    store->scrub = scrub;
    for (size_t i = 0; i < scrub->entries.count; i++)
        scrub_state_watch(scrub, ((struct scrub_entry *)scrub->entries.items[i])->id, false);
    return E_OK;
}

/* ---- a round ---- */

static void begin_round(struct scrub *scrub)
{
    pthread_mutex_lock(&scrub->lock);
    scrub->running = true;
    scrub->requested = false;
    scrub->round = (struct scrub_round){.began_unix_s = scrub->options.unix_s()};
    scrub->due_unix_s = scrub->round.began_unix_s + (int64_t)scrub->options.interval_s;
    scrub->at[0] = '\0';
    scrub->offset = 0;
    scrub->changed = scrub->urgent = true;
    pthread_mutex_unlock(&scrub->lock);
    scrub_seen_done(&scrub->seen);
    log_info("scrub: a round begins");
}

static void end_round(struct scrub *scrub)
{
    const struct scrub_round *last = &scrub->last;
    char read[16], shared[16];

    pthread_mutex_lock(&scrub->lock);
    scrub->running = false;
    scrub->last = scrub->round;
    scrub->last.ended_unix_s = scrub->options.unix_s();
    scrub->changed = scrub->urgent = true;
    pthread_mutex_unlock(&scrub->lock);
    scrub_seen_done(&scrub->seen);
    size_format(last->read_bytes, read);
    size_format(last->shared_bytes, shared);
    log_info("scrub: the round that began %" PRId64 " s ago has ended: read %s of %" PRIu64
             " volumes and snapshots, %s more are shared with that, %" PRIu64 " bytes could not be read",
             last->ended_unix_s - last->began_unix_s, read, last->files_count, shared,
             last->unreadable_bytes);
}

/* Else how long until there may be one. */
static bool round_is_due(struct scrub *scrub, uint64_t *ret_wait_ns)
{
    int64_t now = scrub->options.unix_s(), interval = (int64_t)scrub->options.interval_s;
    bool due;

    pthread_mutex_lock(&scrub->lock);
    if (scrub->due_unix_s == 0) {
        scrub->due_unix_s = now + MIN(FIRST_ROUND_S, interval);
        scrub->changed = scrub->urgent = true;
    }
    scrub->due_unix_s = MIN(scrub->due_unix_s, now + interval); /* the clock was set, or the interval */
    due = scrub->requested || now >= scrub->due_unix_s;
    *ret_wait_ns = due ? IDLE_NS : MIN((uint64_t)(scrub->due_unix_s - now) * SECOND_NS, IDLE_NS);
    pthread_mutex_unlock(&scrub->lock);
    return due && scrub->options.bytes_per_s;
}

/* Volumes, then snapshots: their ids have that order. False when there is none. */
static bool next_file(struct scrub *scrub)
{
    struct volume *volume = store_volume_next(scrub->store, scrub->at);
    struct snapshot *snapshot = volume ? NULL : store_snapshot_next(scrub->store, scrub->at);
    struct snapshot_record record = {0};
    bool found = volume || snapshot;

    if (snapshot)
        snapshot_copy_record(snapshot, &record);
    pthread_mutex_lock(&scrub->lock);
    if (found)
        str_copy(scrub->at, sizeof(scrub->at), volume ? volume_id(volume) : record.id);
    scrub->offset = 0;
    scrub->changed = true;
    pthread_mutex_unlock(&scrub->lock);
    scrub->extent_end = scrub->fine_end = 0;
    scrub->tries = scrub->told = 0;
    volume_unref(volume);
    snapshot_unref(snapshot);
    return found;
}

static void advance(struct scrub *scrub, uint64_t offset, uint64_t read_bytes, uint64_t shared_bytes)
{
    pthread_mutex_lock(&scrub->lock);
    scrub->offset = offset;
    scrub->round.read_bytes += read_bytes;
    scrub->round.shared_bytes += shared_bytes;
    scrub->changed = true;
    pthread_mutex_unlock(&scrub->lock);
    scrub->tries = 0;
}

static void leave_file(struct scrub *scrub)
{
    if (!next_file(scrub))
        end_round(scrub);
}

static void end_file(struct scrub *scrub)
{
    uint64_t unreadable = scrub_state_whole(scrub, scrub->at);

    if (unreadable)
        log_error("scrub: %s: %" PRIu64 " of its bytes cannot be read from the disk", scrub->at, unreadable);
    leave_file(scrub);
}

/* ---- what goes wrong ---- */

/* Of this process or of the kernel's memory: it says nothing about the disk. */
static bool is_passing(int r)
{
    return r == -ENOMEM || r == -EINTR || r == -EAGAIN || r == -EMFILE || r == -ENFILE;
}

static void try_later(struct scrub *scrub)
{
    scrub->paid_until_ns = scrub->options.now_ns() + RETRY_NS;
}

/* Not its data, but where that is could not be read. */
static void file_failed(struct scrub *scrub, int r)
{
    uint64_t size = scrub_file_size(scrub->store, scrub->at);

    if (is_passing(r) && ++scrub->tries < TRIES_MAX) {
        try_later(scrub);
        return;
    }
    log_error("scrub: %s: what follows offset %" PRIu64 " cannot be read: %s", scrub->at, scrub->offset,
              error_name(r));
    if (is_passing(r)) {
        leave_file(scrub);
        return;
    }
    if (scrub->offset < size)
        scrub_state_unreadable(scrub, scrub->at, scrub->offset, size, -r);
    end_file(scrub);
}

static void piece_failed(struct scrub *scrub, uint64_t length, int r)
{
    uint64_t offset = scrub->offset;
    bool known = scrub_state_unreadable(scrub, scrub->at, offset, offset + length, -r);

    if (!known && scrub->told++ < TOLD_MAX)
        log_error("scrub: %s: %" PRIu64 " bytes at offset %" PRIu64 " cannot be read from the disk: %s",
                  scrub->at, length, offset, error_name(r));
    advance(scrub, offset + length, 0, 0);
}

/* ---- reading ---- */

static void pay(struct scrub *scrub, uint64_t bytes)
{
    uint64_t now_ns = scrub->options.now_ns();

    if (scrub->options.bytes_per_s)
        scrub->paid_until_ns =
            MAX(scrub->paid_until_ns, now_ns) + bytes * SECOND_NS / scrub->options.bytes_per_s;
}

/* *ret_stale: it was written meanwhile, so that an error says nothing about what is there now. */
static int read_range(struct scrub *scrub, struct backend_image *image, const char *id, uint64_t offset,
                      uint64_t length, size_t *ret_length, bool *ret_stale)
{
    int r;

    pthread_mutex_lock(&scrub->lock);
    str_copy(scrub->read_id, sizeof(scrub->read_id), id);
    scrub->read_from = offset;
    scrub->read_to = offset + length;
    scrub->read_stale = false;
    pthread_mutex_unlock(&scrub->lock);
    pay(scrub, length);
    r = scrub->store->ops->scrub_read(image, scrub->buffer, offset, length, ret_length);
    pthread_mutex_lock(&scrub->lock);
    scrub->read_id[0] = '\0';
    *ret_stale = scrub->read_stale;
    pthread_mutex_unlock(&scrub->lock);
    return r;
}

static void read_piece(struct scrub *scrub, struct backend_image *image)
{
    uint64_t offset = scrub->offset;
    bool fine = offset < scrub->fine_end, stale;
    uint64_t length = MIN(scrub->extent_end - offset, fine ? PIECE_BYTES : CHUNK_BYTES);
    size_t count = 0;
    int r = read_range(scrub, image, scrub->at, offset, length, &count, &stale);

    if (r == 0 && count == 0) { /* it ends before its last extent */
        end_file(scrub);
    } else if (r == 0) {
        scrub_state_readable(scrub, scrub->at, offset, offset + count);
        if (scrub->place)
            scrub_seen_add(&scrub->seen, scrub->place + (offset - scrub->extent_start),
                           scrub->place + (offset - scrub->extent_start) + count);
        advance(scrub, offset + count, count, 0);
    } else if (is_passing(r)) {
        file_failed(scrub, r);
    } else if (!fine) {
        scrub->fine_end = offset + length;
        scrub_state_watch(scrub, scrub->at, true);
    } else if (!stale || ++scrub->tries == TRIES_MAX) {
        piece_failed(scrub, length, r);
    }
}

/* Where offset is, or what comes next. 0 or -errno. */
static int find_extent(struct scrub *scrub, struct backend_image *image)
{
    uint64_t start, end, place;
    int r;

    if (scrub->offset < scrub->extent_end)
        return 0;
    r = scrub->store->ops->scrub_next(image, scrub->offset, &start, &end, &place);
    if (r < 0)
        return r;
    scrub_state_readable(scrub, scrub->at, scrub->offset, end ? start : UINT64_MAX);
    scrub->extent_start = start;
    scrub->extent_end = MIN(end, start + EXTENT_BYTES);
    scrub->place = place;
    if (end)
        advance(scrub, start, 0, 0);
    return 0;
}

/* Two files that share a block have one block: it is read once in a round. */
static bool pass_over_shared(struct scrub *scrub)
{
    uint64_t at = scrub->place + (scrub->offset - scrub->extent_start);
    uint64_t length =
        scrub->place ? scrub_seen_from(&scrub->seen, at, at + (scrub->extent_end - scrub->offset)) : 0;

    if (length == 0)
        return false;
    scrub_state_readable(scrub, scrub->at, scrub->offset, scrub->offset + length);
    advance(scrub, scrub->offset + length, 0, length);
    return true;
}

static void step_round(struct scrub *scrub)
{
    const struct backend_ops *ops = scrub->store->ops;
    _cleanup_error_ struct error err = {0};
    struct backend_image *image;
    int r;

    if (scrub->at[0] == '\0') {
        leave_file(scrub);
        return;
    }
    r = ops->scrub_open(scrub->store->backend, scrub->at, &image, &err);
    if (r == E_NOT_FOUND) { /* deleted, or a snapshot that is not whole yet */
        leave_file(scrub);
        return;
    }
    if (r != E_OK) {
        file_failed(scrub, r);
        return;
    }
    r = find_extent(scrub, image);
    if (r < 0)
        file_failed(scrub, r);
    else if (scrub->extent_end == 0)
        end_file(scrub);
    else if (!pass_over_shared(scrub))
        read_piece(scrub, image);
    ops->image_close(image);
}

/* ---- what was written anew ---- */

/* Read the beginning of [from, to). */
static void reread_image(struct scrub *scrub, struct backend_image *image, const char *id, uint64_t from,
                         uint64_t to)
{
    uint64_t start, end, place;
    size_t count = 0;
    bool stale = false;
    int r = scrub->store->ops->scrub_next(image, from, &start, &end, &place);

    if (r == 0 && (end == 0 || start >= to)) {
        scrub_state_readable(scrub, id, from, to);
        return;
    }
    if (r == 0 && start > from) {
        scrub_state_readable(scrub, id, from, start);
        return;
    }
    to = MIN(to, from + CHUNK_BYTES);
    if (r == 0)
        to = MIN(to, end);
    if (r == 0)
        r = read_range(scrub, image, id, from, to - from, &count, &stale);
    if (r == 0)
        scrub_state_readable(scrub, id, from, count ? from + count : to);
    else if (is_passing(r))
        try_later(scrub);
    else
        scrub_state_unreadable(scrub, id, from, to, -r);
}

static void reread(struct scrub *scrub, const char *id, uint64_t from, uint64_t to)
{
    _cleanup_error_ struct error err = {0};
    struct backend_image *image;
    int r = scrub->store->ops->scrub_open(scrub->store->backend, id, &image, &err);

    if (r == E_NOT_FOUND) {
        scrub_forget(scrub->store, id);
    } else if (is_passing(r)) {
        try_later(scrub);
    } else if (r != E_OK) {
        scrub_state_unreadable(scrub, id, from, to, -r);
    } else {
        reread_image(scrub, image, id, from, to);
        scrub->store->ops->image_close(image);
    }
    scrub_state_watch(scrub, id, str_equal(id, scrub->at) && scrub->offset < scrub->fine_end);
}

/* ---- steps ---- */

/* How long there is nothing to do. */
static uint64_t act(struct scrub *scrub)
{
    char id[ID_SNAPSHOT_MAX + 1];
    uint64_t from, to, wait_ns = 0;

    if (scrub_state_rewritten(scrub, id, &from, &to)) {
        reread(scrub, id, from, to);
        return 0;
    }
    if (!scrub->running) {
        if (!round_is_due(scrub, &wait_ns))
            return wait_ns;
        begin_round(scrub);
    }
    if (!scrub->options.bytes_per_s)
        return IDLE_NS;
    step_round(scrub);
    return 0;
}

/* Returns how long it must not wait any longer than, at most wait_ns. */
static uint64_t save_when_due(struct scrub *scrub, uint64_t wait_ns)
{
    _cleanup_error_ struct error err = {0};
    uint64_t now_ns = scrub->options.now_ns(), after_ns;
    bool changed, failed;

    pthread_mutex_lock(&scrub->lock);
    changed = scrub->changed;
    after_ns = scrub->saved_ns ? scrub->saved_ns + (scrub->urgent ? SAVE_URGENT_NS : SAVE_NS) : 0;
    pthread_mutex_unlock(&scrub->lock);
    if (!changed)
        return wait_ns;
    if (now_ns < after_ns)
        return MIN(wait_ns, after_ns - now_ns);
    failed = scrub_state_save(scrub, &err) != E_OK;
    if (failed && !scrub->save_failed)
        log_warning("scrub: what it found cannot be saved: %s", error_text(&err));
    scrub->save_failed = failed;
    scrub->saved_ns = now_ns;
    return wait_ns;
}

uint64_t store_scrub_step(struct store *store)
{
    struct scrub *scrub = store->scrub;
    uint64_t began_ns = scrub->options.now_ns(), now_ns = began_ns, wait_ns = 0;

    if (began_ns >= scrub->not_before_ns) {
        wait_ns = act(scrub);
        now_ns = scrub->options.now_ns();
        scrub->not_before_ns =
            MAX(scrub->paid_until_ns, now_ns + MIN(STAND_BACK * (now_ns - began_ns), STAND_BACK_MAX_NS));
    }
    if (scrub->not_before_ns > now_ns)
        wait_ns = MAX(wait_ns, scrub->not_before_ns - now_ns);
    return save_when_due(scrub, wait_ns);
}

/* ---- the thread ---- */

static void wait_locked(struct scrub *scrub, uint64_t wait_ns)
{
    uint64_t until_ns = time_now_ns() + wait_ns;
    const struct timespec until = {(time_t)(until_ns / SECOND_NS), (long)(until_ns % SECOND_NS)};

    if (!scrub->stopping && !scrub->poked && wait_ns)
        pthread_cond_timedwait(&scrub->wake, &scrub->lock, &until);
    scrub->poked = false;
}

static void *scrub_run(void *context)
{
    struct scrub *scrub = context;

    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7)); /* or not */
    pthread_mutex_lock(&scrub->lock);
    while (!scrub->stopping) {
        uint64_t wait_ns;

        pthread_mutex_unlock(&scrub->lock);
        wait_ns = store_scrub_step(scrub->store);
        pthread_mutex_lock(&scrub->lock);
        wait_locked(scrub, wait_ns);
    }
    pthread_mutex_unlock(&scrub->lock);
    return NULL;
}

int store_scrub_start(struct store *store, struct error *err)
{
    struct scrub *scrub = store->scrub;
    int r = pthread_create(&scrub->thread, NULL, scrub_run, scrub);

    if (r != 0)
        return error_errno(err, r, "cannot start the scrub's thread");
    scrub->started = true;
    return E_OK;
}

void store_scrub_stop(struct store *store)
{
    struct scrub *scrub = store->scrub;
    _cleanup_error_ struct error err = {0};

    if (!scrub)
        return;
    if (scrub->started) {
        pthread_mutex_lock(&scrub->lock);
        scrub->stopping = true;
        pthread_cond_signal(&scrub->wake);
        pthread_mutex_unlock(&scrub->lock);
        pthread_join(scrub->thread, NULL);
        scrub->started = false;
    }
    if (scrub->changed && scrub_state_save(scrub, &err) != E_OK)
        log_warning("scrub: what it found cannot be saved: %s", error_text(&err));
}

int store_scrub_request(struct store *store, struct error *err)
{
    struct scrub *scrub = store->scrub;

    if (!scrub || !scrub->options.bytes_per_s)
        return error_set(err, E_PRECONDITION,
                         "the scrub of server %s is off: set \"scrub_bytes_per_s\" in its configuration",
                         store->server_id);
    pthread_mutex_lock(&scrub->lock);
    scrub->requested = !scrub->running;
    scrub->poked = true;
    pthread_cond_signal(&scrub->wake);
    pthread_mutex_unlock(&scrub->lock);
    return E_OK;
}
