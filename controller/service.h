/* CSI's Controller service, for rpc/. */
#pragma once

#include "controller/controller.h"
#include "rpc/rpc.h"

/* The service; controller must outlive the server. Its calls run on threads of their own. */
struct rpc_service service_controller(struct controller *controller);
