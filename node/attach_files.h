/*
 * What one volume's mooring-device and mooring-holder are, on disk: `<volume>/device/device.json`, which we
 * write and mooring-device reads, and `status.json` the other way (datapath/device/state.h says their
 * shapes). Called with the volume's lock held.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "node/config.h"
#include "node/storage.h"

struct attach_files {
    const char *boot_id; /* of the host; the configuration's */
    char *volume_dir;
    char *dir;        /* mooring-device's folder */
    char *device_pid; /* pid files */
    char *holder_pid;
    char *holder_socket;
    char *mount_point; /* of the one-file FUSE mount */
    char *log;
};

int attach_files_init(struct attach_files *paths, const struct node_config *config, const char *volume_id,
                      struct error *err);
void attach_files_done(struct attach_files *paths);
#define _cleanup_attach_files_ __attribute__((cleanup(attach_files_done)))

/* device.json or status.json; E_NOT_FOUND when it is not there. Wipe device.json when done with it: it holds
 * a secret. */
int attach_files_load(const struct attach_files *paths, const char *name, json_t **ret, struct error *err);
void attach_files_wipe(json_t *device);

/* device.json of a granted generation, with what stage.json says of how to attach. */
int attach_files_write(const struct node_config *config, const struct attach_files *paths,
                       const struct storage_attachment *attachment, const struct storage_grant *grant,
                       struct error *err);

int attach_files_save(const struct attach_files *paths, json_t *object, struct error *err);

/* "end" tells mooring-device what SIGTERM means: the end of the attachment, or of the process alone, whose
 * device then waits in the holder for a successor. */
int attach_files_mark_end(const struct attach_files *paths, bool end, struct error *err);
bool attach_files_ending(const struct attach_files *paths);

/* Nothing but "portals"; *ret_changed: they were others. */
int attach_files_set_portals(const struct attach_files *paths, const struct storage_attachment *attachment,
                             bool *ret_changed, struct error *err);

/* The epoch that device.json carries; E_NOT_FOUND when there is none. */
int attach_files_epoch(const struct attach_files *paths, uint64_t *ret_epoch, struct error *err);
