/*
 * Offload: threads that run what blocks, for the rare path (durable records). The queue is under a mutex that
 * no I/O holds; a finished piece of work goes back to its loop the way a message does.
 *
 * loop_offload() is called on the loop's thread; offload_thread() is each thread's body.
 */
#include "datapath/loop/loop_internal.h"

#include <signal.h>

#include "common/cleanup.h"

static struct loop_work *offload_take(struct loop_offloading *offload)
{
    struct loop_work *work;

    pthread_mutex_lock(&offload->lock);
    offload->idle++;
    while (!offload->first && !offload->stopping)
        pthread_cond_wait(&offload->wake, &offload->lock);
    offload->idle--;
    work = offload->stopping ? NULL : offload->first;
    if (work) {
        offload->first = work->next;
        if (!offload->first)
            offload->last = &offload->first;
    }
    pthread_mutex_unlock(&offload->lock);
    return work;
}

static void offload_return(struct loop *loop, struct loop_work *work)
{
    struct loop_work *newest = atomic_load_explicit(&loop->works_done, memory_order_relaxed);

    do {
        work->next = newest;
    } while (!atomic_compare_exchange_weak(&loop->works_done, &newest, work));
    loop_wake(loop);
}

static void *offload_thread(void *context)
{
    struct loop *loop = context;
    struct loop_work *work;

    while ((work = offload_take(&loop->offload))) {
        work->op.res = work->work(work);
        offload_return(loop, work);
    }
    return NULL;
}

/* Signals are for the program's main thread: none is taken here. */
static int offload_start_thread_locked(struct loop *loop)
{
    struct loop_offloading *offload = &loop->offload;
    sigset_t all, before;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&offload->threads[offload->threads_count], NULL, offload_thread, loop);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0)
        offload->threads_count++;
    return -rc;
}

void loop_offload(struct loop *loop, struct loop_work *work)
{
    struct loop_offloading *offload = &loop->offload;
    int rc = 0;

    pthread_mutex_lock(&offload->lock);
    if (offload->threads_count < offload->threads_max && (offload->idle == 0 || offload->first))
        rc = offload_start_thread_locked(loop);
    if (offload->threads_count > 0) {
        rc = 0;
        work->next = NULL;
        *offload->last = work;
        offload->last = &work->next;
        pthread_cond_signal(&offload->wake);
    }
    pthread_mutex_unlock(&offload->lock);
    if (rc < 0)
        loop_fail(loop, &work->op, rc);
}

int loop_offload_init(struct loop_offloading *offload, unsigned threads_max)
{
    int rc = pthread_mutex_init(&offload->lock, NULL);

    if (rc)
        return -rc;
    rc = pthread_cond_init(&offload->wake, NULL);
    if (rc) {
        pthread_mutex_destroy(&offload->lock);
        return -rc;
    }
    offload->last = &offload->first;
    offload->threads_max = threads_max < LOOP_OFFLOAD_MAX ? threads_max : LOOP_OFFLOAD_MAX;
    return 0;
}

void loop_offload_done(struct loop_offloading *offload)
{
    pthread_mutex_lock(&offload->lock);
    offload->stopping = true;
    pthread_cond_broadcast(&offload->wake);
    pthread_mutex_unlock(&offload->lock);
    for (unsigned i = 0; i < offload->threads_count; i++)
        pthread_join(offload->threads[i], NULL);
    pthread_cond_destroy(&offload->wake);
    pthread_mutex_destroy(&offload->lock);
}
