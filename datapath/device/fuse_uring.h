/*
 * FUSE's requests over io_uring (Linux 6.14, FUSE 7.42) instead of read(2) and write(2) on /dev/fuse: one
 * command commits an answer and asks for the next request, and both go through the device's own loop.
 *
 * **No crash guarantee.** What a process had taken this way nobody can give to a successor: the kernel
 * neither sends it again (FUSE_NOTIFY_RESEND is of /dev/fuse) nor lets another process answer it. So the
 * descriptors of such a mount do not go to the holder: with the process the mount ends, and its requests with
 * errors rather than never.
 *
 * Each possible CPU has a queue of its own; the kernel switches once every one of them has an entry. An entry
 * is a header and a payload of FUSE_URING_PAYLOAD bytes that the kernel knows for the mount's life. A read
 * lands right there; a write is copied from there into the replay log, where its room is known only when the
 * request is; one that finds no room waits in its entry.
 *
 * INIT comes by /dev/fuse, and so do FORGET and INTERRUPT: fuse_frontend.c goes on reading there.
 * One thread, the loop's, except where it says otherwise.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "datapath/device/frontend.h"
#include "datapath/device/fuse_answer.h"
#include "datapath/device/fuse_proto.h"

#define FUSE_URING_PAYLOAD (FUSE_URING_MAX_PAGES * 4096u)

struct fuse_uring;

struct fuse_uring_entry {
    struct request request;
    struct loop_op op; /* the command that waits for the next request */
    struct fuse_uring *uring;
    struct fuse_uring_entry *next; /* in the list of parked ones */
    struct fuse_proto_uring_header *header;
    uint8_t *payload;
    struct iovec buffers[2]; /* both, while they are registered */
    uint64_t unique, commit_id;
    uint16_t queue;
};

struct fuse_uring {
    const struct frontend_parts *parts;
    /* The kernel took the mount away (-ENODEV), or cannot serve it this way. */
    void (*gone)(void *context, int result);
    void *context;
    int fd; /* borrowed */
    struct fuse_uring_entry *entries;
    unsigned entries_count;
    struct fuse_proto_uring_header *headers;
    uint8_t *payloads;
    struct fuse_uring_entry *parked, **parked_last; /* changes, oldest first */
    struct loop_message kick;                       /* once a batch */
    bool kick_posted;
    bool stopping;
    atomic_bool active; /* any thread: INIT granted it */
};

/* Any thread. 0, or E_UNIMPLEMENTED and why a mount made now would not get it, naming the module's parameter.
 */
int fuse_uring_check(struct error *err);

/* Any thread, before fuse_uring_serve(); blocks shortly. Takes memory: of each queue of a CPU that is online
 * as many entries as parts->state->buffers_size_bytes allows (2 at least), one of every other. */
int fuse_uring_init(struct fuse_uring *uring, const struct frontend_parts *parts, struct error *err);
void fuse_uring_done(struct fuse_uring *uring);

/* INIT on fd was answered, and the kernel took it: register all entries. */
void fuse_uring_serve(struct fuse_uring *uring, int fd);

/* As frontend_ops.resume and .stop. */
void fuse_uring_resume(struct fuse_uring *uring, int log_result);
void fuse_uring_stop(struct fuse_uring *uring);

/* Internal, for tests: how many CPUs a list like "0-3,8" of sysfs has; 0 when it is none. */
unsigned fuse_uring_count_cpus(const char *list);
bool fuse_uring_has_cpu(const char *list, unsigned cpu);
