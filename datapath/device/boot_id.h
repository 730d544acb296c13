/*
 * The target's boot id: mooring-target draws one at each start and shows it in the vendor VPD page 0xC0, as
 * 32 ASCII hex digits from byte 4 on. Each session reads it before its first write; where it differs from
 * the replay log's, answered writes may have been lost with the old process (invariant 1). Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/id.h"
#include "datapath/device/replay_log.h"

#define BOOT_ID_PAGE 0xC0

/* Parse the page as INQUIRY returned it. */
bool boot_id_parse(const uint8_t *page, size_t length, char ret_boot_id[ID_BOOT_LENGTH + 1]);

/* Must the log be replayed to a target of this boot id? "" is a foreign target: never. */
bool boot_id_needs_replay(const struct replay_log *log, const char *boot_id);
