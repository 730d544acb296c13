/*
 * What the kernel has handed out on /dev/fuse and was not told to be done, in shared memory (a memfd) that
 * outlives the process in the holder's hands. Kernels before 6.9 cannot send such requests again
 * (FUSE_NOTIFY_RESEND): there a successor takes them up from here.
 *
 * A record is the very memory that read(2) puts a request's header in. A killed process leaves the kernel
 * only when its copy is complete, so a request that was handed out is in the ledger, whatever the process
 * had still done with it. Which records are live is not told by them but by the kernel, which knows a request
 * from the end of that copy to its answer: fuse_answer_known(). What a record says of itself:
 *
 *   position: set before the read: where in the replay log a write's data lands. An entry that stands there
 *     is the request's own; none, and the position is the log's tail: it was not appended yet.
 *     FUSE_LEDGER_LANDING: the log was full, the data is in `landing`.
 *   state ANSWERING, with the result: set when the storage server's answer is known, before the log learns
 *     of it and before the kernel is told. It is answered again, and never carried out again.
 *
 * Stores only, no system call, no lock. One thread, the device's loop.
 */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "datapath/device/fuse_proto.h"

#define FUSE_LEDGER_SIZE (FUSE_PROTO_MAX_BACKGROUND + 64)
#define FUSE_LEDGER_LANDING UINT64_MAX
#define FUSE_HEAD_SIZE (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

enum fuse_record_state { FUSE_RECORD_TAKEN = 1, FUSE_RECORD_ANSWERING = 2 };

struct fuse_record {
    union {
        struct fuse_in_header header;
        uint8_t bytes[FUSE_HEAD_SIZE]; /* header and the largest argument, so that a write's data is apart */
    } head;
    uint64_t position;
    int32_t result;   /* 0 or a negative errno; of state ANSWERING */
    uint32_t channel; /* read from it, so to be answered on it */
    _Atomic uint32_t state;
    uint32_t unused[7];
};

struct fuse_ledger {
    void *mapping;
    struct fuse_record *records; /* FUSE_LEDGER_SIZE of them */
    uint8_t *landing;            /* FUSE_PROTO_MAX_WRITE bytes */
};

/* A new, empty one; the caller owns *ret_fd (the memfd). */
int fuse_ledger_create(struct fuse_ledger *ledger, int *ret_fd, struct error *err);

/* Take over the one behind fd (borrowed). E_CORRUPT when it is of no format that this build knows. */
int fuse_ledger_adopt(struct fuse_ledger *ledger, int fd, struct error *err);
void fuse_ledger_done(struct fuse_ledger *ledger);

/* Forget all of it: the numbers of another mount's requests begin anew. */
void fuse_ledger_clear(struct fuse_ledger *ledger);
