/* What the handlers of the CSI Node service share; see service.c. Internal to the files whose names begin so.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "common/error.h"
#include "proto/csi.pb-c.h"

struct rpc_call;

/* E_INVALID_ARGUMENT, naming the field, when it is missing or not of its kind. */
int service_require(const char *value, const char *field, struct error *err);
int service_require_volume(const char *volume_id,
                           struct error *err); /* E_NOT_FOUND when it is no id of ours */
int service_require_path(const char *path, const char *field, struct error *err);
/* And E_PRECONDITION for an access mode that a mounted volume cannot have. */
int service_require_capability(const Csi__V1__VolumeCapability *capability, struct error *err);

bool service_is_block(const Csi__V1__VolumeCapability *capability);
unsigned service_timeout_ms(struct rpc_call *call); /* to answer in before the caller's deadline */

/* ---- service_volume.c: handlers ---- */

int service_volume_health(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                          void *context, struct error *err);
int service_storage_health(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                           void *context, struct error *err);
int service_expand(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                   void *context, struct error *err);
