/* See nodes_seen.h. Called by service_nodes.c from any worker thread. */
#include "datapath/target/nodes_seen.h"

#include <stdlib.h>
#include <time.h>

#include "common/strings.h"

#define NODES_SEEN_MAX 10000 /* node ids come from certificates of ours: far more than one server serves */

struct node_seen {
    char id[ID_NODE_MAX + 1];
    int64_t unix_s;
};

void nodes_seen_init(struct nodes_seen *seen)
{
    *seen = (struct nodes_seen){0};
    pthread_mutex_init(&seen->lock, NULL);
}

void nodes_seen_done(struct nodes_seen *seen)
{
    pthread_mutex_destroy(&seen->lock);
    free(seen->nodes);
}

static struct node_seen *nodes_seen_find_locked(struct nodes_seen *seen, const char *node_id)
{
    for (size_t i = 0; i < seen->count; i++)
        if (str_equal(seen->nodes[i].id, node_id))
            return &seen->nodes[i];
    return NULL;
}

static struct node_seen *nodes_seen_add_locked(struct nodes_seen *seen, const char *node_id)
{
    if (seen->count == NODES_SEEN_MAX)
        return NULL;
    if (seen->count == seen->capacity) {
        size_t capacity = seen->capacity ? 2 * seen->capacity : 16;
        struct node_seen *nodes = realloc(seen->nodes, capacity * sizeof(*nodes));
        if (!nodes)
            return NULL;
        seen->nodes = nodes;
        seen->capacity = capacity;
    }
    struct node_seen *node = &seen->nodes[seen->count++];
    str_copy(node->id, sizeof(node->id), node_id);
    return node;
}

void nodes_seen_note(struct nodes_seen *seen, const char *node_id)
{
    pthread_mutex_lock(&seen->lock);
    struct node_seen *node = nodes_seen_find_locked(seen, node_id);
    if (!node)
        node = nodes_seen_add_locked(seen, node_id);
    if (node)
        node->unix_s = time(NULL);
    pthread_mutex_unlock(&seen->lock);
}

int64_t nodes_seen_last(struct nodes_seen *seen, const char *node_id)
{
    pthread_mutex_lock(&seen->lock);
    const struct node_seen *node = nodes_seen_find_locked(seen, node_id);
    int64_t unix_s = node ? node->unix_s : 0;
    pthread_mutex_unlock(&seen->lock);
    return unix_s;
}
