/*
 * The end of this host's volumes at its shutdown (`mooring-node --end-devices`; deploy/systemd tells when): a
 * thread a volume, so that one whose server is away delays no other. mooring-node's service has ended; main.c
 * holds its lock. What was staged stays on record: the next boot sweeps it, as after a power cut, but with
 * nothing lost.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach.h"
#include "node/filesystem.h"
#include "node/mount.h"
#include "node/node.h"

#define POLL_MS 100
#define CALL_MS 5000
#define STACK_BYTES (256 * 1024)
#define GRACE_MS 15000 /* what an end takes at most once its time is over */

struct end_volume {
    struct node *node;
    uint64_t deadline_ms;
    pthread_t thread;
    bool started, left;
    char id[ID_VOLUME_MAX + 1];
};

struct end_volumes {
    struct end_volume *items;
    size_t count;
    bool incomplete; /* memory ran out */
};

/* ---- one volume ---- */

static bool end_volume_lives(const struct end_volume *volume)
{
    _cleanup_fd_ int device = attach_watch(&volume->node->config, volume->id);
    _cleanup_fd_ int holder = attach_watch_holder(&volume->node->config, volume->id);

    return device >= 0 || holder >= 0;
}

/* A staging that was cut off in mkfs: what that has in flight must not reach the volume (stage.c). */
static int end_volume_forget_format(const struct end_volume *volume, bool *ret_forgotten, struct error *err)
{
    const struct node_config *config = &volume->node->config;
    _cleanup_stage_record_ struct stage_record record = {0};
    _cleanup_attachment_ struct storage_attachment attachment = {0};

    if (stage_record_load(config->state_dir, volume->id, &record, NULL) || record.complete)
        return 0;
    int r = storage_attachment_get(volume->node->storage, volume->id, CALL_MS, &attachment, err);
    if (r || attachment.content != STORAGE_FORMATTING)
        return r == E_NOT_FOUND || r == E_PERMISSION ? 0 : r;
    *ret_forgotten = true;
    return attach_sweep(config, volume->id, err);
}

/* For a device that died since mooring-node ended: what unmounts, systemd too, waits for its successor. */
static int end_volume_succeed(const struct end_volume *volume, struct error *err)
{
    const struct node_config *config = &volume->node->config;
    _cleanup_fd_ int device = attach_watch(config, volume->id);

    while (device < 0) {
        bool forgotten = false;
        int r = end_volume_forget_format(volume, &forgotten, err);

        if (!r && !forgotten)
            r = attach_restart(config, volume->node->storage, volume->id, err);
        if (r == E_PRECONDITION || r == E_NOT_FOUND || r == E_STALE) { /* none can take over */
            error_done(err);
            return 0;
        }
        if (!r || time_now_ms() >= volume->deadline_ms)
            return r;
        error_done(err);
        poll(NULL, 0, POLL_MS);
    }
    return 0;
}

/*
 * Ours, where nobody uses them any more: systemd tries once to unmount, at a time when a process that it has
 * told to end may still be at work there.
 */
static void end_volume_unmount(const struct end_volume *volume)
{
    const struct node_config *config = &volume->node->config;
    _cleanup_stage_record_ struct stage_record record = {0};

    if (stage_record_load(config->state_dir, volume->id, &record, NULL))
        return;
    const struct mount_owner owner = attach_owner(config, volume->id, record.block);
    for (size_t i = 0; i < record.publishes_count; i++)
        mount_remove(record.publishes[i].target_path, &owner, NULL);
    if (!record.block)
        mount_remove(record.staging_path, &owner, NULL);
}

/* Mounted somewhere, another namespace included, or claimed by LVM, MD, a mkfs. Who merely has it open is
 * served by the device's own end until he closes it. */
static int end_volume_check_free(const struct end_volume *volume, struct error *err)
{
    _cleanup_dir_ DIR *dir = opendir("/dev");
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        struct stat status;

        if ((!str_starts_with(entry->d_name, "loop") && !str_starts_with(entry->d_name, "ublkb")) ||
            fstatat(dirfd(dir), entry->d_name, &status, 0) < 0 || !S_ISBLK(status.st_mode) ||
            !attach_owns(&volume->node->config, volume->id, status.st_rdev))
            continue;
        _cleanup_free_ char *path = str_format("/dev/%s", entry->d_name);
        if (path && filesystem_is_free(path, NULL) == E_BUSY)
            return error_set(err, E_BUSY, "%s is still in use", path);
    }
    return 0;
}

static int end_volume_wait_free(const struct end_volume *volume, struct error *err)
{
    int r;

    for (;;) {
        end_volume_unmount(volume);
        r = end_volume_check_free(volume, err);
        if (r != E_BUSY || time_now_ms() >= volume->deadline_ms)
            return r;
        error_done(err);
        poll(NULL, 0, POLL_MS);
    }
}

static void *end_volume_run(void *argument)
{
    struct end_volume *volume = argument;
    const struct node_config *config = &volume->node->config;
    _cleanup_error_ struct error err = {0};

    int r = end_volume_succeed(volume, &err);
    if (!r)
        r = end_volume_wait_free(volume, &err);
    if (!r) {
        uint64_t now_ms = time_now_ms();
        unsigned left_ms = volume->deadline_ms > now_ms ? (unsigned)(volume->deadline_ms - now_ms) : 1;
        r = attach_stop(config, volume->node->storage, volume->id, left_ms, &err);
    }
    volume->left = r != 0;
    if (r)
        log_error("volume %s is left as it is: %s", volume->id, error_text(&err));
    else
        log_info("volume %s: its device has ended", volume->id);
    return NULL;
}

/* ---- all ---- */

static void end_devices_add(const char *volume_id, void *context)
{
    struct end_volumes *volumes = context;
    struct end_volume *items = reallocarray(volumes->items, volumes->count + 1, sizeof(*items));

    if (!items) {
        volumes->incomplete = true;
        return;
    }
    volumes->items = items;
    items[volumes->count] = (struct end_volume){0};
    str_copy(items[volumes->count++].id, sizeof(items->id), volume_id);
}

static void end_devices_start(struct end_volume *volume, const pthread_attr_t *attributes)
{
    if (!attach_has_process(&volume->node->config, volume->id)) {
        log_info("volume %s: its session is the kernel's, and open-iscsi's to end", volume->id);
        return;
    }
    if (!end_volume_lives(volume))
        return;
    volume->started = pthread_create(&volume->thread, attributes, end_volume_run, volume) == 0;
    volume->left = !volume->started;
    if (volume->left)
        log_error("volume %s is left as it is: no thread can be started", volume->id);
}

/* A thread that hangs in the kernel, in an unmounting that storage does not answer, must not keep the host's
 * shutdown: it goes with this process. */
static void end_devices_join(const struct end_volume *volume)
{
    uint64_t until_ms = volume->deadline_ms + GRACE_MS;
    const struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                                   .tv_nsec = (long)(until_ms % 1000) * 1000000};

    if (pthread_clockjoin_np(volume->thread, NULL, CLOCK_MONOTONIC, &until) == 0)
        return;
    log_error("volume %s is left as it is: its storage does not answer", volume->id);
    _exit(1);
}

static void end_devices_run(struct node *node, struct end_volumes *volumes, unsigned timeout_ms)
{
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    pthread_attr_t attributes;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (size_t i = 0; i < volumes->count; i++) {
        volumes->items[i].node = node;
        volumes->items[i].deadline_ms = deadline_ms;
        end_devices_start(&volumes->items[i], &attributes);
    }
    for (size_t i = 0; i < volumes->count; i++) {
        if (volumes->items[i].started)
            end_devices_join(&volumes->items[i]);
    }
    pthread_attr_destroy(&attributes);
}

int end_devices(struct node *node, unsigned timeout_ms, struct error *err)
{
    struct end_volumes volumes = {0};
    size_t left = 0;

    int r = stage_record_each(node->config.state_dir, end_devices_add, &volumes, err);
    if (!r)
        end_devices_run(node, &volumes, timeout_ms);
    for (size_t i = 0; i < volumes.count; i++)
        left += volumes.items[i].left;
    free(volumes.items);
    if (!r && volumes.incomplete)
        return error_errno(err, ENOMEM, "not all volumes were ended");
    return !r && left ? error_set(err, E_BUSY, "%zu volumes are left as they are", left) : r;
}
