/*
 * What the controller tells the node through the CO: the keys of a volume's context (fixed at its creation)
 * and of a publish context (one attachment). Both are opaque to the CO, cached by it and shown to people:
 * never a secret (invariant 11); the node fetches the CHAP secret itself. CSI: CreateVolume,
 * ControllerPublishVolume.
 */
#pragma once

/* publish context: every key is always there */
#define CONTEXT_PORTALS "portals"              /* iSCSI portals "address:port", comma-separated */
#define CONTEXT_IQN "iqn"                      /* target name of the volume */
#define CONTEXT_LUN "lun"                      /* decimal */
#define CONTEXT_EPOCH "epoch"                  /* of this attachment, decimal: newer ones are greater */
#define CONTEXT_SERVER "server"                /* storage server's id */
#define CONTEXT_SERVER_ADDRESS "serverAddress" /* its Storage service, "host:port" */
#define CONTEXT_POOL_UUID "poolUuid"           /* which pool that server must have */
#define CONTEXT_SIZE_BYTES "sizeBytes"         /* of the volume when it was published, decimal */
#define CONTEXT_BLOCK_SIZE "blockSize"         /* logical block size in bytes, decimal */
#define CONTEXT_READONLY "readonly"            /* "true" or "false": what the storage server enforces */

#define CONTEXT_NAME "name" /* volume context: the volume's name, for people */

/* volume context, in ListVolumes alone: why nothing else is known of the volume, in words. CSI has no place
 * of its own for that in a list. */
#define CONTEXT_UNREADABLE "unreadable"

/* volume context, and StorageClass parameter of the same name: a key is there when it was given */
#define CONTEXT_FS_TYPE "fsType"             /* "ext4" or "xfs" */
#define CONTEXT_MKFS_OPTIONS "mkfsOptions"   /* words for mkfs, separated by blanks */
#define CONTEXT_MOUNT_OPTIONS "mountOptions" /* comma-separated, added to the capability's mount flags */
#define CONTEXT_ATTACH "attach"              /* "auto", "ublk", "fuse" or "iscsi" */
#define CONTEXT_PATH_TIMEOUT                                                                                 \
    "pathTimeout"             /* I/O fails after waiting so long (time_parse_ms()); "0": never               \
                               */
#define CONTEXT_LEASE "lease" /* I/O fails once the server was not reached for so long; "0": never */
/* The shortest that are taken, but for "0": a server's restart is no outage. */
#define CONTEXT_PATH_TIMEOUT_MIN_MS 1000
#define CONTEXT_LEASE_MIN_MS 5000
#define CONTEXT_SESSIONS "sessions" /* data sessions of the attachment, decimal */
