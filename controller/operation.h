/*
 * One operation per volume name or id at a time within this controller: a second one is told so at once
 * (E_BUSY, ABORTED for the CO), with what runs and for how long. It spares the storage servers work; what
 * decides is their own locks and claims (invariant 8). Thread-safe; nothing waits.
 */
#pragma once

#include "common/error.h"

#define OPERATION_KEY_MAX 160

struct operations; /* all that run */
struct operation;  /* one that runs */

int operations_new(struct operations **ret);
struct operations *operations_free(struct operations *operations); /* none may run; returns NULL */

/* kind ("name", "volume") and key are what is held; what names the call. */
int operation_begin(struct operations *operations, const char *kind, const char *key, const char *what,
                    struct operation **ret, struct error *err);
void operation_end(struct operation *operation); /* NULL is fine */

static inline void cleanup_operation(struct operation **operation)
{
    operation_end(*operation);
}

#define _cleanup_operation_ __attribute__((cleanup(cleanup_operation)))
