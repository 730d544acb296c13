/* mooring-device --check and --remove. */
#pragma once

#include "common/error.h"
#include "datapath/device/state.h"

/*
 * Print which ways to attach work on this machine, for mooring-node and for people:
 *
 *   { "auto": "fuse", "kernel": "6.1.0-28-amd64", "fuse": { "usable": true, "why": "" },
 *     "ublk": { "usable": false, "why": "Linux 6.1.0-28-amd64: before Linux 6.5, …" } }
 *
 *     and "fuse_io_uring" likewise (whether a mount made now would get it), "version", "state_format" (of
 * device.json) and "take_over_formats", a list: whose builds' log, ledger and holder this one takes over
 * ("take_over_format" of status.json).
 *
 * "auto": the way that attach=auto takes, "" for none. "why": words, unless usable. Nothing is changed, no
 * module is loaded.
 */
int attach_check_print(struct error *err);

/* End what processes that are gone left of the volume's ublk device, its users' I/O included. 0 also when
 * there is nothing. Blocks where the kernel has not noticed yet that they are gone; E_BUSY when they are not.
 */
int attach_check_remove(const struct device_state *state, struct error *err);
