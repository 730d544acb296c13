/* attach_resize() of the way "iscsi". */
#pragma once

#include <stdint.h>

#include "common/error.h"
#include "node/config.h"

int iscsi_resize(const struct node_config *config, const char *volume_id, uint64_t size_bytes,
                 uint64_t deadline_ms, struct error *err);
