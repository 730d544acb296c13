/*
 * Replacing a volume's device process by the installed program, on purpose. All that can be known beforehand
 * is checked before the old one is ended: that the new one understands what it will find, and that the
 * storage server answers. Runs with the volume's lock held, on an RPC thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach.h"
#include "node/choose.h"
#include "node/node.h"

#define DEVICE_FORMAT 1           /* of the device.json that we write */
#define TAKE_OVER_FORMAT_OF_OLD 1 /* of builds whose status.json does not say it */

static const char *text_of(json_t *object, const char *key, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text && *text ? text : otherwise;
}

/* Whether the process runs the very file that is installed. */
static bool upgrade_is_same(const struct node *node, json_t *status)
{
    _cleanup_free_ char *program = str_format("%s/mooring-device", node->config.libexec_dir);
    _cleanup_free_ char *runs =
        str_format("/proc/%lld/exe", (long long)json_integer_value(json_object_get(status, "pid")));
    struct stat installed, running;

    return program && runs && stat(program, &installed) == 0 && stat(runs, &running) == 0 &&
           installed.st_dev == running.st_dev && installed.st_ino == running.st_ino;
}

static bool upgrade_knows(json_t *check, json_int_t format)
{
    json_t *item;
    size_t i;

    json_array_foreach(json_object_get(check, "take_over_formats"), i, item)
    {
        if (json_integer_value(item) == format)
            return true;
    }
    return false;
}

static int upgrade_check_state(const char *volume_id, json_t *status, struct error *err)
{
    const char *state = text_of(status, "state", "unknown"), *problem = text_of(status, "error", "");

    if (!str_equal(state, "ready"))
        return error_set(err, E_PRECONDITION,
                         "the device of volume %s is %s (%s): it is replaced when it serves", volume_id,
                         state, problem);
    if (!json_is_true(json_object_get(status, "take_over")))
        return error_set(
            err, E_PRECONDITION,
            "the device of volume %s cannot be taken over on this host: unmount the volume, and mount it "
            "again",
            volume_id);
    return 0;
}

/* Old and new of different versions: what one leaves behind the other must know. */
static int upgrade_check_formats(const char *volume_id, json_t *status, json_t *check, struct error *err)
{
    json_t *format = json_object_get(status, "take_over_format");
    json_int_t theirs = format ? json_integer_value(format) : TAKE_OVER_FORMAT_OF_OLD;
    json_int_t reads = json_integer_value(json_object_get(check, "state_format"));

    if (!upgrade_knows(check, theirs))
        return error_set(
            err, E_PRECONDITION,
            "the installed mooring-device (%s) cannot take over from the one of volume %s (%s): it does not "
            "know the log's format %lld; nothing was ended; unmount the volume and mount it again to "
            "change over",
            text_of(check, "version", "of no version"), volume_id,
            text_of(status, "version", "of no version"), (long long)theirs);
    if (reads < DEVICE_FORMAT)
        return error_set(
            err, E_PRECONDITION,
            "the installed mooring-device (%s) reads device.json of format %lld, and this mooring-node "
            "writes %d: install the two of one version",
            text_of(check, "version", "of no version"), (long long)reads, DEVICE_FORMAT);
    return 0;
}

/* E_EXISTS: it is the installed one already. */
static int upgrade_check(struct node *node, const char *volume_id, bool force, unsigned timeout_ms,
                         struct upgrade_result *result, struct error *err)
{
    _cleanup_attachment_ struct storage_attachment attachment = {0};
    _cleanup_json_ json_t *status = NULL;
    _cleanup_json_ json_t *check = NULL;

    int r = attach_status(&node->config, volume_id, &status, err);
    if (!r)
        r = choose_check(&node->config, &check, err);
    if (r)
        return r == E_UNIMPLEMENTED || r == E_NOT_FOUND ? E_PRECONDITION : r;
    str_copy(result->from_version, sizeof(result->from_version), text_of(status, "version", "unknown"));
    str_copy(result->to_version, sizeof(result->to_version), text_of(check, "version", "unknown"));
    if (!force && upgrade_is_same(node, status))
        return error_set(err, E_EXISTS, "the installed program serves it already");
    r = upgrade_check_state(volume_id, status, err);
    if (!r)
        r = upgrade_check_formats(volume_id, status, check, err);
    if (!r)
        r = storage_attachment_get(node->storage, volume_id, timeout_ms, &attachment, err);
    return r;
}

static int upgrade_locked(struct node *node, const char *volume_id, bool force, unsigned timeout_ms,
                          struct upgrade_result *result, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    _cleanup_stage_record_ struct stage_record record = {0};
    _cleanup_attach_device_ struct attach_device device = {0};

    int r = stage_record_load(node->config.state_dir, volume_id, &record, err);
    if (r)
        return r;
    if (!attach_has_process(&node->config, volume_id)) {
        snprintf(result->reason, sizeof(result->reason), "the kernel's own initiator serves it");
        return 0;
    }
    if (!record.complete)
        return error_set(err, E_PRECONDITION, "volume %s is half staged: stage or unstage it first",
                         volume_id);
    r = upgrade_check(node, volume_id, force, timeout_ms, result, err);
    if (r == E_EXISTS) {
        snprintf(result->reason, sizeof(result->reason), "%s", err ? error_text(err) : "");
        error_done(err);
        return 0;
    }
    if (r)
        return r;
    uint64_t now_ms = time_now_ms();
    unsigned left_ms = deadline_ms > now_ms ? (unsigned)(deadline_ms - now_ms) : 1;
    r = attach_replace(&node->config, node->storage, volume_id, left_ms, &result->stalled_ms, err);
    if (!r)
        r = attach_find(&node->config, volume_id, &device, err);
    if (r)
        return error_wrap(err, "volume %s was being upgraded", volume_id);
    result->replaced = true;
    result->generation = device.generation;
    log_info("volume %s: mooring-device %s was replaced by %s; I/O waited %llu ms at most", volume_id,
             result->from_version, result->to_version, (unsigned long long)result->stalled_ms);
    return 0;
}

int upgrade_volume(struct node *node, const char *volume_id, bool force, unsigned timeout_ms,
                   struct upgrade_result *ret, struct error *err)
{
    struct upgrade_result result = {0};
    int r = volume_lock_try(node->locks, volume_id, "UpgradeDevice", err);

    if (r)
        return r;
    r = upgrade_locked(node, volume_id, force, timeout_ms, &result, err);
    volume_lock_release(node->locks, volume_id);
    supervisor_wake(node->supervisor);
    if (!r)
        *ret = result;
    return r;
}
