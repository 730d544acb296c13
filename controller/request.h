/*
 * CSI's requests checked and taken out of protobuf: required fields, size limits (128 bytes a string, 4 KiB a
 * map), banned characters, and what the pure rules say of parameters and capabilities. All refusals are
 * E_INVALID_ARGUMENT or, for capacity ranges, E_OUT_OF_RANGE, and name the field.
 */
#pragma once

#include "controller/controller.h"
#include "controller/group.h"
#include "controller/snapshot.h"
#include "proto/csi.pb-c.h"

#define REQUEST_STRING_MAX 128
#define REQUEST_MAP_MAX 4096

/* A required string field. */
int request_string(const char *field, const char *value, struct error *err);

/* A map field of at most 4 KiB. */
int request_map(const char *field, const void *entries, size_t count, struct error *err);

/* One capability, complete and served; NULL is "missing". */
int request_capability(const Csi__V1__VolumeCapability *message, struct capability *ret, struct error *err);

/* An object of strings from a Topology. */
int request_topology(const Csi__V1__Topology *message, json_t **ret, struct error *err);

/* CreateVolume's whole. The caller calls request_create_done(), also after a failure. */
int request_create(const Csi__V1__CreateVolumeRequest *message, struct create_request *ret,
                   struct error *err);
void request_create_done(struct create_request *request);

/* ControllerExpandVolume's. ret_capability is filled where the request has one. */
int request_expand(const Csi__V1__ControllerExpandVolumeRequest *message, struct size_range *ret_range,
                   struct capability *ret_capability, struct error *err);

/* CreateSnapshot's. The caller calls request_snapshot_done(), also after a failure. */
int request_snapshot(const Csi__V1__CreateSnapshotRequest *message, struct snapshot_request *ret,
                     struct error *err);
void request_snapshot_done(struct snapshot_request *request);

/* CreateVolumeGroupSnapshot's; borrowed from the message. */
int request_group(const Csi__V1__CreateVolumeGroupSnapshotRequest *message, struct group_request *ret,
                  struct error *err);
