/* Picks the frontend that device.json names. Called by device.c. */
#include "datapath/device/frontend.h"

#include <stddef.h>

#include "datapath/device/fuse_attach.h"

int frontend_new(struct frontend **ret, const struct frontend_parts *parts, struct error *err)
{
    switch (parts->state->attach) {
    case DEVICE_ATTACH_FUSE:
        return fuse_attach_new(ret, parts, err);
    case DEVICE_ATTACH_UBLK:
        break;
    }
    return error_set(err, E_UNIMPLEMENTED, "\"attach\": \"ublk\" is not built in");
}

struct frontend *frontend_free(struct frontend *frontend)
{
    if (frontend)
        frontend->ops->done(frontend);
    return NULL;
}
