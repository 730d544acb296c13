/*
 * The operations that run now, by what they hold. Owns the list, under one mutex that is never held across
 * I/O. Used by the service's worker threads. The list is as long as there are worker threads, so it is
 * searched from end to end.
 */
#include "controller/operation.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/strings.h"
#include "common/time.h"

struct operation {
    struct operations *owner;
    struct operation *next;
    char kind[16];
    char key[OPERATION_KEY_MAX];
    const char *what;
    uint64_t since_ms;
};

struct operations {
    pthread_mutex_t lock;
    struct operation *first; /* locked */
};

int operations_new(struct operations **ret)
{
    struct operations *operations = calloc(1, sizeof(*operations));

    if (!operations)
        return -ENOMEM;
    pthread_mutex_init(&operations->lock, NULL);
    *ret = operations;
    return E_OK;
}

struct operations *operations_free(struct operations *operations)
{
    if (!operations)
        return NULL;
    assert(!operations->first);
    pthread_mutex_destroy(&operations->lock);
    free(operations);
    return NULL;
}

static const struct operation *find_locked(const struct operations *operations, const struct operation *like)
{
    for (const struct operation *one = operations->first; one; one = one->next) {
        if (str_equal(one->key, like->key) && str_equal(one->kind, like->kind))
            return one;
    }
    return NULL;
}

static int enter(struct operations *operations, struct operation *operation, struct error *err)
{
    const struct operation *running;
    const char *what = NULL;
    uint64_t age_ms = 0;

    pthread_mutex_lock(&operations->lock);
    running = find_locked(operations, operation);
    if (running) {
        what = running->what;
        age_ms = operation->since_ms > running->since_ms ? operation->since_ms - running->since_ms : 0;
    } else {
        operation->next = operations->first;
        operations->first = operation;
    }
    pthread_mutex_unlock(&operations->lock);
    if (!what)
        return E_OK;
    return error_set(err, E_BUSY,
                     "%s of %s \"%s\" has been running for %" PRIu64 " ms; retry when it is done", what,
                     operation->kind, operation->key, age_ms);
}

int operation_begin(struct operations *operations, const char *kind, const char *key, const char *what,
                    struct operation **ret, struct error *err)
{
    struct operation *operation = calloc(1, sizeof(*operation));
    int r;

    if (!operation)
        return error_errno(err, ENOMEM, "%s", what);
    operation->owner = operations;
    operation->what = what;
    operation->since_ms = time_now_ms();
    if (!str_copy(operation->kind, sizeof(operation->kind), kind) ||
        !str_copy(operation->key, sizeof(operation->key), key))
        r = error_set(err, E_INVALID_ARGUMENT, "%s \"%.*s…\" is too long", kind, 32, key);
    else
        r = enter(operations, operation, err);
    if (r != E_OK) {
        free(operation);
        return r;
    }
    *ret = operation;
    return E_OK;
}

void operation_end(struct operation *operation)
{
    struct operations *operations;
    struct operation **link;

    if (!operation)
        return;
    operations = operation->owner;
    pthread_mutex_lock(&operations->lock);
    link = &operations->first;
    while (*link != operation)
        link = &(*link)->next;
    *link = operation->next;
    pthread_mutex_unlock(&operations->lock);
    free(operation);
}
