/* What the parts of mooring-node share, and the operations on volumes behind the CSI service. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "node/access_mode.h"
#include "node/config.h"
#include "node/stage_record.h"
#include "node/storage.h"
#include "node/volume_lock.h"

struct registrar;
struct supervisor;

struct node {
    struct node_config config;
    struct storage *storage;
    struct volume_locks *locks;
    struct supervisor *supervisor;
    struct registrar *registrar;
};

/* ---- stage.c: CSI NodeStageVolume and NodeUnstageVolume ---- */

struct stage_request {
    const char *volume_id;
    const char *staging_path;
    uint64_t epoch; /* of the publish context: the attachment that this staging is for */
    bool block;
    enum access_mode access_mode;
    const char *fs_type;       /* "" : FILESYSTEM_DEFAULT for a blank volume, what is found otherwise */
    const char *mount_options; /* comma-separated */
    const char *mkfs_options;
    const char *attach; /* "" or a way (node/choose.h) */
    uint64_t path_timeout_ms, lease_ms, sessions;
    uint64_t deadline_ms; /* by time_now_ms() */
};

/* Idempotent, also against a call that stopped half-way. An older epoch's staging is torn down first. */
int stage_volume(struct node *node, const struct stage_request *request, struct error *err);
int stage_unstage(struct node *node, const char *volume_id, const char *staging_path, unsigned timeout_ms,
                  struct error *err);

/* At start: what an earlier life of this host left over is taken away. */
void stage_sweep_all(struct node *node);

/* ---- publish.c: CSI NodePublishVolume and NodeUnpublishVolume ---- */

struct publish_request {
    const char *volume_id;
    const char *staging_path;
    const char *target_path;
    enum access_mode access_mode;
    bool block;
    bool readonly;
};

int publish_volume(struct node *node, const struct publish_request *request, struct error *err);
int publish_unpublish(struct node *node, const char *volume_id, const char *target_path, struct error *err);

/* What NodePublishVolume had made for a mount that is gone, and that no NodeUnpublishVolume knows any more.
 * Something else that is there by now stays. */
void publish_forget(const char *target_path);

/* ---- expand.c: CSI NodeExpandVolume ---- */

struct expand_request {
    const char *volume_id;
    const char *path;                     /* where it is staged or published */
    const char *staging_path;             /* "": not said */
    uint64_t required_bytes, limit_bytes; /* 0: not said */
    bool has_capability, block;           /* block: of the capability */
    const char *fs_type;                  /* "": not said */
    uint64_t deadline_ms;                 /* by time_now_ms() */
};

/* *ret_bytes: what the volume has here now. */
int expand_volume(struct node *node, const struct expand_request *request, uint64_t *ret_bytes,
                  struct error *err);

/* The mounted file system of a staged volume takes all of its device; 0 also when it does already. */
int expand_filesystem(struct node *node, const struct stage_record *record, const char *device,
                      struct error *err);

/* ---- stats.c: CSI NodeGetVolumeStats ---- */

struct stats_usage {
    int64_t total, used, available;
};
struct stats {
    struct stats_usage bytes, inodes; /* a block volume has bytes.total only */
    bool has_inodes;
};

/* Within timeout_ms, and a few seconds: E_UNAVAILABLE when the file system does not answer. */
int stats_read(struct node *node, const char *volume_id, const char *path, unsigned timeout_ms,
               struct stats *ret, struct error *err);

/* ---- health.c: CSI NodeGetVolumeHealth and NodeGetStorageHealth ---- */

enum health_kind { HEALTH_DEGRADED, HEALTH_INACCESSIBLE };

struct health_entry {
    enum health_kind kind;
    const char *reason; /* one word, a literal: for programs */
    char *message;      /* for people */
};

/* Nothing is wrong where there is none. */
struct health {
    struct health_entry *entries;
    size_t count;
};
void health_done(struct health *health);
#define _cleanup_health_ __attribute__((cleanup(health_done)))

/* Of a volume that is staged here: its device, its file system, its mounts. Paths may be "". Waits for no I/O
 * of the volume. E_NOT_FOUND when it is not staged, or not there. */
int health_read_volume(struct node *node, const char *volume_id, const char *publish_path,
                       const char *staging_path, struct health *ret, struct error *err);

/* Of the storage servers, as the heartbeat found them. */
int health_read_storage(struct node *node, struct health *ret, struct error *err);

/* ---- upgrade.c: mooring.node.v1 ---- */

struct upgrade_result {
    bool replaced;
    char reason[256]; /* why not */
    char from_version[32], to_version[32];
    uint64_t stalled_ms;
    uint64_t generation;
};

/* The volume's device process, replaced by the installed program. E_PRECONDITION, before anything was ended,
 * when that could not take over. force: also when it is the same program. */
int upgrade_volume(struct node *node, const char *volume_id, bool force, unsigned timeout_ms,
                   struct upgrade_result *ret, struct error *err);

/* ---- end_devices.c: a shutdown of the host ---- */

/*
 * Unmount what nobody uses, and end all devices in good order, within about timeout_ms. E_BUSY when volumes
 * are left: the log says which and why. For a program that does nothing else: it may end the process.
 */
int end_devices(struct node *node, unsigned timeout_ms, struct error *err);

/* ---- supervisor.c: successors for device processes that died ---- */

int supervisor_new(struct supervisor **ret, struct node *node, struct error *err);
struct supervisor *supervisor_free(struct supervisor *supervisor);
void supervisor_wake(struct supervisor *supervisor); /* the set of volumes changed */

/* ---- registrar.c: registration and heartbeat, a thread a server ---- */

enum registrar_state { REGISTRAR_UNKNOWN, REGISTRAR_REGISTERED, REGISTRAR_FENCED, REGISTRAR_UNREACHABLE };

/* What a storage server's last heartbeat ended with. */
struct registrar_view {
    enum registrar_state state;
    uint64_t since_ms; /* by time_now_ms() */
    char problem[256]; /* of UNREACHABLE */
};

int registrar_new(struct registrar **ret, struct node *node, struct error *err);
struct registrar *registrar_free(struct registrar *registrar);

/* Of server `index` of the configuration; waits for nothing. */
void registrar_look(struct registrar *registrar, size_t index, struct registrar_view *ret);

/* Has any storage server taken the registration since the start? Waits for nothing. */
bool registrar_has_registered(struct registrar *registrar);

/* ---- service.c: CSI on the wire ---- */

struct rpc_service;
void service_node(struct node *node, struct rpc_service *ret);
void service_devices(struct node *node, struct rpc_service *ret); /* service_devices.c: mooring.node.v1 */
