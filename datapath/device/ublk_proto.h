/*
 * The kernel's ublk interface as the device speaks it: <linux/ublk_cmd.h>, and what Debian 12's copy (6.1)
 * lacks, with its source: include/uapi/linux/ublk_cmd.h of Linux 6.5 (ioctl-encoded commands, user copy), 6.9
 * (DEL_DEV_ASYNC) and 7.0 (TRY_STOP_DEV). Since 6.4 commands are encoded as ioctl numbers are; a kernel may
 * be built without the bare ones.
 */
#pragma once

#include <linux/ublk_cmd.h>
#include <sys/ioctl.h>

#define UBLK_PROTO_GET_DEV_INFO _IOR('u', 0x02, struct ublksrv_ctrl_cmd)
#define UBLK_PROTO_ADD_DEV _IOWR('u', 0x04, struct ublksrv_ctrl_cmd)
#define UBLK_PROTO_DEL_DEV _IOWR('u', 0x05, struct ublksrv_ctrl_cmd)
#define UBLK_PROTO_START_DEV _IOWR('u', 0x06, struct ublksrv_ctrl_cmd)
#define UBLK_PROTO_STOP_DEV _IOWR('u', 0x07, struct ublksrv_ctrl_cmd)
#define UBLK_PROTO_SET_PARAMS _IOWR('u', 0x08, struct ublksrv_ctrl_cmd)
#define UBLK_PROTO_START_USER_RECOVERY _IOWR('u', 0x10, struct ublksrv_ctrl_cmd)
#define UBLK_PROTO_END_USER_RECOVERY _IOWR('u', 0x11, struct ublksrv_ctrl_cmd)
#define UBLK_PROTO_GET_FEATURES _IOR('u', 0x13, struct ublksrv_ctrl_cmd)
#define UBLK_PROTO_DEL_DEV_ASYNC _IOR('u', 0x14, struct ublksrv_ctrl_cmd)
#define UBLK_PROTO_UPDATE_SIZE _IOWR('u', 0x15, struct ublksrv_ctrl_cmd) /* Linux 6.16 */
#define UBLK_PROTO_TRY_STOP_DEV _IOWR('u', 0x17, struct ublksrv_ctrl_cmd)

#define UBLK_PROTO_FETCH_REQ _IOWR('u', 0x20, struct ublksrv_io_cmd)
#define UBLK_PROTO_COMMIT_AND_FETCH_REQ _IOWR('u', 0x21, struct ublksrv_io_cmd)

#define UBLK_PROTO_F_CMD_IOCTL_ENCODE (1ULL << 6)
#define UBLK_PROTO_F_USER_COPY (1ULL << 7)
#define UBLK_PROTO_F_UPDATE_SIZE (1ULL << 10)
#define UBLK_PROTO_F_SAFE_STOP_DEV (1ULL << 17)

#define UBLK_PROTO_FEATURES_LENGTH 8

/* Where in the character device a request's data is: pread() takes a write's, pwrite() gives a read's. */
#define UBLK_PROTO_TAG_SHIFT 25
#define UBLK_PROTO_DATA(tag) (UBLKSRV_IO_BUF_OFFSET + ((uint64_t)(tag) << UBLK_PROTO_TAG_SHIFT))

/* Of a device of ours. */
#define UBLK_PROTO_DEPTH 128u
#define UBLK_PROTO_DEPTH_MAX 1024u
#define UBLK_PROTO_MAX_IO (1024u * 1024)
#define UBLK_PROTO_FLAGS                                                                                     \
    (UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_PROTO_F_CMD_IOCTL_ENCODE |                   \
     UBLK_PROTO_F_USER_COPY)
