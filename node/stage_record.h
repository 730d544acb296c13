/*
 * What this node knows of one staged volume: `<state_dir>/volumes/<volume id>/stage.json`. Written before the
 * first step of staging and removed after the last of unstaging, so that whatever is left over has an owner.
 * Beside it: `device/` (mooring-device's own folder), `device.pid`, `holder.pid` (node/process.h) and `log`.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/id.h"

#define STAGE_RECORD_FORMAT 1
#define STAGE_PUBLISHES_MAX 64
#define STAGE_ATTACH_SIZE 8

struct stage_publish {
    char *target_path;
    bool readonly;
};

struct stage_record {
    char volume_id[ID_VOLUME_MAX + 1];
    char boot_id[ID_BOOT_LENGTH +
                 1]; /* of the host that staged it: another one means that its processes are gone */
    uint64_t epoch;
    bool block;                     /* volumeMode Block: no file system of ours */
    bool readonly;                  /* the attachment is */
    bool single;                    /* SINGLE_NODE_SINGLE_WRITER, for builds that know no access_mode */
    uint64_t access_mode;           /* node/access_mode.h; 0 in records of before it */
    bool complete;                  /* staging got to its end */
    char attach[STAGE_ATTACH_SIZE]; /* the way that was chosen: "fuse", "ublk" or "iscsi" (node/attach_way.h)
                                     */
    uint64_t path_timeout_ms;       /* 0: I/O waits for ever */
    uint64_t lease_ms;              /* 0: none */
    uint64_t sessions;              /* data sessions */
    char *staging_path;
    char *fs_type;       /* "" for block */
    char *mount_options; /* comma-separated */
    struct stage_publish *publishes;
    size_t publishes_count;
};

void stage_record_done(struct stage_record *record);
#define _cleanup_stage_record_ __attribute__((cleanup(stage_record_done)))

/* `<state_dir>/volumes/<volume id>[/<name>]` on the heap; NULL when memory ran out. */
char *stage_record_path(const char *state_dir, const char *volume_id, const char *name);

/* E_NOT_FOUND when the volume is not staged here. */
int stage_record_load(const char *state_dir, const char *volume_id, struct stage_record *ret,
                      struct error *err);

/* Makes the volume's folder if need be. Durable on 0. */
int stage_record_save(const char *state_dir, const struct stage_record *record, struct error *err);

/* Remove the volume's folder with all that is in it, the record last. */
int stage_record_remove(const char *state_dir, const char *volume_id, struct error *err);

/* Call visit() for each volume id that has a folder. */
int stage_record_each(const char *state_dir, void (*visit)(const char *volume_id, void *context),
                      void *context, struct error *err);

/* Whether the volume is staged or published at path. */
bool stage_record_has_path(const struct stage_record *record, const char *path);

int stage_record_add_publish(struct stage_record *record, const char *target_path, bool readonly);
void stage_record_remove_publish(struct stage_record *record, const char *target_path);
