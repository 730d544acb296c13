/* The frontend "ublk": /dev/ublkbN. See frontend.h. */
#pragma once

#include "datapath/device/frontend.h"

/* E_UNIMPLEMENTED, with words, where this kernel's driver is not there, not enough, or known to be bad. */
int ublk_attach_new(struct frontend **ret, const struct frontend_parts *parts, struct error *err);

/* Whether it would be. */
int ublk_attach_check(struct error *err);
