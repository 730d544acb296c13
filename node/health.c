/*
 * NodeGetVolumeHealth and NodeGetStorageHealth: what is known already, of status.json, the kernel's tables
 * and the heartbeat. Takes no volume lock and waits for no I/O of a volume. Runs on RPC threads.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach.h"
#include "node/bounded.h"
#include "node/mount.h"
#include "node/node.h"

#define RECENT_S 600 /* for so long an I/O error is told */
#define LOOK_MS 1000

struct health_look {
    struct node *node;
    const struct stage_record *record;
    struct health *health;
    bool serves; /* the device does: its file system can be looked at */
    int r;
};

void health_done(struct health *health)
{
    for (size_t i = 0; i < health->count; i++)
        free(health->entries[i].message);
    free(health->entries);
    *health = (struct health){0};
}

__attribute__((format(printf, 4, 5))) static int health_add(struct health *health, enum health_kind kind,
                                                            const char *reason, const char *format, ...)
{
    struct health_entry *grown = realloc(health->entries, (health->count + 1) * sizeof(*health->entries));
    char *message = NULL;
    va_list arguments;

    if (!grown)
        return -ENOMEM;
    health->entries = grown;
    va_start(arguments, format);
    int n = vasprintf(&message, format, arguments);
    va_end(arguments);
    if (n < 0)
        return -ENOMEM;
    health->entries[health->count++] = (struct health_entry){kind, reason, message};
    return 0;
}

#define tell(look, kind, reason, ...)                                                                        \
    ((look)->r = (look)->r ? (look)->r : health_add((look)->health, kind, reason, __VA_ARGS__))

/* ---- the device ---- */

static const char *health_text(json_t *status, const char *key)
{
    const char *text = json_string_value(json_object_get(status, key));

    return text ? text : "";
}

static long long health_number(json_t *status, const char *key)
{
    return json_integer_value(json_object_get(status, key));
}

static void health_look_at_state(struct health_look *look, json_t *status)
{
    const char *state = health_text(status, "state"), *problem = health_text(status, "error");
    long long waiting_s = (long long)time(NULL) - health_number(status, "since");

    look->serves = str_equal(state, "ready");
    if (str_equal(state, "failed"))
        tell(look, HEALTH_INACCESSIBLE, "DeviceFailed", "its I/O ends with errors: %s", problem);
    else if (str_equal(state, "waiting") || str_equal(state, "connecting"))
        tell(look, HEALTH_INACCESSIBLE, "StorageUnreachable",
             "its I/O waits for its storage server, for %lld s: %s", waiting_s > 0 ? waiting_s : 0, problem);
    else if (look->serves && *problem)
        tell(look, HEALTH_DEGRADED, "WritesRefused", "%s", problem);
}

static void health_look_at_counts(struct health_look *look, json_t *status)
{
    const char *refusal = health_text(status, "resize_error");
    long long errors = health_number(status, "io_errors");
    long long ago_s = (long long)time(NULL) - health_number(status, "io_error_at");

    if (errors && ago_s <= RECENT_S)
        tell(look, HEALTH_DEGRADED, "IoErrors",
             "%lld requests ended with an error since its mooring-device started, the newest %lld s ago",
             errors, ago_s > 0 ? ago_s : 0);
    if (*refusal)
        tell(look, HEALTH_DEGRADED, "NotExpanded", "its block device keeps its size: %s", refusal);
}

static void health_look_at_process(struct health_look *look)
{
    const struct node_config *config = &look->node->config;
    const char *volume_id = look->record->volume_id;
    _cleanup_fd_ int process = attach_watch(config, volume_id);
    _cleanup_json_ json_t *status = NULL;

    if (attach_status(config, volume_id, &status, NULL))
        tell(look, HEALTH_INACCESSIBLE, "DeviceStarting", "its mooring-device has not said anything yet");
    else if (process < 0 && !str_equal(health_text(status, "state"), "failed"))
        tell(look, HEALTH_INACCESSIBLE, "DeviceRestarting",
             "its mooring-device has ended, its I/O waits for a successor");
    else
        health_look_at_state(look, status);
    health_look_at_counts(look, status);
}

static void health_look_at_device(struct health_look *look)
{
    const struct node_config *config = &look->node->config;
    const struct stage_record *record = look->record;
    _cleanup_error_ struct error why = {0};

    if (!str_equal(record->boot_id, config->boot_id)) {
        tell(look, HEALTH_INACCESSIBLE, "HostRestarted",
             "it was staged before this host was started: stage it again");
        return;
    }
    if (!record->complete) {
        tell(look, HEALTH_INACCESSIBLE, "NotStaged", "its staging has not got to its end");
        return;
    }
    if (attach_check_kept(config, record->volume_id, record->publishes_count > 0, &why) == E_PRECONDITION) {
        tell(look, HEALTH_INACCESSIBLE, "DeviceLost", "%s", error_text(&why));
    } else if (attach_has_process(config, record->volume_id)) {
        health_look_at_process(look);
    } else {
        _cleanup_attach_device_ struct attach_device device = {0};
        int r = attach_find(config, record->volume_id, &device, &why);
        look->serves = r == 0;
        if (r)
            tell(look, HEALTH_INACCESSIBLE, "StorageUnreachable", "%s", error_text(&why));
    }
}

static void health_look_at_server(struct health_look *look)
{
    const struct server_list *servers = &look->node->config.servers;
    char server_id[ID_SERVER_MAX + 1];
    struct registrar_view view;

    if (id_volume_server(look->record->volume_id, server_id, NULL))
        return;
    for (size_t i = 0; i < servers->count; i++) {
        if (!str_equal(servers->items[i].id, server_id))
            continue;
        registrar_look(look->node->registrar, i, &view);
        if (view.state == REGISTRAR_FENCED)
            tell(look, HEALTH_INACCESSIBLE, "NodeFenced",
                 "storage server %s has fenced this node: the volume goes elsewhere", server_id);
    }
}

/* ---- the file system and the mounts ---- */

/* ext4 goes on after an error unless it was mounted otherwise; e2fsck takes the count back. */
static unsigned long health_ext4_errors(const char *source)
{
    const char *name = strrchr(source, '/');
    _cleanup_free_ char *path = str_format("/sys/fs/ext4/%s/errors_count", name ? name + 1 : source);
    _cleanup_free_ char *text = NULL;

    return path && io_read_file(path, 64, &text, NULL, NULL) == 0 ? strtoul(text, NULL, 10) : 0;
}

/* Kernels before 6.14 do not show it: an XFS that was shut down answers everything with an error. */
static bool health_is_shut_down(struct health_look *look)
{
    const char *argv[] = {"stat", "--format=%i", look->record->staging_path, NULL};
    _cleanup_free_ char *output = NULL;
    int status = 0;

    return look->serves && str_equal(look->record->fs_type, "xfs") &&
           bounded_run(look->record->volume_id, argv, LOOK_MS, &status, &output, NULL) == 0 && status;
}

static void health_look_at_filesystem(struct health_look *look)
{
    const struct stage_record *record = look->record;
    _cleanup_mount_info_ struct mount_info mounted = {0};

    if (record->block || !record->complete)
        return;
    if (mount_find(record->staging_path, &mounted, NULL) ||
        !attach_owns(&look->node->config, record->volume_id, mounted.device)) {
        tell(look, HEALTH_INACCESSIBLE, "NotMounted",
             "it is not mounted at %s any more: unstage it, and stage it again", record->staging_path);
        return;
    }
    unsigned long errors = str_equal(record->fs_type, "ext4") ? health_ext4_errors(mounted.source) : 0;
    if (mounted.filesystem_shut_down || health_is_shut_down(look))
        tell(look, HEALTH_INACCESSIBLE, "FilesystemShutDown",
             "its %s was shut down after an error (see the kernel's log): unstage it, and stage it again",
             record->fs_type);
    else if (mounted.filesystem_readonly && !record->readonly)
        tell(look, HEALTH_DEGRADED, "FilesystemReadOnly",
             "its %s is read-only, as after an error (see the kernel's log): unstage it, and stage it again",
             record->fs_type);
    else if (errors)
        tell(look, HEALTH_DEGRADED, "FilesystemErrors",
             "its ext4 has found %lu errors in itself (see the kernel's log): unstaging it and staging it "
             "again "
             "has it checked",
             errors);
}

static void health_look_at_path(struct health_look *look, const char *path)
{
    const struct stage_record *record = look->record;
    const struct mount_owner owner = attach_owner(&look->node->config, record->volume_id, record->block);
    _cleanup_mount_info_ struct mount_info mounted = {0};

    if (!*path || str_equal(path, record->staging_path))
        return;
    if (mount_find(path, &mounted, NULL) || !mount_is_of(&mounted, &owner))
        tell(look, HEALTH_INACCESSIBLE, "NotPublished",
             "it is not mounted at %s any more: publish it there again", path);
}

int health_read_volume(struct node *node, const char *volume_id, const char *publish_path,
                       const char *staging_path, struct health *ret, struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};
    _cleanup_health_ struct health health = {0};

    int r = stage_record_load(node->config.state_dir, volume_id, &record, err);
    if (r)
        return r;
    if ((*publish_path && !stage_record_has_path(&record, publish_path)) ||
        (*staging_path && !str_equal(record.staging_path, staging_path)))
        return error_set(err, E_NOT_FOUND, "volume %s is neither staged nor published at %s", volume_id,
                         *staging_path && !str_equal(record.staging_path, staging_path) ? staging_path
                                                                                        : publish_path);
    struct health_look look = {.node = node, .record = &record, .health = &health};
    health_look_at_server(&look);
    health_look_at_device(&look);
    health_look_at_filesystem(&look);
    health_look_at_path(&look, publish_path);
    if (look.r)
        return error_set(err, look.r, "cannot tell the health of volume %s", volume_id);
    *ret = health;
    health = (struct health){0};
    return 0;
}

/* ---- storage servers ---- */

static int health_add_server(struct health *health, const char *id, const struct registrar_view *view)
{
    unsigned long long for_s = (time_now_ms() - view->since_ms) / 1000;

    switch (view->state) {
    case REGISTRAR_REGISTERED:
        return 0;
    case REGISTRAR_UNKNOWN:
        return health_add(health, HEALTH_INACCESSIBLE, "NotReachedYet",
                          "storage server %s has not answered since mooring-node started %llu s ago", id,
                          for_s);
    case REGISTRAR_FENCED:
        return health_add(
            health, HEALTH_INACCESSIBLE, "NodeFenced",
            "storage server %s has fenced this node, for %llu s: no volume of its is served here", id, for_s);
    case REGISTRAR_UNREACHABLE:
        return health_add(health, HEALTH_INACCESSIBLE, "StorageUnreachable",
                          "storage server %s has not answered for %llu s: %s", id, for_s, view->problem);
    }
    return 0;
}

int health_read_storage(struct node *node, struct health *ret, struct error *err)
{
    _cleanup_health_ struct health health = {0};
    const struct server_list *servers = &node->config.servers;

    for (size_t i = 0; i < servers->count; i++) {
        struct registrar_view view;
        registrar_look(node->registrar, i, &view);
        if (health_add_server(&health, servers->items[i].id, &view))
            return error_errno(err, ENOMEM, "cannot tell the storage servers' health");
    }
    *ret = health;
    health = (struct health){0};
    return 0;
}
