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

SERVICE_HANDLER(service_expand_volume);
SERVICE_HANDLER(service_modify_volume);
SERVICE_HANDLER(service_get_health);
SERVICE_HANDLER(service_list_health);
