/* The data buffers of one loop; see buffer_pool.h. Called by task.c on the loop's thread. */
#include "datapath/target/buffer_pool.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_SMALLEST 4096u

static unsigned buffer_class(size_t size_bytes)
{
    unsigned class = 0;
    while (((size_t)BUFFER_SMALLEST << class) < size_bytes)
        class ++;
    assert(class < BUFFER_CLASSES);
    return class;
}

static size_t buffer_class_size(unsigned class)
{
    return (size_t)BUFFER_SMALLEST << class;
}

/* A free buffer's first bytes link it to the next one of its class. */
static void *buffer_pop(struct buffer_pool *pool, unsigned class)
{
    void *buffer = pool->free[class];
    if (buffer)
        memcpy(&pool->free[class], buffer, sizeof(void *));
    return buffer;
}

static void buffer_push(struct buffer_pool *pool, unsigned class, void *buffer)
{
    memcpy(buffer, &pool->free[class], sizeof(void *));
    pool->free[class] = buffer;
}

/* Give kept buffers of other sizes back to the system until one of this class fits below the limit. */
static bool buffer_make_room(struct buffer_pool *pool, size_t size)
{
    for (unsigned class = BUFFER_CLASSES; class -- > 0;) {
        while (pool->held_bytes + size > pool->limit_bytes && pool->free[class]) {
            free(buffer_pop(pool, class));
            pool->held_bytes -= buffer_class_size(class);
        }
    }
    return pool->held_bytes + size <= pool->limit_bytes;
}

static void *buffer_take(struct buffer_pool *pool, unsigned class)
{
    void *buffer = buffer_pop(pool, class);
    if (buffer)
        return buffer;
    size_t size = buffer_class_size(class);
    if (!buffer_make_room(pool, size))
        return NULL;
    buffer = aligned_alloc(BUFFER_SMALLEST, size);
    if (buffer)
        pool->held_bytes += size;
    return buffer;
}

static void buffer_wait_unlink(struct buffer_pool *pool, struct buffer_wait *wait)
{
    if (wait->previous)
        wait->previous->next = wait->next;
    else
        pool->first = wait->next;
    if (wait->next)
        wait->next->previous = wait->previous;
    else
        pool->last = wait->previous;
    wait->next = wait->previous = NULL;
    wait->queued = false;
}

static void buffer_pool_serve(struct buffer_pool *pool)
{
    if (pool->serving)
        return;
    pool->serving = true;
    while (pool->first) {
        struct buffer_wait *wait = pool->first;
        void *buffer = buffer_take(pool, wait->class);
        if (!buffer)
            break;
        buffer_wait_unlink(pool, wait);
        wait->ready(wait, buffer);
    }
    pool->serving = false;
}

void buffer_pool_init(struct buffer_pool *pool, size_t limit_bytes)
{
    *pool = (struct buffer_pool){.limit_bytes = limit_bytes};
}

void buffer_pool_done(struct buffer_pool *pool)
{
    for (unsigned class = 0; class < BUFFER_CLASSES; class ++) {
        for (void *buffer; (buffer = buffer_pop(pool, class));) {
            free(buffer);
            pool->held_bytes -= buffer_class_size(class);
        }
    }
    assert(pool->held_bytes == 0 && !pool->first);
}

void *buffer_pool_get(struct buffer_pool *pool, size_t size_bytes)
{
    void *buffer = pool->first ? NULL : buffer_take(pool, buffer_class(size_bytes));
    pool->missed |= !buffer;
    return buffer;
}

void buffer_pool_wait(struct buffer_pool *pool, struct buffer_wait *wait, size_t size_bytes)
{
    wait->class = buffer_class(size_bytes);
    wait->queued = true;
    wait->next = NULL;
    wait->previous = pool->last;
    if (pool->last)
        pool->last->next = wait;
    else
        pool->first = wait;
    pool->last = wait;
}

void buffer_pool_cancel(struct buffer_pool *pool, struct buffer_wait *wait)
{
    if (!wait->queued)
        return;
    buffer_wait_unlink(pool, wait);
    /* What it held back in line may fit now. */
    buffer_pool_serve(pool);
}

void buffer_pool_retry(struct buffer_pool *pool)
{
    buffer_pool_serve(pool);
}

void buffer_pool_put(struct buffer_pool *pool, void *buffer, size_t size_bytes)
{
    if (!buffer)
        return;
    buffer_push(pool, buffer_class(size_bytes), buffer);
    buffer_pool_serve(pool);
}
