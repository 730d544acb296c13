/*
 * /dev/ublk-control: making, finding, taking over and ending ublk devices. Each call opens the control device
 * and a small ring of its own, sends one command and waits for its end: for any thread but the loop's, whose
 * work some of these wait for.
 */
#pragma once

#include <stdint.h>

#include "common/error.h"
#include "datapath/device/ublk_proto.h"

#define UBLK_CONTROL_ANY UINT32_MAX /* dev_id of add: the kernel chooses */

/* What the driver can do, UBLK_F_…; E_UNIMPLEMENTED where there is no driver, or not for this process. */
int ublk_control_features(uint64_t *ret_features, struct error *err);

/* E_NOT_FOUND when there is no such device. */
int ublk_control_info(uint32_t id, struct ublksrv_ctrl_dev_info *ret_info, struct error *err);

/* info: what is wanted; becomes what the kernel granted, with the id. */
int ublk_control_add(struct ublksrv_ctrl_dev_info *info, struct error *err);
int ublk_control_set_params(uint32_t id, struct ublk_params *params, struct error *err);

/* The block device appears. Waits until every tag was fetched; reads the partition table. */
int ublk_control_start(uint32_t id, struct error *err);

/* Wait until the dead server's last command has ended, at most timeout_ms; then its place is free. */
int ublk_control_recover_begin(uint32_t id, unsigned timeout_ms, struct error *err);
int ublk_control_recover_end(uint32_t id, struct error *err);

/* The block device has so many bytes from here on. E_UNIMPLEMENTED before Linux 6.16. */
int ublk_control_resize(uint32_t id, uint64_t size_bytes, struct error *err);

/* Only if nobody has it open: E_BUSY. E_UNIMPLEMENTED before Linux 7.0. */
int ublk_control_try_stop(uint32_t id, struct error *err);

/* Take the block device away, from its users too. Waits for what the server holds. 0 also when it is gone. */
int ublk_control_stop(uint32_t id, struct error *err);

/* Remove the device; its number is free once its last user has closed it. 0 also when it is gone. */
int ublk_control_delete(uint32_t id, struct error *err);
