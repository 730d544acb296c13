/*
 * For the tests of snapshots: commands on an image by a loop on a thread of its own, waited for or not; and
 * FICLONERANGE held back, so that a copy is half-way for as long as a test wants; and the removal of what was
 * half-made, likewise.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "datapath/loop/loop.h"
#include "datapath/store/image.h"

struct test_loop {
    struct loop *loop;
    pthread_t thread;
};

void test_loop_start(struct test_loop *to);
void test_loop_stop(struct test_loop *to);

struct test_io {
    struct image_io io;
    struct loop_message message;
    struct image *image;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    int result;
    uint64_t began_ns, ended_ns;
    void *buffer;
};

/* Start a command; a write writes `byte` all over, or buffer when it is not NULL. */
struct test_io *test_io_start(struct test_loop *on, struct image *image, enum image_verb verb,
                              uint64_t offset, uint64_t length, int byte, const void *buffer);
bool test_io_is_done(struct test_io *io);
int test_io_end(struct test_io *io, void *ret_buffer); /* waits, frees */

uint64_t test_io_wait(struct test_io *io); /* returns how long it took, in ns; test_io_end() is still due */

/* Start, wait, and have it be 0. */
void test_io_run(struct test_loop *on, struct image *image, enum image_verb verb, uint64_t offset,
                 uint64_t length, int byte, void *buffer);

/* ---- FICLONERANGE ---- */

#define SHARES_MAX 4096

/* Let `count` more calls through, then hold them; negative: let all through. From the start, all go. */
void shares_allow(int count);
void shares_wait(int count); /* until that many were let through since shares_reset(), or wait at the door */
void shares_reset(void);
int shares_count(void);                  /* done */
uint64_t shares_longest_ns(void);        /* that one took */
uint64_t shares_offset(int index);       /* of each */
void shares_fail(int index, int errnum); /* have that one fail; -1: none */

/* ---- the removal of trash/new.* ---- */

void discards_hold(bool hold);
void discards_wait(void); /* until one is held */
