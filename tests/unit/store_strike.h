/*
 * The system calls by which the store changes a pool, in place of the C library's: the Nth fails, or kills
 * the process, half-way through it where that is a write.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct strike_state {
    bool armed;
    int calls;   /* so far */
    int turn;    /* the call that fails; 0: none */
    int errnum;  /* what it fails with; 0: it kills the process */
    bool struck; /* it did */
    char letter; /* which call that was */
    char trace[256];
    size_t traced;
};
extern struct strike_state strike_state;

void strike_arm(int turn, int errnum); /* errnum 0: it kills */
void strike_disarm(void);
