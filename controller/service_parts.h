/* What the files of the CSI services share (service.c, service_change.c, service_snapshot.c …). Internal to
 * them. */
#pragma once

#include "controller/controller.h"
#include "proto/csi.pb-c.h"

/* A handler (rpc.h); context is the struct controller. */
#define SERVICE_HANDLER(name)                                                                                \
    int name(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,             \
             void *context, struct error *err)

/* The deadline for our work, of time_now_ms(): shortly before the caller's. */
uint64_t service_deadline(struct rpc_call *call);

/* 0, or the error for -ENOMEM while an answer was filled. */
int service_memory(int r, struct error *err);

/* service_change.c */
SERVICE_HANDLER(service_expand_volume);
SERVICE_HANDLER(service_modify_volume);
SERVICE_HANDLER(service_get_health);
SERVICE_HANDLER(service_list_health);

/* service_snapshot.c */
SERVICE_HANDLER(service_create_snapshot);
SERVICE_HANDLER(service_delete_snapshot);
SERVICE_HANDLER(service_list_snapshots);
SERVICE_HANDLER(service_get_snapshot);

/* A CSI Snapshot with the topology of its server. */
int service_fill_snapshot(struct controller *controller, const Mooring__Storage__V1__Snapshot *snapshot,
                          Csi__V1__Snapshot **ret, struct error *err);
