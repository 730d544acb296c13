/*
 * The kernel's FUSE protocol as the device speaks it: <linux/fuse.h>, and what Debian 12's copy (7.38) lacks,
 * with its source: include/uapi/linux/fuse.h of Linux 6.9, protocol 7.40.
 */
#pragma once

#include <linux/fuse.h>

#ifndef FUSE_HAS_RESEND
#define FUSE_HAS_RESEND (1ULL << 39) /* the kernel can send again what a dead server had read */
#endif

#ifndef FUSE_UNIQUE_RESEND
#define FUSE_UNIQUE_RESEND                                                                                   \
    (1ULL << 63) /* set in the unique of a request that is sent again; echoed as it is */
#endif

#define FUSE_PROTO_NOTIFY_RESEND 7 /* enum fuse_notify_code: FUSE_NOTIFY_RESEND */
#define FUSE_PROTO_STATX 52        /* enum fuse_opcode: FUSE_STATX, Linux 6.6 */

#define FUSE_PROTO_MAX_WRITE (1024u * 1024)
#define FUSE_PROTO_MAX_PAGES 256u
#define FUSE_PROTO_MAX_BACKGROUND 128u

#define FUSE_PROTO_VOLUME_INO 2u
#define FUSE_PROTO_VOLUME_NAME "volume"
