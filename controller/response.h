/* From the Storage service's messages to CSI's. What is filled is the response's: freed with it. 0 or
 * -ENOMEM, after which the response may be half filled. */
#pragma once

#include "controller/controller.h"
#include "proto/csi.pb-c.h"

/* A CSI Volume: size, id, context, and the topology (may be NULL) from which it can be reached. */
int response_volume(const Mooring__Storage__V1__Volume *volume, json_t *topology, Csi__V1__Volume **ret);

/* A CSI Snapshot, and the topology (may be NULL) from which volumes can be made of it. */
int response_snapshot(const Mooring__Storage__V1__Snapshot *snapshot, json_t *topology,
                      Csi__V1__Snapshot **ret);

/* A time of nanoseconds since 1970. NULL when memory ran out. */
Google__Protobuf__Timestamp *response_time(int64_t unix_ns);

/* The nodes that a volume is attached to, those being removed included. */
int response_nodes(const Mooring__Storage__V1__Volume *volume, char ***ret_node_ids, size_t *ret_count);

/* A publish context: see proto/context.h. */
int response_publish_context(const Mooring__Storage__V1__AttachVolumeResponse *attached,
                             const struct server_config *server,
                             Csi__V1__ControllerPublishVolumeResponse *response);

/* A copy of a message, for what is echoed; NULL when memory ran out. */
ProtobufCMessage *response_copy(const ProtobufCMessage *message);

/* A ListVolumes entry: the volume and the nodes it is published on. */
int response_entry(const Mooring__Storage__V1__Volume *volume, json_t *topology,
                   Csi__V1__ListVolumesResponse__Entry **ret);
