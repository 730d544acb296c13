/* More operations whose crash points are tried: those of several steps, those beside a write, and those of
 * the pool itself. Called by crash_points.c, in the process that is killed and in the one that looks. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/attach.h"
#include "datapath/store/content.h"
#include "datapath/store/pool/pool_internal.h"
#include "datapath/store/store_internal.h"
#include "tests/faults/crash_points.h"
#include "tests/unit/store_gate.h"

#define SERVER "store-1"
#define VOLUME SERVER ".0000000000000001"
#define COPY SERVER ".0000000000000002"
#define SNAPSHOT SERVER ".s-0000000000000001"
#define GROUP "g-0000000000000001"
#define NODE "n1"
#define WAIT_MS 60000
#define BLOCK 4096u
#define WRITTEN (512 * KIB) /* where the volume has data, which a copy has not come to yet */

static int run_named(struct store *store, const char *name, struct error *err)
{
    return crash_operation_find(name)->run(store, err);
}

static int find_volume(struct store *store, struct volume **ret, struct error *err)
{
    *ret = store_volume_find(store, VOLUME);
    return *ret ? E_OK : error_set(err, E_NOT_FOUND, "the volume is not there");
}

static int nothing(struct store *store, struct error *err)
{
    (void)store;
    (void)err;
    return E_OK;
}

/* What the operation is for: the states are learnt from the code, which could be wrong each time. */
static int check_used(struct store *store, const char *id, uint64_t least, uint64_t most, struct error *err)
{
    struct volume *volume = store_volume_find(store, id);
    uint64_t used = 0;

    int r =
        volume ? volume_used_bytes(volume, &used, err) : error_set(err, E_NOT_FOUND, "%s is not there", id);
    volume_unref(volume);
    return r || (used >= least && used <= most)
               ? r
               : error_set(err, E_CORRUPT, "%s takes %ju bytes", id, (uintmax_t)used);
}

/* ---- names, copies ---- */

static int run_claim_group(struct store *store, struct error *err)
{
    char holder[STORE_HOLDER_MAX + 1];

    return store_name_claim(store, NAME_GROUP, "a group", GROUP, holder, err);
}

static int run_clone_thick(struct store *store, struct error *err)
{
    struct volume_record spec = {
        .id = COPY, .name = "thick", .size_bytes = MIB, .block_size_bytes = BLOCK, .thick = true};
    struct copy *copy = NULL;
    struct volume *volume;

    int r = find_volume(store, &volume, err);
    if (!r)
        r = store_copy_begin(store, &spec, volume, NULL, &copy, err);
    if (!r && copy)
        r = copy_wait(copy, time_now_ms() + WAIT_MS, err);
    copy_unref(copy);
    volume_unref(volume);
    return r ? r : check_used(store, COPY, MIB, UINT64_MAX, err);
}

/* ---- a format that is begun again: what the one before left is discarded ---- */

static int grant_again(struct volume_record *record, void *context, struct error *err)
{
    struct attachment *attachment;

    (void)context;
    return attach_grant(record, NODE, 1, 1, &attachment, err);
}

/* The first format wrote something, and its node process ended. */
static int half_formatted(struct store *store, struct error *err)
{
    _cleanup_free_ char *path = str_format("%s/volumes/" VOLUME "/data", crash_pool_path);
    static char text[64 * KIB];
    struct volume *volume = NULL;

    int r = crash_operation_find("format-end")->prepare(store, err);
    if (!r)
        r = find_volume(store, &volume, err);
    if (!r)
        r = volume_update(volume, grant_again, NULL, err);
    volume_unref(volume);
    if (r)
        return r;
    memset(text, 'a', sizeof(text));
    _cleanup_fd_ int fd = path ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    return fd < 0 || write(fd, text, sizeof(text)) != sizeof(text) || fsync(fd)
               ? error_errno(err, errno, "cannot write to the volume")
               : E_OK;
}

static int format_again(struct volume_record *record, void *context, struct error *err)
{
    (void)context;
    if (record->content == VOLUME_FORMATTING && record->formatting_generation == 2)
        return VOLUME_UNCHANGED;
    bool discard = false;
    int r = content_format_begin(record, NODE, 1, 2, &discard, err);
    return r || discard ? r : error_set(err, E_CORRUPT, "it is not to be discarded");
}

static int begin_again(struct store *store, bool discard, struct error *err)
{
    struct volume *volume;
    struct image *image;

    int r = find_volume(store, &volume, err);
    if (!r)
        r = volume_update(volume, format_again, NULL, err);
    if (!r && discard)
        r = volume_image(volume, &image, err);
    if (!r && discard)
        r = image_discard_all(image, err);
    volume_unref(volume);
    return r;
}

static int run_format_again(struct store *store, struct error *err)
{
    int r = begin_again(store, true, err);

    return r ? r : check_used(store, VOLUME, 0, 0, err);
}

static int format_not_discarded(struct store *store, struct error *err)
{
    return begin_again(store, false, err);
}

/* ---- a fence, and the removals that belong to it ---- */

static int fence_attached(struct store *store, unsigned steps, struct error *err)
{
    struct volume_record record;
    struct volume *volume;
    bool attached;

    int r = run_named(store, "fence", err);
    if (!r)
        r = find_volume(store, &volume, err);
    if (r)
        return r;
    r = volume_snapshot_record(volume, &record);
    volume_unref(volume);
    if (r)
        return r;
    attached = volume_record_attachment(&record, NODE) != NULL;
    volume_record_done(&record);
    if (attached && steps > 0)
        r = run_named(store, "detach-begin", err);
    return attached && steps > 1 && !r ? run_named(store, "detach-finish", err) : r;
}

static int run_fence_attached(struct store *store, struct error *err)
{
    return fence_attached(store, 2, err);
}

static int fence_alone(struct store *store, struct error *err)
{
    return fence_attached(store, 0, err);
}

static int fence_removing(struct store *store, struct error *err)
{
    return fence_attached(store, 1, err);
}

/* ---- a snapshot, and a write to what it has not shared yet ---- */

struct writing {
    struct loop *loop;
    pthread_t thread;
    struct image *image;
    struct image_io io;
    struct loop_message message;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool submitted, done;
    int result;
    _Alignas(IMAGE_ALIGN) char buffer[BLOCK];
};

static void *writing_thread(void *context)
{
    struct writing *writing = context;

    loop_run(writing->loop);
    loop_drain(writing->loop);
    return NULL;
}

static void writing_tell(struct writing *writing, bool *what)
{
    pthread_mutex_lock(&writing->lock);
    *what = true;
    pthread_cond_broadcast(&writing->changed);
    pthread_mutex_unlock(&writing->lock);
}

static void writing_wait(struct writing *writing, const bool *what)
{
    pthread_mutex_lock(&writing->lock);
    while (!*what)
        pthread_cond_wait(&writing->changed, &writing->lock);
    pthread_mutex_unlock(&writing->lock);
}

static void write_done(struct image_io *io, int result)
{
    struct writing *writing = container_of(io, struct writing, io);

    writing->result = result;
    writing_tell(writing, &writing->done);
}

static void write_submit(struct loop_message *message)
{
    struct writing *writing = container_of(message, struct writing, message);

    image_submit(writing->image, writing->loop, &writing->io);
    writing_tell(writing, &writing->submitted);
}

/* Comes back once it is submitted: it waits for the copy, if there is one. */
static void write_begin(struct writing *writing, char byte)
{
    memset(writing->buffer, byte, sizeof(writing->buffer));
    writing->submitted = writing->done = false;
    writing->io = (struct image_io){.verb = IMAGE_WRITE,
                                    .offset = WRITTEN,
                                    .length = BLOCK,
                                    .iov = {writing->buffer, BLOCK},
                                    .epoch = 1,
                                    .done = write_done};
    writing->message.run = write_submit;
    loop_post(writing->loop, &writing->message);
    writing_wait(writing, &writing->submitted);
}

static void write_new(void *context)
{
    write_begin(context, 'n');
}

/* The volume has 'b' there, then the snapshot is cut, then the volume has 'n'. */
static int write_and_snapshot(struct store *store, struct writing *writing, struct error *err)
{
    static const struct snapshot_record spec = {.id = SNAPSHOT, .name = "under writes"};

    write_begin(writing, 'b');
    writing_wait(writing, &writing->done);
    if (writing->result)
        return error_set(err, E_CORRUPT, "the write before the snapshot failed: %d", writing->result);
    int r = gate_snapshot_during(store, VOLUME, &spec, write_new, writing, err);
    if (r)
        return r;
    writing_wait(writing, &writing->done);
    return writing->result ? error_set(err, E_CORRUPT, "the write failed: %d", writing->result) : E_OK;
}

static int with_loop(struct store *store, struct error *err,
                     int (*run)(struct store *store, struct writing *writing, struct error *err))
{
    static struct writing writing = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct volume *volume;

    int r = find_volume(store, &volume, err);
    if (!r)
        r = volume_image(volume, &writing.image, err);
    if (!r)
        r = loop_new(&writing.loop, &(struct loop_options){0}, err);
    if (r) {
        volume_unref(volume);
        return r;
    }
    if (pthread_create(&writing.thread, NULL, writing_thread, &writing) != 0)
        r = error_errno(err, EAGAIN, "no thread for a loop");
    else {
        r = run(store, &writing, err);
        loop_stop(writing.loop);
        pthread_join(writing.thread, NULL);
    }
    loop_free(writing.loop);
    volume_unref(volume);
    return r;
}

static int run_under_writes(struct store *store, struct error *err)
{
    _cleanup_free_ char *path = str_format("%s/snapshots/" SNAPSHOT "/data", crash_pool_path);
    char byte = 0;

    int r = with_loop(store, err, write_and_snapshot);
    if (r)
        return r;
    _cleanup_fd_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0 || pread(fd, &byte, 1, WRITTEN) != 1)
        return error_errno(err, errno, "cannot read the snapshot");
    return byte == 'b' ? E_OK : error_set(err, E_CORRUPT, "the snapshot has what was written after its cut");
}

static int lost_before_write(struct store *store, struct error *err)
{
    static const struct snapshot_record spec = {.id = SNAPSHOT, .name = "under writes"};

    return gate_record_alone(store, VOLUME, &spec, err);
}

static int write_alone(struct store *store, struct writing *writing, struct error *err)
{
    (void)store;
    write_new(writing);
    writing_wait(writing, &writing->done);
    return writing->result ? error_set(err, E_CORRUPT, "the write failed: %d", writing->result) : E_OK;
}

static int lost_after_write(struct store *store, struct error *err)
{
    int r = lost_before_write(store, err);

    return r ? r : with_loop(store, err, write_alone);
}

static int whole_before_write(struct store *store, struct error *err)
{
    static const struct snapshot_record spec = {.id = SNAPSHOT, .name = "under writes"};

    return gate_snapshot(store, VOLUME, &spec, err);
}

/* ---- what the scrub knows ---- */

static int run_scrub_state(struct store *store, struct error *err)
{
    _cleanup_json_ json_t *object =
        json_pack("{s:i, s:{s:i}, s:[]}", "due_unix_s", 1, "read", VOLUME, 7, "unreadable");

    return object ? store->ops->scrub_save(store->backend, object, err)
                  : error_errno(err, ENOMEM, "scrub state");
}

/* ---- a pool is made; another host's is taken ---- */

static int open_inner(int *ret_fd, struct error *err)
{
    _cleanup_free_ char *path = str_format("%s/" CRASH_INNER_POOL, crash_pool_path);

    *ret_fd = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    return *ret_fd < 0 ? error_errno(err, errno, "cannot open the pool within") : E_OK;
}

static int inner_directory(struct store *store, struct error *err)
{
    _cleanup_free_ char *path = str_format("%s/" CRASH_INNER_POOL, crash_pool_path);

    (void)store;
    return !path || mkdir(path, 0700) < 0 ? error_errno(err, errno, "cannot make the pool within") : E_OK;
}

static int run_pool_create(struct store *store, struct error *err)
{
    _cleanup_free_ char *path = str_format("%s/" CRASH_INNER_POOL, crash_pool_path);
    char uuid[37];

    (void)store;
    int r = path ? store_pool_create(path, "store-2", uuid, err) : -ENOMEM;
    if (r == E_EXISTS && err)
        error_done(err);
    return r == E_EXISTS ? E_OK : r;
}

static int anothers_pool(struct store *store, struct error *err)
{
    _cleanup_json_ json_t *object =
        json_pack("{s:s, s:b}", "host", "fedcba98765432100123456789abcdef", "open", 1);
    _cleanup_fd_ int fd = -1;

    int r = inner_directory(store, err);
    if (!r)
        r = run_pool_create(store, err);
    if (!r)
        r = open_inner(&fd, err);
    return r ? r : record_save(fd, "host.json", 1, object, 0600, err);
}

static int run_pool_take(struct store *store, struct error *err)
{
    _cleanup_fd_ int fd = -1;

    (void)store;
    int r = open_inner(&fd, err);
    return r ? r : pool_host_take(fd, err);
}

/* ---- the table ---- */

static int written(struct store *store, struct error *err)
{
    return crash_operation_find("delete")->prepare(store, err);
}

static int attached(struct store *store, struct error *err)
{
    return crash_operation_find("detach-begin")->prepare(store, err);
}

static int provisional(struct store *store, struct error *err)
{
    return crash_operation_find("group-held")->prepare(store, err);
}

static int run_snapshot_delete(struct store *store, struct error *err)
{
    return run_named(store, "snapshot-delete", err);
}

const struct crash_operation crash_operations_more[] = {
    {.name = "claim-group", .prepare = nothing, .run = run_claim_group},
    {.name = "clone-thick", .prepare = written, .run = run_clone_thick},
    {.name = "snapshot-provisional-delete", .prepare = provisional, .run = run_snapshot_delete},
    {.name = "snapshot-under-writes",
     .prepare = written,
     .run = run_under_writes,
     .between = {lost_before_write, lost_after_write, whole_before_write}},
    {.name = "format-again",
     .prepare = half_formatted,
     .run = run_format_again,
     .between = {format_not_discarded}},
    {.name = "fence-attached",
     .prepare = attached,
     .run = run_fence_attached,
     .between = {fence_alone, fence_removing}},
    {.name = "scrub-state", .prepare = nothing, .run = run_scrub_state},
    {.name = "pool-create", .prepare = inner_directory, .run = run_pool_create},
    {.name = "pool-take", .prepare = anothers_pool, .run = run_pool_take},
};
const size_t crash_operations_more_count = ARRAY_SIZE(crash_operations_more);
