/* The frontend "fuse": a FUSE mount of one file under a loop device. See frontend.h. */
#pragma once

#include "datapath/device/frontend.h"

int fuse_attach_new(struct frontend **ret, const struct frontend_parts *parts, struct error *err);
