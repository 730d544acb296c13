/* CSI's Controller, GroupController and SnapshotMetadata services, for rpc/. */
#pragma once

#include "controller/controller.h"
#include "rpc/rpc.h"

/*
 * The services; controller must outlive the server. The calls of each run on threads of their own; those of
 * the Controller service come in three parts, so that what waits for copies keeps nobody else waiting.
 */
struct rpc_service service_controller(struct controller *controller);
struct rpc_service service_controller_create(struct controller *controller);    /* CreateVolume */
struct rpc_service service_controller_snapshots(struct controller *controller); /* made and deleted */
struct rpc_service service_group(struct controller *controller);
struct rpc_service service_group_looks(struct controller *controller); /* what changes nothing */
struct rpc_service service_metadata(struct controller *controller);
