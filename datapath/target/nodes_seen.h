/* When each node was last heard of, in memory only: a heartbeat that changes no record costs no disk write.
 */
#pragma once

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "common/id.h"

struct nodes_seen {
    pthread_mutex_t lock;
    struct node_seen *nodes;
    size_t count, capacity;
};

void nodes_seen_init(struct nodes_seen *seen);
void nodes_seen_done(struct nodes_seen *seen);

/* Now. What finds no memory is not remembered: it is shown to people only. */
void nodes_seen_note(struct nodes_seen *seen, const char *node_id);

/* Unix seconds; 0 when it was not heard of since this process began. */
int64_t nodes_seen_last(struct nodes_seen *seen, const char *node_id);
