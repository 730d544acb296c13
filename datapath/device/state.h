/*
 * A device's state directory (0700), the contract between mooring-node and mooring-device.
 *
 * device.json (0600): written by mooring-node; what to attach and how; read at the start.
 *
 *   { "format": 1, "volume_id": "store-1.9f86d081884c7d65", "target_name": "iqn...", "lun": 0,
 *     "portals": ["10.0.0.1:3260"], "initiator_name": "iqn...", "node_id": "worker-3", "epoch": 4,
 *     "generation": 2, "chap_name": "...", "chap_secret": "...", "isid": ["80a1b2c3d4e5"],
 *     "read_only": false, "sessions": 1, "block_size_bytes": 4096, "size_bytes": 1073741824,
 *     "mount_point": "<dir>/fuse", "attach": "fuse" }
 *
 *   "attach": "fuse" (the default) or "ublk"; see frontend.h.
 *
 *   "end": true is written by mooring-node before its SIGTERM when the volume is to be detached; it is read
 *   again at the signal, and "portals" at SIGHUP: the storage server may have another address now. Nothing
 *   else is ever read again. "size_bytes" is what the volume has at least.
 *
 *   Optional: "log_size_bytes" and "buffers_size_bytes" (32 MiB each), "replay" and "resend" (true; false in
 *   tests only: FUSE_NOTIFY_RESEND is not asked for, as if this were a kernel before 6.9),
 *   "path_timeout_ms" and "lease_ms" (0, none; see path.h; a lease is 1000 at least),
 *   "fuse_io_uring" (false; a wish: where "fuse" can, its requests come by io_uring; see fuse_uring.h for the
 *   price: a crash is not survived, "take_over" is false).
 *
 * status.json (0600): written by mooring-device on each change.
 *
 *   { "format": 1, "state": "ready", "pid": 4711, "generation": 2, "block_device": "/dev/loop3",
 *     "since": <unix seconds>, "error": "", "take_over": true }
 *
 *   "size_bytes": what the block device has; 0 until it is there. It grows with the volume, which the server
 *   tells (CAPACITY DATA HAS CHANGED), and which SIGHUP has asked for. "resize_error": why it does not have
 * the volume's size, or "". "io_errors": requests that this process ended with an error,
 *   the newest at "io_error_at" (unix seconds). "failed_requests" waited when the attachment was found to be
 *   over, and the last of them was answered "failed_in_us" later.
 *
 *   "version" and "take_over_format": of the build that writes it; what a successor of another build must
 * know.
 *
 *   "connecting": there is no block device yet. "ready"; with an "error": reads only, changes and flushes
 *   fail until the server takes the replay. "waiting": the block device stands, its I/O waits
 *   for the server. "failed": I/O ends with EIO, or there never was a device; only a new start changes that.
 *   "ending": from the begin of the orderly end on. "ended": with an "error" the last flush failed: answered
 *   writes may be lost; without, all is stable. "error": words for a person. "take_over": a crash of the
 * process can be survived.
 *
 * holder.sock: mooring-holder's. fuse/: the mount point of "fuse".
 *
 * SIGTERM with "end" in device.json ends in order, and waits for the device's last user and for the server.
 * Without it (a pod stops, a host shuts down) the process only leaves: mount, loop device, descriptors and
 * log stay with the holder, as after a crash, and status.json says so ("waiting"). Forced end, for a server
 * that does not come back: SIGKILL, then umount -f of mount_point (its requests end with an error; a thread
 * of the dead process may be waiting for one of them), then the loop device, then SIGTERM to the holder.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/id.h"

#define STATE_FORMAT 1

/* Of what a process leaves to its successor: the replay log, the FUSE ledger, the holder's names. Raise it
 * with any of their formats: an upgrade is refused where the new build does not know the old one's. */
#define STATE_TAKE_OVER_FORMAT 1
#define STATE_PORTALS_MAX 8
#define STATE_SESSIONS_MAX 8

enum device_attach { DEVICE_ATTACH_FUSE, DEVICE_ATTACH_UBLK };

struct device_state {
    int dir_fd;
    char *dir; /* absolute */
    char volume_id[ID_VOLUME_MAX + 1];
    char target_name[ID_IQN_MAX + 1];
    char initiator_name[ID_IQN_MAX + 1];
    uint64_t lun;
    bool header_digest;               /* optional, false: CRC32C over each iSCSI header */
    char *portals[STATE_PORTALS_MAX]; /* "address:port", "[v6]:port" */
    unsigned portals_count;
    uint64_t epoch, generation;
    char *chap_name, *chap_secret; /* NULL: no CHAP; the secret is wiped by device_state_done() */
    uint8_t isids[STATE_SESSIONS_MAX][6];
    unsigned isids_count;
    bool read_only;
    bool replay, resend;
    bool fuse_io_uring;
    uint64_t block_size_bytes, size_bytes;
    uint64_t log_size_bytes, buffers_size_bytes;
    uint64_t path_timeout_ms, lease_ms; /* 0: none; see path.h */
    enum device_attach attach;
    char *mount_point;
};

/* Read dir/device.json. E_CORRUPT, naming the member, for what is missing or wrong. */
int device_state_load(struct device_state *state, const char *dir, struct error *err);
void device_state_done(struct device_state *state);

/* Take the portals that device.json has by now, and nothing else of it; whether they are others. On failure
 * the old ones stay. */
int device_state_renew_portals(struct device_state *state, bool *ret_changed, struct error *err);

/* Whether device.json asks for the volume's end by now; false also when it cannot be read (told in the log).
 */
bool device_state_end_asked(const struct device_state *state);

enum device_status_code {
    DEVICE_CONNECTING,
    DEVICE_READY,
    DEVICE_WAITING,
    DEVICE_FAILED,
    DEVICE_ENDING,
    DEVICE_ENDED
};

struct device_status {
    enum device_status_code code;
    uint64_t generation;
    char block_device[32]; /* path; "": none */
    int64_t since_unix_s;
    char error[256];
    bool take_over;
    uint64_t size_bytes; /* that the block device has; 0: there is none yet */
    char resize_error[128];
    uint64_t io_errors;
    int64_t io_error_unix_s; /* the newest; 0: none */
    uint64_t failed_requests, failed_in_us;
};

const char *device_status_name(enum device_status_code code);

/* Write dir_fd/status.json. Blocks (fsync): for the start, the end, or an offload thread. */
int device_status_save(int dir_fd, const struct device_status *status, struct error *err);
