/*
 * The device's state directory: device.json in, status.json out. Called by main.c at the start, by
 * status_writer.c on an offload thread.
 */
#include "datapath/device/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/secret.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/device/replay_log.h"

#define DEFAULT_SIZE (32 * MIB)

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool isid_parse(const char *text, uint8_t ret_isid[6])
{
    if (!text || strlen(text) != 12)
        return false;
    for (int i = 0; i < 6; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        ret_isid[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static int get_isids(json_t *object, struct device_state *state, struct error *err)
{
    json_t *array;
    int r = record_get_array(object, "isid", &array, err);
    if (r)
        return r;
    for (size_t i = 0; i < json_array_size(array) && i < STATE_SESSIONS_MAX; i++)
        if (!isid_parse(json_string_value(json_array_get(array, i)), state->isids[state->isids_count++]))
            return error_set(err, E_CORRUPT, "isid: each must be 12 hex digits");
    uint64_t sessions = 1;
    r = record_get_optional_uint64(object, "sessions", &sessions, err);
    if (r)
        return r;
    if (sessions != 1 || state->isids_count < 1)
        return error_set(err, E_CORRUPT,
                         "sessions: this build serves a volume over 1 session, with one isid");
    return 0;
}

static int get_portals(json_t *object, struct device_state *state, struct error *err)
{
    json_t *array;
    int r = record_get_array(object, "portals", &array, err);
    if (r)
        return r;
    if (json_array_size(array) < 1 || json_array_size(array) > STATE_PORTALS_MAX)
        return error_set(err, E_CORRUPT, "portals: 1 to %d addresses are needed", STATE_PORTALS_MAX);
    for (size_t i = 0; i < json_array_size(array); i++) {
        const char *text = json_string_value(json_array_get(array, i));
        if (!text || !strrchr(text, ':'))
            return error_set(err, E_CORRUPT, "portals: each must be \"address:port\"");
        state->portals[i] = strdup(text);
        if (!state->portals[i])
            return error_errno(err, ENOMEM, "portals");
        state->portals_count++;
    }
    return 0;
}

static int get_names(json_t *object, struct device_state *state, struct error *err)
{
    const char *volume = NULL, *target = NULL, *initiator = NULL, *name = "", *secret = "";
    const char *mount_point = NULL, *attach = "fuse";
    int r = record_get_string(object, "volume_id", &volume, err);
    r = r ? r : record_get_string(object, "target_name", &target, err);
    r = r ? r : record_get_string(object, "initiator_name", &initiator, err);
    r = r ? r : record_get_string(object, "mount_point", &mount_point, err);
    r = r ? r : record_get_optional_string(object, "chap_name", &name, err);
    r = r ? r : record_get_optional_string(object, "chap_secret", &secret, err);
    r = r ? r : record_get_optional_string(object, "attach", &attach, err);
    if (r)
        return r;
    if (!str_equal(attach, "fuse") && !str_equal(attach, "ublk"))
        return error_set(err, E_CORRUPT, "attach must be \"fuse\" or \"ublk\", not \"%s\"", attach);
    state->attach = str_equal(attach, "ublk") ? DEVICE_ATTACH_UBLK : DEVICE_ATTACH_FUSE;
    if (!str_copy(state->volume_id, sizeof state->volume_id, volume) ||
        !str_copy(state->target_name, sizeof state->target_name, target) ||
        !str_copy(state->initiator_name, sizeof state->initiator_name, initiator))
        return error_set(err, E_CORRUPT, "volume_id, target_name or initiator_name is too long");
    if (mount_point[0] != '/')
        return error_set(err, E_CORRUPT, "mount_point must be an absolute path");
    state->mount_point = strdup(mount_point);
    state->chap_name = name[0] ? strdup(name) : NULL;
    state->chap_secret = secret[0] ? strdup(secret) : NULL;
    if (!state->mount_point || (name[0] && !state->chap_name) || (secret[0] && !state->chap_secret))
        return error_errno(err, ENOMEM, "device.json");
    return 0;
}

static int get_numbers(json_t *object, struct device_state *state, struct error *err)
{
    state->log_size_bytes = state->buffers_size_bytes = DEFAULT_SIZE;
    state->replay = state->resend = true;
    int r = record_get_uint64(object, "epoch", &state->epoch, err);
    r = r ? r : record_get_uint64(object, "generation", &state->generation, err);
    r = r ? r : record_get_uint64(object, "size_bytes", &state->size_bytes, err);
    r = r ? r : record_get_uint64(object, "block_size_bytes", &state->block_size_bytes, err);
    r = r ? r : record_get_optional_uint64(object, "lun", &state->lun, err);
    r = r ? r : record_get_optional_bool(object, "header_digest", &state->header_digest, err);
    r = r ? r : record_get_optional_uint64(object, "log_size_bytes", &state->log_size_bytes, err);
    r = r ? r : record_get_optional_uint64(object, "buffers_size_bytes", &state->buffers_size_bytes, err);
    r = r ? r : record_get_optional_bool(object, "read_only", &state->read_only, err);
    r = r ? r : record_get_optional_bool(object, "replay", &state->replay, err);
    r = r ? r : record_get_optional_bool(object, "resend", &state->resend, err);
    r = r ? r : record_get_optional_bool(object, "fuse_io_uring", &state->fuse_io_uring, err);
    r = r ? r : record_get_optional_uint64(object, "path_timeout_ms", &state->path_timeout_ms, err);
    r = r ? r : record_get_optional_uint64(object, "lease_ms", &state->lease_ms, err);
    if (r)
        return r;
    if (state->lease_ms && state->lease_ms < 1000)
        return error_set(err, E_CORRUPT, "lease_ms must be 0 or at least 1000");
    if (state->block_size_bytes != 512 && state->block_size_bytes != 4096)
        return error_set(err, E_CORRUPT, "block_size_bytes must be 512 or 4096");
    if (state->size_bytes == 0 || state->size_bytes % state->block_size_bytes)
        return error_set(err, E_CORRUPT, "size_bytes must be a multiple of block_size_bytes, and not 0");
    if (state->buffers_size_bytes < 4 * MIB || state->buffers_size_bytes > GIB)
        return error_set(err, E_CORRUPT, "buffers_size_bytes must be 4 MiB to 1 GiB");
    if (state->log_size_bytes < REPLAY_LOG_SIZE_MIN || state->log_size_bytes > 4 * GIB)
        return error_set(err, E_CORRUPT, "log_size_bytes must be 4 MiB to 4 GiB");
    if (state->lun > 255)
        return error_set(err, E_CORRUPT, "lun must be 0 to 255");
    return 0;
}

static void wipe_chap_secret(json_t *object)
{
    json_t *secret = json_object_get(object, "chap_secret");
    if (json_is_string(secret))
        secret_wipe((char *)json_string_value(secret), json_string_length(secret));
}

int device_state_load(struct device_state *state, const char *dir, struct error *err)
{
    *state = (struct device_state){.dir_fd = -1};
    state->dir = realpath(dir, NULL);
    if (!state->dir)
        return error_errno(err, errno, "state directory %s", dir);
    state->dir_fd = open(state->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (state->dir_fd < 0) {
        int r = error_errno(err, errno, "state directory %s", dir);
        device_state_done(state);
        return r;
    }
    _cleanup_json_ json_t *object = NULL;
    int r = record_load(state->dir_fd, "device.json", STATE_FORMAT, &object, err);
    r = r ? r : get_names(object, state, err);
    r = r ? r : get_numbers(object, state, err);
    r = r ? r : get_portals(object, state, err);
    r = r ? r : get_isids(object, state, err);
    wipe_chap_secret(object);
    if (r) {
        error_wrap(err, "%s/device.json", dir);
        device_state_done(state);
    }
    return r;
}

static void free_portals(struct device_state *state)
{
    for (unsigned i = 0; i < state->portals_count; i++)
        free(state->portals[i]);
    state->portals_count = 0;
}

void device_state_done(struct device_state *state)
{
    state->dir_fd = fd_close(state->dir_fd);
    free(state->dir);
    free_portals(state);
    free(state->chap_name);
    state->chap_secret = secret_free(state->chap_secret);
    free(state->mount_point);
    *state = (struct device_state){.dir_fd = -1};
}

static bool same_portals(const struct device_state *a, const struct device_state *b)
{
    for (unsigned i = 0; i < a->portals_count && i < b->portals_count; i++)
        if (!str_equal(a->portals[i], b->portals[i]))
            return false;
    return a->portals_count == b->portals_count;
}

int device_state_renew_portals(struct device_state *state, bool *ret_changed, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    struct device_state fresh = {0};
    int r = record_load(state->dir_fd, "device.json", STATE_FORMAT, &object, err);
    r = r ? r : get_portals(object, &fresh, err);
    wipe_chap_secret(object);
    if (r) {
        free_portals(&fresh);
        error_wrap(err, "%s/device.json", state->dir);
        return r;
    }
    *ret_changed = !same_portals(state, &fresh);
    free_portals(state);
    memcpy(state->portals, fresh.portals, sizeof state->portals);
    state->portals_count = fresh.portals_count;
    return 0;
}

bool device_state_end_asked(const struct device_state *state)
{
    _cleanup_error_ struct error err = {0};
    _cleanup_json_ json_t *object = NULL;
    bool end = false;
    int r = record_load(state->dir_fd, "device.json", STATE_FORMAT, &object, &err);
    r = r ? r : record_get_optional_bool(object, "end", &end, &err);
    wipe_chap_secret(object);
    if (r)
        log_warning("device.json cannot be read again: %s", error_text(&err));
    return r == 0 && end;
}

/* ---- status ---- */

const char *device_status_name(enum device_status_code code)
{
    switch (code) {
    case DEVICE_CONNECTING:
        return "connecting";
    case DEVICE_READY:
        return "ready";
    case DEVICE_WAITING:
        return "waiting";
    case DEVICE_FAILED:
        return "failed";
    case DEVICE_ENDING:
        return "ending";
    case DEVICE_ENDED:
        return "ended";
    }
    return "failed";
}

int device_status_save(int dir_fd, const struct device_status *status, struct error *err)
{
    _cleanup_json_ json_t *object = json_pack(
        "{s:s, s:I, s:I, s:s, s:I, s:s, s:b, s:s, s:i, s:I, s:s, s:I, s:I, s:I, s:I}", "state",
        device_status_name(status->code), "pid", (json_int_t)getpid(), "generation",
        (json_int_t)status->generation, "block_device", status->block_device, "since",
        (json_int_t)status->since_unix_s, "error", status->error, "take_over", status->take_over, "version",
        MOORING_VERSION, "take_over_format", STATE_TAKE_OVER_FORMAT, "size_bytes",
        (json_int_t)status->size_bytes, "resize_error", status->resize_error, "io_errors",
        (json_int_t)status->io_errors, "io_error_at", (json_int_t)status->io_error_unix_s, "failed_requests",
        (json_int_t)status->failed_requests, "failed_in_us", (json_int_t)status->failed_in_us);
    if (!object)
        return error_errno(err, ENOMEM, "status.json");
    return record_save(dir_fd, "status.json", STATE_FORMAT, object, 0600, err);
}
