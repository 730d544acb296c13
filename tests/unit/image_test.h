/* What the files of the image's unit test share: a volume of the pool's files on two fake loops, and another
 * of the same pool. One thread. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/store/image.h"
#include "datapath/store/pool/pool_internal.h"
#include "datapath/store/store_internal.h"
#include "tests/unit/fake_loop.h"

#define BENCH_BLOCKS 64u
#define BENCH_BLOCK 4096u

struct bench {
    char dir[32];
    struct store store;
    struct backend backend;
    struct volume *volume;
    struct image *image;
    struct loop *loops[2];

    struct volume_record saved; /* what is "on disk" */
    struct volume *other;
    struct image *other_image;
    struct volume_record other_saved;
    int saves;       /* of both */
    int save_result; /* what the next saves answer instead */

    /* What the hook does to operations of a kind. */
    enum fake_kind kind;
    enum fake_verdict verdict;
    int result;
    int mode; /* only to a fallocate of this mode; 0: to any */
    int tried[FAKE_KINDS];
    int stable_writes; /* that were tried with RWF_DSYNC */
    bool check_marked; /* a change of the file must find the record saying "data" */
};

int bench_setup(void **state);
int bench_teardown(void **state);

/* As after a restart of the server: only what is on disk remains. */
void bench_restart(struct bench *bench);

void bench_settle(struct bench *bench);

/* Put these in the record, in memory and on disk. */
void bench_set_content(struct bench *bench, enum volume_content content, uint64_t epoch, uint64_t generation);

/* A command that remembers its answer, and what was on disk at that moment. */
struct command {
    struct image_io io;
    struct bench *bench;
    int answers;
    int result;
    bool saved_write_failed;
};

void command_submit(struct command *command, struct bench *bench, unsigned loop, enum image_verb verb,
                    unsigned block, unsigned blocks, bool fua, void *buffer);

/* The same on the other volume. */
void command_submit_other(struct command *command, struct bench *bench, unsigned loop, enum image_verb verb,
                          unsigned block, unsigned blocks, bool fua, void *buffer);

/* Submit on loop 0, settle, return the answer. */
int command_run(struct bench *bench, enum image_verb verb, unsigned block, unsigned blocks, bool fua,
                void *buffer);
int command_run_other(struct bench *bench, enum image_verb verb, unsigned block, unsigned blocks, bool fua,
                      void *buffer);

int image_flush_tests_run(void);
int image_guard_tests_run(void);
int image_stable_tests_run(void);
