/*
 * Finishes what nobody asks for again: a group snapshot whose controller ended between its first and its last
 * commit is committed, and members of one that was never committed are deleted once nobody has come back for
 * them for a while. Any number of controllers may do it at once. One thread of its own.
 */
#pragma once

#include "controller/controller.h"

#define GROUP_SWEEP_AFTER_S 3600 /* longer than any CO's pause between two calls */

struct group_sweep;

/* after_s: how long a group is left alone whose members are all ready and none committed. */
int group_sweep_new(struct group_sweep **ret, struct controller *controller, uint64_t after_s,
                    struct error *err);
struct group_sweep *
group_sweep_free(struct group_sweep *sweep); /* stops and joins the thread; returns NULL */
