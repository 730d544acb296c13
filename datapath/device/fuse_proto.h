/*
 * The kernel's FUSE protocol as the device speaks it: <linux/fuse.h>, and what Debian 12's copy (7.38) lacks,
 * with its source: include/uapi/linux/fuse.h of Linux 6.9, protocol 7.40; what is of io_uring, of Linux 6.14,
 * protocol 7.42.
 */
#pragma once

#include <linux/fuse.h>
#include <stdint.h>

#ifndef FUSE_HAS_RESEND
#define FUSE_HAS_RESEND (1ULL << 39) /* the kernel can send again what a dead server had read */
#endif

#ifndef FUSE_UNIQUE_RESEND
#define FUSE_UNIQUE_RESEND                                                                                   \
    (1ULL << 63) /* set in the unique of a request that is sent again; echoed as it is */
#endif

#ifndef FUSE_OVER_IO_URING
#define FUSE_OVER_IO_URING (1ULL << 41) /* requests go through io_uring commands; see fuse_uring.h */
#endif

#define FUSE_PROTO_NOTIFY_RESEND 7 /* enum fuse_notify_code: FUSE_NOTIFY_RESEND */
#define FUSE_PROTO_STATX 52        /* enum fuse_opcode: FUSE_STATX, Linux 6.6 */

#define FUSE_PROTO_MAX_WRITE (1024u * 1024)
#define FUSE_PROTO_MAX_PAGES 256u
#define FUSE_PROTO_MAX_BACKGROUND 128u

#define FUSE_PROTO_VOLUME_INO 2u
#define FUSE_PROTO_VOLUME_NAME "volume"

/* Of io_uring, under names of our own, since newer headers have them: enum fuse_uring_cmd, and structs
 * fuse_uring_cmd_req, fuse_uring_ent_in_out and fuse_uring_req_header. */
#define FUSE_PROTO_URING_REGISTER 1u
#define FUSE_PROTO_URING_COMMIT_AND_FETCH 2u

/* In the wide entry's command area. */
struct fuse_proto_uring_command {
    uint64_t flags;
    uint64_t commit_id; /* of COMMIT_AND_FETCH: which request is answered */
    uint16_t queue;
    uint8_t unused[6];
};

/* An entry's first buffer; the second is its payload: a request's arguments but the first, or an answer's. */
struct fuse_proto_uring_header {
    uint8_t in_out[128];    /* struct fuse_in_header; for the answer struct fuse_out_header */
    uint8_t operation[128]; /* the request's first argument */
    uint64_t flags;
    uint64_t commit_id;
    uint32_t payload_bytes; /* in use, either way */
    uint32_t unused;
    uint64_t reserved;
};

/* Every entry has a payload for the largest request: a quarter of FUSE_PROTO_MAX_PAGES. */
#define FUSE_URING_MAX_PAGES 64u
