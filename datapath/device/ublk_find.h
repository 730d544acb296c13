/*
 * Which ublk device is a volume's: the kernel keeps 64 bits for the server with each device (ublksrv_flags),
 * and Mooring puts a mark of the volume and its state directory there. A device with another mark is
 * another's, and is never touched. Blocking, short; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "datapath/device/state.h"
#include "datapath/device/ublk_control.h"

/* The mark: 16 bits that say Mooring, 48 of a hash of the volume's id and the state directory's path. */
uint64_t ublk_find_mark(const char *volume_id, const char *dir);

/* The first device with this mark; E_NOT_FOUND when there is none, E_UNIMPLEMENTED when there is no driver.
 */
int ublk_find(uint64_t mark, struct ublksrv_ctrl_dev_info *ret_info, struct error *err);

/* End every device with this mark, its users' I/O included. wait_ms: for a dead server to be seen as such;
 * E_BUSY when one is served after that. */
int ublk_find_remove(uint64_t mark, unsigned wait_ms, struct error *err);

/* Whether someone has the block device open, holds it or has it mounted, as far as /proc shows it. */
bool ublk_find_in_use(uint32_t id);
