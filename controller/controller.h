/*
 * What the parts of the controller share: its state, and CSI's requests as plain structs. Strings of a
 * request are borrowed from its protobuf message, which service.c keeps until the call has ended. No
 * database: every decision is the storage servers'.
 *
 * Calls here block, run on the service's worker threads, and end by deadline_ms of time_now_ms().
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "controller/operation.h"
#include "controller/parameters.h"
#include "controller/storage_client.h"

struct controller {
    struct storage *storage;
    struct operations *operations;
};

/* CSI CapacityRange; 0 means not given. */
struct size_range {
    uint64_t required_bytes;
    uint64_t limit_bytes;
    uint64_t floor_bytes; /* the least that the file system can be made on; 0: any */
};

/* CSI VolumeCapability. mode has CSI's numbers, which are mooring.storage.v1's. */
struct capability {
    bool block; /* else mount */
    int mode;
    const char *fs_type; /* "" when not given */
};

/* CSI TopologyRequirement: arrays of objects of strings, in the caller's order. Owned. */
struct topology_wish {
    json_t *requisite;
    json_t *preferred;
    const char *zone; /* StorageClass parameter, or NULL */
};

struct create_request {
    const char *name;
    struct size_range range;
    struct parameters parameters;
    struct topology_wish wish;
    const char *source_volume_id, *source_snapshot_id; /* at most one is not NULL */
};

/* CreateVolume, idempotent by name. *ret_volume is freed by protobuf_c_message_free_unpacked. */
int volume_create(struct controller *controller, const struct create_request *request, uint64_t deadline_ms,
                  Mooring__Storage__V1__Volume **ret_volume, struct error *err);

/* DeleteVolume: OK only when the volume is gone, or its absence proven, and its name is released everywhere.
 */
int volume_delete(struct controller *controller, const char *volume_id, uint64_t deadline_ms,
                  struct error *err);

/* ControllerPublishVolume. The response is AttachVolume's; server is whose. */
int publish_volume(struct controller *controller, const char *volume_id, const char *node_id,
                   const struct capability *capability, bool readonly, uint64_t deadline_ms,
                   Mooring__Storage__V1__AttachVolumeResponse **ret_response,
                   struct storage_server **ret_server, struct error *err);

/* ControllerUnpublishVolume: OK only after the server said so, after its drain. node_id "": from all. */
int publish_undo(struct controller *controller, const char *volume_id, const char *node_id,
                 uint64_t deadline_ms, struct error *err);

/* ControllerExpandVolume: grow it to the range, unless it is large enough. capability: NULL when not given.
 */
int volume_expand(struct controller *controller, const char *volume_id, const struct size_range *range,
                  const struct capability *capability, uint64_t deadline_ms, uint64_t *ret_size_bytes,
                  struct error *err);

/* ControllerModifyVolume: set what is given of the limits. */
int volume_modify(struct controller *controller, const char *volume_id, const struct limits *limits,
                  uint64_t deadline_ms, struct error *err);

/* The volume as a list has it: with its health, also when its record cannot be read. */
int volume_health(struct controller *controller, const char *volume_id, uint64_t deadline_ms,
                  Mooring__Storage__V1__Volume **ret_volume, struct error *err);

/* GetVolume wherever it is; E_NOT_FOUND is proven. */
int volume_find(struct controller *controller, const char *volume_id, uint64_t deadline_ms,
                Mooring__Storage__V1__Volume **ret_volume, struct error *err);
