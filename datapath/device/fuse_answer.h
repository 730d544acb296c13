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

/*
 * Answer a request that is about metadata. head: the request's header and argument, head_length bytes of it.
 * False when the opcode is not one of these. *ret_resends is set by INIT.
 */
bool fuse_answer_metadata(int fd, const struct fuse_volume *volume, const struct fuse_in_header *header,
                          size_t head_length, bool *ret_resends);
