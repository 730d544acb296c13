/* Picks the frontend that device.json names. Called by device.c. */
#include "datapath/device/frontend.h"

#include <stddef.h>

#include "datapath/device/fuse_attach.h"
#include "datapath/device/ublk_attach.h"

int frontend_new(struct frontend **ret, const struct frontend_parts *parts, struct error *err)
{
    switch (parts->state->attach) {
    case DEVICE_ATTACH_FUSE:
        return fuse_attach_new(ret, parts, err);
    case DEVICE_ATTACH_UBLK:
        return ublk_attach_new(ret, parts, err);
    }
    return error_set(err, E_INVALID_ARGUMENT, "attach");
}

struct frontend *frontend_free(struct frontend *frontend)
{
    if (frontend)
        frontend->ops->done(frontend);
    return NULL;
}
