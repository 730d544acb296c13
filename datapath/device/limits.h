/* What a session learned of the volume before its first command: READ CAPACITY(16), VPD pages B0 and B2. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct volume_limits {
    uint64_t size_bytes;
    uint32_t block_size_bytes;
    uint32_t transfer_max_bytes; /* of one READ or WRITE; never 0 */
    uint64_t unmap_max_bytes;    /* of one UNMAP; 0: no UNMAP that reads back as zeroes */
    uint64_t same_max_bytes;     /* of one WRITE SAME(16); 0: there is none */
    bool same_unmaps;            /* WRITE SAME(16) takes the UNMAP bit */
    bool write_through;          /* no boot id page, not a mooring-target: every write is FUA */
};
