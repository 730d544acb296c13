/*
 * A volume of "fuse" or "ublk" that has grown: its mooring-device is asked (SIGHUP) to ask the storage server
 * for the size, until status.json shows that the block device has it. Called by attach.c.
 */
#include <poll.h>
#include <signal.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach_device.h"
#include "node/attach_files.h"
#include "node/process.h"

#define POLL_MS 10
#define ASK_MS 500
#define REFUSED_MS 1500 /* what an earlier asking was refused with is not believed before */

/* One look. 0: it has the size. *ret_asks: the living process's own word, so that it knows SIGHUP. */
static int attach_device_resize_look(const struct attach_files *paths, uint64_t size_bytes, bool *ret_asks,
                                     const char **ret_refusal, json_t **ret_status, struct error *err)
{
    const char *state = "starting", *problem = "", *refusal = "", *version = "?";
    uint64_t now_bytes = 0, status_pid = 0;
    json_t *status = NULL;
    pid_t pid;

    *ret_asks = false;
    if (process_find(paths->device_pid, &pid, NULL))
        return error_set(err, E_UNAVAILABLE, "mooring-device has ended");
    if (attach_files_load(paths, "status.json", &status, NULL) == 0)
        *ret_status = status;
    record_get_optional_uint64(status, "pid", &status_pid, NULL);
    if (status_pid != (uint64_t)pid)
        return error_set(err, E_UNAVAILABLE, "mooring-device is starting");
    record_get_optional_string(status, "state", &state, NULL);
    record_get_optional_string(status, "error", &problem, NULL);
    record_get_optional_string(status, "version", &version, NULL);
    record_get_optional_string(status, "resize_error", &refusal, NULL);
    record_get_optional_uint64(status, "size_bytes", &now_bytes, NULL);
    if (now_bytes >= size_bytes)
        return 0;
    if (str_equal(state, "failed"))
        return error_set(err, E_PRECONDITION, "the storage server refused the device: %s", problem);
    if (!json_object_get(status, "size_bytes"))
        return error_set(err, E_PRECONDITION,
                         "its mooring-device (version %s) cannot grow while it runs: mooring node upgrade "
                         "replaces it in place",
                         version);
    *ret_asks = true;
    *ret_refusal = refusal;
    return error_set(err, E_UNAVAILABLE, "the device is %s%s%s, and has %llu of %llu bytes", state,
                     *problem ? ": " : "", problem, (unsigned long long)now_bytes,
                     (unsigned long long)size_bytes);
}

int attach_device_resize(const struct node_config *config, const char *volume_id, uint64_t size_bytes,
                         uint64_t deadline_ms, struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};
    uint64_t began_ms = time_now_ms(), asked_ms = 0;

    int r = attach_files_init(&paths, config, volume_id, err);
    if (r)
        return r;
    for (;;) {
        _cleanup_error_ struct error why = {0};
        _cleanup_json_ json_t *status = NULL;
        const char *refusal = "";
        bool asks;

        r = attach_device_resize_look(&paths, size_bytes, &asks, &refusal, &status, &why);
        uint64_t now_ms = time_now_ms();
        if (r && *refusal && (now_ms - began_ms >= REFUSED_MS || now_ms >= deadline_ms))
            return error_set(err, E_PRECONDITION, "the block device of volume %s keeps its size: %s",
                             volume_id, refusal);
        if (r != E_UNAVAILABLE || now_ms >= deadline_ms) {
            error_move(err, &why);
            return r ? error_wrap(err, "volume %s", volume_id) : 0;
        }
        if (asks && (!asked_ms || now_ms - asked_ms >= ASK_MS)) {
            asked_ms = now_ms;
            process_signal(paths.device_pid, SIGHUP, NULL);
        }
        poll(NULL, 0, POLL_MS);
    }
}
