/*
 * The table of kernels with an unsound ublk driver. Facts from the driver's history, its CVE records and the
 * threads named in each entry. Called by ublk_attach.c and attach_check.c; pure.
 */
#include "datapath/device/ublk_kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"

#define VERSION(a, b, c) ((uint64_t)(a) << 32 | (uint64_t)(b) << 16 | (uint64_t)(c))

struct bad_kernels {
    uint64_t from, before;
    const char *suffix; /* what release must contain besides, or NULL */
    const char *why;
};

static const struct bad_kernels table[] = {
    {0, VERSION(6, 0, 0), NULL,
     "ublk came with Linux 6.0; which fixes a driver has that was put into an older kernel cannot be told"},
    {VERSION(6, 0, 0), VERSION(6, 5, 0), NULL,
     "before Linux 6.5, ublk has no user copy (UBLK_F_USER_COPY), by which a write's data gets into the "
     "replay log"},
    {VERSION(6, 5, 0), VERSION(6, 7, 0), NULL,
     "before Linux 6.7, ublk cannot cancel the commands of a server that ends; it looks for dead ones every "
     "5 s"},
    {VERSION(6, 7, 0), VERSION(6, 12, 23), NULL,
     "a crash of the server can crash this kernel: use after free of its commands (CVE-2025-22068, fixed in "
     "6.12.23; "
     "https://github.com/spdk/spdk/issues/3384)"},
    {VERSION(6, 13, 0), VERSION(6, 14, 6), NULL,
     "a crash of the server can crash this kernel: commands are cancelled while a request is on its way "
     "(CVE-2025-37906, fixed in 6.14.6; CVE-2025-22068)"},
    {VERSION(6, 17, 0), VERSION(6, 17, 1), "-10",
     "Ubuntu's 6.17.0-10xx kernels crash when a ublk device is added "
     "(https://bugs.launchpad.net/bugs/2154635, "
     "https://github.com/longhorn/longhorn/issues/13509)"},
    {VERSION(6, 18, 3), VERSION(6, 18, 6), NULL,
     "Linux 6.18.3 to 6.18.5 can crash: a partition table is read of a device that may be gone; 6.18.4 and "
     "6.18.5 do crash when a device is added (both fixed in 6.18.6; "
     "https://lore.kernel.org/linux-block/20260109121454.278336-1-ming.lei@redhat.com/, "
     "https://github.com/zabbly/linux/issues/52)"},
    {VERSION(6, 12, 23), VERSION(6, 13, 0), NULL,
     "Linux 6.12 cancels the commands of a server's successor for those of the server that died, and its end "
     "beside io_uring's is unsound: 6.12.95 was seen to crash while a killed server's device was taken over"},
    {VERSION(6, 13, 0), VERSION(6, 18, 3), NULL,
     "the server can be caught in a deadlock while a partition table is read (CVE-2025-68823, fixed in "
     "6.18.3; "
     "https://github.com/ublk-org/ublksrv/issues/170)"},
};

/* The first that fits is told: what is worse stands before. */
const char *ublk_kernels_problem(const char *release)
{
    uint64_t major, minor, patch = 0;
    const char *rest;
    if (!str_parse_uint64(release, &major, &rest) || *rest != '.' ||
        !str_parse_uint64(rest + 1, &minor, &rest))
        return NULL;
    if (*rest == '.' && !str_parse_uint64(rest + 1, &patch, &rest))
        patch = 0;
    uint64_t version = VERSION(major, minor, patch);
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        const struct bad_kernels *bad = &table[i];
        bool in_range = version >= bad->from && version < bad->before;
        if (in_range && (!bad->suffix || strstr(release, bad->suffix)))
            return bad->why;
    }
    return NULL;
}
