/*
 * The wire between mooring-device and its mooring-holder: a SOCK_SEQPACKET unix socket, one message a packet.
 *
 *   device → holder            holder → device
 *   "PUT <name>" + 1 fd        "OK" | "ERROR <words>"     keeps the descriptor, replacing one of that name
 *   "GET <name>"               "OK" + 1 fd | "NONE"       the holder keeps its copy
 *   "END"                      "OK"                       closes all descriptors, removes the socket, exits
 *   (on connecting)            "HELLO" | "BUSY <pid>"     BUSY: another one lives; the connection closes
 *
 * A device is admitted when its predecessor's connection is closed and its process has ended (pidfd): the
 * holder is what keeps two device processes of one volume apart (invariant 4).
 *
 * SIGTERM and SIGINT are remembered, and end the holder once no device is connected and no descriptor whose
 * name begins with "fuse" lives, which is to say that poll(2) has no error to tell of it: a live mount's, or,
 * with ublk, a file of the block device in sysfs. For a host's shutdown sends them to all processes at once,
 * while file systems on the volume are still to be unmounted. SIGHUP is ignored. A holder that was killed is
 * replaced: the device finds the new one's socket and hands everything over again (holder_watch.h).
 */
#pragma once

#define HOLDER_MESSAGE_MAX 128
#define HOLDER_NAME_MAX 31
#define HOLDER_SLOTS 8
