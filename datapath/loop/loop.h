/*
 * The event loop: one thread, one io_uring (DEFER_TASKRUN, SINGLE_ISSUER), for network and files alike.
 *
 * One idiom: whoever starts an operation embeds a struct loop_op and gets done() called on the loop's thread,
 * later, never from within the call that started it. The op must live until then. An operation that cannot be
 * queued for lack of memory or ring space completes with -ENOMEM or -EBUSY in the same, asynchronous way:
 * starting never fails.
 *
 * Every function is for the loop's own thread unless it says otherwise. A fake loop (tests/unit/fake_loop)
 * implements this same header with seeded order and injected errors, short transfers and cancels; link it
 * instead.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/error.h"

struct loop;

/* res: as io_uring gives it: ≥ 0, or a negative errno. flags: LOOP_MORE when a multishot operation goes on.
 * A multishot operation that completes without LOOP_MORE has ended, whatever res is: start it again to go on.
 */
struct loop_op {
    void (*done)(struct loop_op *op, int res, unsigned flags);
    struct loop_op *next; /* this and res: the loop's own */
    int res;
};

#define LOOP_MORE 1u   /* this operation will complete again */
#define LOOP_BUFFER 2u /* a receive buffer came with it: loop_recv_buffer() */
#define LOOP_FLAG_SHIFT                                                                                      \
    16u /* above: the receive buffer's number, for loop_recv_buffer() and loop_recv_release() */

struct loop_options {
    unsigned entries; /* submission ring size; 0 means 256 (the completion ring is 8 times that) */
    unsigned
        recv_buffers; /* provided receive buffers, a power of two; 0 means none: loop_recv() is not used */
    unsigned recv_buffer_size; /* bytes each */
    unsigned offload_threads;  /* for loop_offload(); 0 means 2 */
    unsigned spin_us; /* look for completions this long before sleeping, adaptively; 0: sleep at once */
    bool wide;        /* submission entries of 128 bytes, for loop_command_wide() */
};

/* Make a loop; any thread. The thread that calls loop_run() owns it from then on; operations may be started
 * before loop_run() by whoever will call it. -errno (with words) when the kernel lacks io_uring or memory. */
int loop_new(struct loop **ret, const struct loop_options *options, struct error *err);

/*
 * The end of a loop's life on the thread that ran it, after loop_run(): operations in flight are cancelled
 * and waited for (a disk's I/O cannot be cancelled: it is waited for), their done() is not called, what
 * loop_hold_fd() holds is let go. Nothing may be started any more; others may still post, and are not heard.
 */
void loop_drain(struct loop *loop);

/*
 * Free a loop that is not running. On the thread that ran it, or on any after loop_drain() or when it never
 * ran. Waits for offloaded work that runs; what waits is dropped. Nobody may post any more, and every
 * loop_post() has returned, which may be after its message ran: with several loops that post to each other,
 * each thread drains its own, and who joined all the threads frees them. Returns NULL.
 */
struct loop *loop_free(struct loop *loop);

/* Run until loop_stop(); may be called again, on the same thread. 0, or -errno when the ring itself failed.
 */
int loop_run(struct loop *loop);

/* Make loop_run() return after the current batch. Any thread; async-signal-safe. */
void loop_stop(struct loop *loop);

/* The loop that runs on this thread, or NULL. */
struct loop *loop_current(void);

/* Coarse monotonic time, read once a batch. */
uint64_t loop_now_ns(const struct loop *loop);

/*
 * Keep fd open in the kernel for as long as any operation of this ring is in flight, even after the process
 * died: a registered file. The pool's lock is held this way. Call before loop_run(). 0 or -errno.
 */
int loop_hold_fd(struct loop *loop, int fd);

/* ---- messages between threads ---- */

struct loop_message {
    void (*run)(struct loop_message *message);
    struct loop_message *next; /* the loop's own */
};

/* Have run() called on the loop's thread, in the order posted. Any thread. The message must live until then.
 */
void loop_post(struct loop *loop, struct loop_message *message);

/* ---- blocking work for the rare path: durable records ---- */

struct loop_work {
    int (*work)(struct loop_work *work); /* runs on an offload thread, may block; cannot be cancelled */
    struct loop_op op;                   /* done(res = work's return) on the loop's thread */
    struct loop_work *next;              /* the loop's own */
};
void loop_offload(struct loop *loop, struct loop_work *work);

/* ---- time ---- */

/* Complete with -ETIME after timeout_ms, or -ECANCELED. */
void loop_timeout(struct loop *loop, struct loop_op *op, uint64_t timeout_ms);

/* ---- files ---- */

/* What an operation points to (buffers, iov arrays, addresses, a struct msghdr) lives until it is done. */

#define LOOP_RWF_DSYNC 2 /* RWF_DSYNC: stable before it completes */

void loop_readv(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov, unsigned iov_count,
                uint64_t offset, int rwf_flags);
void loop_writev(struct loop *loop, struct loop_op *op, int fd, const struct iovec *iov, unsigned iov_count,
                 uint64_t offset, int rwf_flags);
/* read(2) on what has no offset (/dev/fuse, pipes, eventfds). */
void loop_read(struct loop *loop, struct loop_op *op, int fd, void *buffer, size_t length);
void loop_fdatasync(struct loop *loop, struct loop_op *op, int fd);
void loop_fallocate(struct loop *loop, struct loop_op *op, int fd, int mode, uint64_t offset,
                    uint64_t length);

/* ---- sockets ---- */

/* Multishot: done(res = new descriptor, close-on-exec) for each. */
void loop_accept(struct loop *loop, struct loop_op *op, int fd);

/*
 * Multishot receive into the loop's provided buffers: done(res = bytes, 0 at end of stream). With LOOP_BUFFER
 * the bytes are at loop_recv_buffer(loop, flags), until loop_recv_release(loop, flags), which must follow
 * each, at the latest when the bytes are consumed. When all buffers are out, it ends with -ENOBUFS without
 * LOOP_MORE: start it again after a release.
 */
void loop_recv(struct loop *loop, struct loop_op *op, int fd);
void *loop_recv_buffer(struct loop *loop, unsigned flags);
void loop_recv_release(struct loop *loop, unsigned flags);

/* message lives until done; MSG_NOSIGNAL | MSG_WAITALL are set by the loop: short only at an error. */
void loop_sendmsg(struct loop *loop, struct loop_op *op, int fd, const struct msghdr *message);

/* Wait for poll(2) events once; res = revents. */
void loop_poll(struct loop *loop, struct loop_op *op, int fd, unsigned events);

/* ---- drivers ---- */

#define LOOP_COMMAND_BYTES 16

/*
 * Send a driver a command of LOOP_COMMAND_BYTES, read at once (IORING_OP_URING_CMD; ublk's I/O commands);
 * done(res = what the driver answers), which may be hours later. Only the driver ends it: loop_cancel() does
 * not reach it, and loop_drain() does not wait for it; done() is not called then, and the driver gives it up
 * when the ring goes away. The fake loop has no drivers: a test defines this function.
 */
void loop_command(struct loop *loop, struct loop_op *op, int fd, uint32_t code, const void *command);

#define LOOP_WIDE_COMMAND_BYTES 80

struct loop_wide_command {
    uint32_t code;
    const void *data;
    size_t length;           /* of data, up to LOOP_WIDE_COMMAND_BYTES */
    const struct iovec *iov; /* what goes along, or NULL */
    unsigned iov_count;
};

/* The same, of a driver that asks for entries of 128 bytes (FUSE); the loop was made with `wide`. */
void loop_command_wide(struct loop *loop, struct loop_op *op, int fd,
                       const struct loop_wide_command *command);

/* ---- ending ---- */

/* Ask the kernel to cancel op. op still completes (-ECANCELED, or its own result if that came first). No
 * completion of its own; harmless when op is no longer in flight. */
void loop_cancel(struct loop *loop, struct loop_op *op);
