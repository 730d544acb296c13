/* Answers that need no I/O: the file system's fixed metadata. Internal to the FUSE frontend. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datapath/device/fuse_proto.h"

/* Write an answer: error is 0 or a negative errno. An answer to what the kernel has given up is no error. */
void fuse_answer(int fd, uint64_t unique, int error, const void *payload, size_t length);

/* Whether the kernel still waits for the answer to this request, which was read from fd. */
bool fuse_answer_known(int fd, uint64_t unique);

struct fuse_volume {
    uint64_t size_bytes;
    uint32_t block_size_bytes;
    bool read_only;
};

/* What INIT agrees on. */
struct fuse_agreement {
    bool uring_wanted; /* the caller's: requests may come by io_uring */
    bool uring;        /* and they do */
    bool resends;      /* the kernel can send again what a dead server had read */
};

/* Where an answer goes: put() is called once at most, with 0 or a negative errno. */
struct fuse_asker {
    void (*put)(void *context, int error, const void *payload, size_t length);
    void *context;
};

/*
 * Answer a request that is about metadata. head: the request's header and argument, head_length bytes of it.
 * False when the opcode is not one of these. INIT sets *agreement. FORGET and its like have
 * no answer.
 */
bool fuse_answer_metadata(const struct fuse_asker *asker, const struct fuse_volume *volume,
                          const struct fuse_in_header *header, size_t head_length,
                          struct fuse_agreement *agreement);
