/*
 * A storage server that takes calls and does not answer: what the controller has waiting for it. Over real
 * gRPC, against three servers in memory.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/time.h"
#include "tests/unit/controller_fixture.h"

#define HUNG_CALLS 12
#define HUNG_MAY_WAIT 8

struct hang {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool hangs;
    size_t refused; /* calls that were told at once */
};

static int hang_until_told(struct peer *peer, const char *method, void *context)
{
    struct hang *hang = context;

    (void)peer, (void)method;
    pthread_mutex_lock(&hang->lock);
    while (hang->hangs)
        pthread_cond_wait(&hang->changed, &hang->lock);
    pthread_mutex_unlock(&hang->lock);
    return E_OK;
}

struct hung_call {
    struct fixture *fixture;
    struct hang *hang;
    pthread_t thread;
    int result;
};

static void *run_hung(void *context)
{
    struct hung_call *call = context;
    _cleanup_error_ struct error err = {0};

    call->result = fixture_find(&call->fixture->a, OLD_ID_2, &err);
    if (call->result == E_UNAVAILABLE && strstr(error_text(&err), "waiting for it already")) {
        pthread_mutex_lock(&call->hang->lock);
        call->hang->refused++;
        pthread_cond_broadcast(&call->hang->changed);
        pthread_mutex_unlock(&call->hang->lock);
    }
    return NULL;
}

/* Until all are that will be; their number. A call that is not refused goes on beyond that. */
static size_t wait_for_refused(struct hang *hang, size_t wanted)
{
    uint64_t until_ms = fixture_soon() - 5000;
    const struct timespec until = {.tv_sec = (time_t)(until_ms / 1000)};
    size_t refused;
    int r = 0;

    pthread_mutex_lock(&hang->lock);
    while (hang->refused < wanted && r == 0)
        r = pthread_cond_clockwait(&hang->changed, &hang->lock, CLOCK_MONOTONIC, &until);
    refused = hang->refused;
    hang->hangs = false;
    pthread_cond_broadcast(&hang->changed);
    pthread_mutex_unlock(&hang->lock);
    return refused;
}

/* A server that was found not to answer keeps few calls waiting; the threads of the others are free for other
 * servers. What waits gets its answer when the server goes on. */
static void test_hung_server_keeps_few_calls(void **state)
{
    struct fixture *fixture = *state;
    struct hang hang = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct hung_call calls[HUNG_CALLS];
    struct storage_server *server = storage_find(fixture->a.storage, "s2");
    size_t refused, answered = 0;

    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, NULL), E_NOT_FOUND);
    hang.hangs = true;
    fixture->peers[1].hook_context = &hang;
    fixture->peers[1].hook = hang_until_told;
    assert_int_equal(storage_get_server(server, time_now_ms() + 50, NULL, NULL), E_UNAVAILABLE);
    assert_true(storage_server_ready(server)); /* so little time says nothing about it */
    assert_int_equal(storage_get_server(server, time_now_ms() + 1500, NULL, NULL), E_UNAVAILABLE);
    assert_false(storage_server_ready(server));
    for (size_t i = 0; i < HUNG_CALLS; i++) {
        calls[i] = (struct hung_call){.fixture = fixture, .hang = &hang};
        assert_int_equal(pthread_create(&calls[i].thread, NULL, run_hung, &calls[i]), 0);
    }
    refused = wait_for_refused(&hang, HUNG_CALLS - HUNG_MAY_WAIT);
    for (size_t i = 0; i < HUNG_CALLS; i++) {
        pthread_join(calls[i].thread, NULL);
        answered += calls[i].result == E_NOT_FOUND;
    }
    assert_int_equal(refused, HUNG_CALLS - HUNG_MAY_WAIT);
    assert_int_equal(answered, HUNG_MAY_WAIT);
    assert_int_equal(fixture_find(&fixture->a, OLD_ID_2, NULL), E_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hung_server_keeps_few_calls, fixture_setup, fixture_teardown),
    };

    log_init("test", LOG_LEVEL_ERROR);
    return cmocka_run_group_tests_name("controller_hang", tests, NULL, NULL);
}
