/*
 * A round: the owner asks each admitted session of a volume to pause its commands (a hold), and goes on when
 * all have said that none is being carried out any more; or to go on. Owner loop's thread.
 */
#pragma once

#include "datapath/loop/loop.h"

struct connection;
struct export;
struct session;

enum round_kind {
    ROUND_HOLD,    /* commands arrive and wait, those being carried out end; until ROUND_RELEASE */
    ROUND_RELEASE, /* of a hold */
};

/* One session's part; lives on the connection's loop until it is answered. */
struct round_part {
    struct round *round;
    struct session *session;
    struct round_part *next; /* the connection's own */
    struct loop_message ask, answer;
};

struct round {
    enum round_kind kind;
    void (*done)(struct round *round); /* on the owner loop */

    struct export *export; /* round's own */
    unsigned pending;
    struct loop_message message;
};

/* 0, and done() follows; or -ENOMEM with nothing done. The export's `holds` follow the kind at once. */
int round_start(struct round *round, struct export *export);

/* Called by the connection when nothing is being carried out any more. Connection's loop. */
void round_part_answer(struct round_part *part);
