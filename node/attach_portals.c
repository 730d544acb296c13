/*
 * Where the storage server is, for a mooring-device that waits for it: the server may have come back at an
 * address that the device was never told. Called by attach.c (for the supervisor) and attach_device.c.
 */
#include <signal.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/strings.h"
#include "node/attach_device.h"
#include "node/attach_files.h"
#include "node/process.h"

/* "ending" may have a session or none. The status must be the living process's own word: SIGHUP would end one
 * that has only just begun. */
static bool attach_portals_wanted(const struct attach_files *paths)
{
    _cleanup_json_ json_t *status = NULL;
    const char *state = "";
    uint64_t status_pid = 0;
    pid_t pid = 0;

    if (process_find(paths->device_pid, &pid, NULL) || attach_files_load(paths, "status.json", &status, NULL))
        return false;
    record_get_optional_uint64(status, "pid", &status_pid, NULL);
    record_get_optional_string(status, "state", &state, NULL);
    return status_pid == (uint64_t)pid &&
           (str_equal(state, "waiting") || str_equal(state, "connecting") || str_equal(state, "ending"));
}

bool attach_device_waits(const struct node_config *config, const char *volume_id)
{
    _cleanup_attach_files_ struct attach_files paths = {0};

    return attach_files_init(&paths, config, volume_id, NULL) == 0 && attach_portals_wanted(&paths);
}

/* The signal also where nothing changed: who wrote device.json may have been killed before it sent one. */
int attach_device_tell_portals(const struct node_config *config, const struct storage_attachment *attachment,
                               struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};
    uint64_t epoch = 0;
    bool changed = false;

    int r = attach_files_init(&paths, config, attachment->volume_id, err);
    if (r || !attach_portals_wanted(&paths))
        return r;
    r = attach_files_epoch(&paths, &epoch, err);
    if (r || epoch != attachment->epoch)
        return r;
    r = attach_files_set_portals(&paths, attachment, &changed, err);
    if (r)
        return r;
    if (changed)
        log_info("volume %s: its storage server has other portals now, the first at %s: its device is told",
                 attachment->volume_id, attachment->portals[0]);
    return process_signal(paths.device_pid, SIGHUP, err);
}
