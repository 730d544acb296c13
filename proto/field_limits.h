/* CSI's size limits of requests, for every service alike. Stateless; any thread. CSI 1.13, "Size Limits". */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "common/error.h"

/*
 * Strings of at most 128 bytes, maps of at most 4 KiB (keys and values), with the specification's exceptions:
 * a node_id has 256 bytes, a path as much as the kernel takes, mount_flags 4 KiB in all. What is longer is
 * E_INVALID_ARGUMENT, naming the field. For rpc_service.check.
 */
int field_limits_check(const ProtobufCMessage *request, struct error *err);
