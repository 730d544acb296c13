/* What the files of the loop's unit test share. One thread unless a test says otherwise. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/loop/loop.h"

/* An operation that remembers its completions and stops the loop after as many as are wanted. */
struct probe {
    struct loop_op op;
    struct loop *loop;
    int wanted; /* completions until the loop is stopped; 0: it is not */
    int count;
    int res; /* of the last */
    unsigned flags;
};

void probe_init(struct probe *probe, struct loop *loop, int wanted);

struct loop *test_loop_new(const struct loop_options *options);

/* An unlinked file in the current directory. */
int test_file_new(void);
void test_socketpair(int ret_fds[2]);

/* Run until probe has had `wanted` more completions. */
void probe_wait(struct probe *probe, int wanted);

int loop_io_tests_run(void);
int loop_spin_tests_run(void);
