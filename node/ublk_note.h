/*
 * Which ublk device is one volume's: `<state_dir>/volumes/<volume id>/ublk.json`, written before anybody is
 * told of the device, and gone with the staging. It outlives the device, since what is mounted from it does,
 * and then nothing else tells whose that is. The note of an earlier boot counts for nothing. Saved with the
 * volume's lock held; loaded by any thread.
 */
#pragma once

#include "common/error.h"
#include "node/attach_files.h"
#include "node/ublk_device.h"

/* E_NOT_FOUND when there is none of this boot. */
int ublk_note_load(const struct attach_files *paths, struct ublk_device *ret, struct error *err);

/* Durable on 0. Writes nothing when it is noted already. */
int ublk_note_save(const struct attach_files *paths, const struct ublk_device *device, struct error *err);
