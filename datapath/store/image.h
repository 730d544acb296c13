/*
 * A volume's bytes: asynchronous I/O from any loop. The image guards what every backend must keep:
 *   - a write-failed volume refuses changes with E_WRITE_FAILED;
 *   - a failed flush (or failed FUA write) makes it write-failed, durably, before anyone is answered
 * (invariant 1), and so every volume of the pool that has something in flight or not flushed (flush.c);
 *   - a change makes a blank volume "data", durably, before it is carried out, unless the writer is the one
 * that is formatting it (invariant 5).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "datapath/loop/loop.h"
#include "datapath/store/store.h"

enum image_verb {
    IMAGE_READ,
    IMAGE_WRITE,
    IMAGE_FLUSH,        /* everything answered before this was submitted is stable when it answers 0 */
    IMAGE_UNMAP,        /* deallocate, but on a thick volume; reads as zeroes afterwards */
    IMAGE_WRITE_ZEROES, /* zeroes; `allocate` keeps the space */
};

/*
 * One command on the image. Fill the first part, keep it alive until done(). offset and length are multiples
 * of the volume's block size and within its size (E_OUT_OF_RANGE otherwise); buffers are aligned to
 * IMAGE_ALIGN. done() runs on `loop`, never from within image_submit(). result: 0; E_NO_SPACE,
 * E_WRITE_FAILED, E_OUT_OF_RANGE; or a negative errno of the disk.
 */
struct image_io {
    enum image_verb verb;
    bool fua;      /* a write or zeroing is stable when it answers */
    bool allocate; /* IMAGE_WRITE_ZEROES */
    uint64_t offset;
    uint64_t length;
    struct iovec iov;           /* one buffer: read into, or written from */
    uint64_t epoch, generation; /* the writer, for invariant 5 */
    void (*done)(struct image_io *io, int result);

    /* the image's own */
    struct image *image;
    struct loop *loop;
    struct loop_op op;
    struct loop_work work;
    struct loop_message message;
    struct image_io *next;
    struct iovec rest;    /* what is still to be transferred of iov */
    int step;             /* enum image_step (backend.h) */
    bool stable;          /* a write that is to be stable of itself: fua, or image_stable.c's choice */
    uint64_t ticket;      /* of a change: how many had begun with it */
    uint64_t flush_begun; /* of a stable one: the store's flush clock */
    bool lost;            /* it failed, and the image's other writes may be lost with it */
    int result;
    uint64_t progress;
};

#define IMAGE_ALIGN 4096u
#define IMAGE_IO_MAX (4u * 1024 * 1024) /* length of one read or write */

void image_submit(struct image *image, struct loop *loop, struct image_io *io);

/* For GET LBA STATUS: whether the range that begins at offset is mapped, and how long that holds (at most
 * length). Blocks: call it by loop_offload(). */
int image_extent(struct image *image, uint64_t offset, uint64_t length, bool *ret_mapped,
                 uint64_t *ret_length);

/* Discard everything: BeginFormat on a volume that was "formatting". Blocks; the caller has drained all
 * writers. */
int image_discard_all(struct image *image, struct error *err);

/*
 * Hold every change that is submitted from here on, and let it go again: for one moment over several volumes
 * (snapshot.h). Reads and flushes go on, and what was submitted before ends as ever. One hold at a time:
 * E_BUSY. [any]
 */
int image_hold(struct image *image, struct error *err);
void image_release(struct image *image);
