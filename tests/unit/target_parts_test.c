/* The parts of mooring-target that need no loop: the buffer pool, the configuration, when nodes were seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/target/buffer_pool.h"
#include "datapath/target/health.h"
#include "datapath/target/nodes_seen.h"
#include "datapath/target/settings.h"

/* ---- buffer pool ---- */

struct waiter {
    struct buffer_wait wait;
    void *buffer;
    unsigned order;
};

static unsigned served;

static void waiter_ready(struct buffer_wait *wait, void *buffer)
{
    struct waiter *waiter = container_of(wait, struct waiter, wait);
    waiter->buffer = buffer;
    waiter->order = ++served;
}

static void pool_is_bounded(void **state)
{
    struct buffer_pool pool;
    void *large[4], *small[8];
    (void)state;
    buffer_pool_init(&pool, 4 * MIB);
    for (unsigned i = 0; i < 4; i++) {
        large[i] = buffer_pool_get(&pool, MIB);
        assert_non_null(large[i]);
        assert_int_equal((uintptr_t)large[i] % 4096, 0);
        memset(large[i], 0xa5, MIB);
    }
    assert_null(buffer_pool_get(&pool, 1));
    /* What is kept for later makes room for other sizes. */
    buffer_pool_put(&pool, large[3], MIB);
    for (unsigned i = 0; i < 8; i++) {
        small[i] = buffer_pool_get(&pool, 100 * KIB);
        assert_non_null(small[i]);
    }
    assert_null(buffer_pool_get(&pool, 1));
    assert_int_equal(pool.held_bytes, pool.limit_bytes);
    for (unsigned i = 0; i < 8; i++)
        buffer_pool_put(&pool, small[i], 100 * KIB);
    for (unsigned i = 0; i < 3; i++)
        buffer_pool_put(&pool, large[i], MIB);
    buffer_pool_done(&pool);
}

static void pool_serves_in_order(void **state)
{
    struct buffer_pool pool;
    struct waiter waiters[4] = {0};
    void *all;
    (void)state;
    served = 0;
    buffer_pool_init(&pool, MIB);
    all = buffer_pool_get(&pool, MIB);
    for (unsigned i = 0; i < 4; i++) {
        waiters[i].wait.ready = waiter_ready;
        buffer_pool_wait(&pool, &waiters[i].wait, i == 0 ? MIB : 4096);
    }
    buffer_pool_put(&pool, all, MIB);
    /* The first took all of it; nobody passes it, and nobody new passes those who wait. */
    assert_ptr_equal(waiters[0].buffer, all);
    assert_null(waiters[1].buffer);
    assert_null(buffer_pool_get(&pool, 4096));
    buffer_pool_cancel(&pool, &waiters[2].wait);
    buffer_pool_cancel(&pool, &waiters[2].wait);
    buffer_pool_put(&pool, waiters[0].buffer, MIB);
    assert_int_equal(waiters[1].order, 2);
    assert_null(waiters[2].buffer);
    assert_int_equal(waiters[3].order, 3);
    buffer_pool_put(&pool, waiters[1].buffer, 4096);
    buffer_pool_put(&pool, waiters[3].buffer, 4096);
    buffer_pool_done(&pool);
}

/* One that waits for much holds back those behind it; when it gives up, they go on. */
static void pool_cancel_serves_the_next(void **state)
{
    struct buffer_pool pool;
    struct waiter large = {.wait = {.ready = waiter_ready}}, small = {.wait = {.ready = waiter_ready}};
    (void)state;
    buffer_pool_init(&pool, MIB);
    void *half = buffer_pool_get(&pool, 512 * KIB);
    buffer_pool_wait(&pool, &large.wait, MIB);
    buffer_pool_wait(&pool, &small.wait, 4096);
    assert_null(small.buffer);
    buffer_pool_cancel(&pool, &large.wait);
    assert_non_null(small.buffer);
    buffer_pool_put(&pool, small.buffer, 4096);
    buffer_pool_put(&pool, half, 512 * KIB);
    buffer_pool_done(&pool);
}

/* ---- configuration ---- */

#define REQUIRED                                                                                             \
    "\"server_id\": \"store-1\", \"pool\": \"/pool\", \"pool_uuid\": \"u\", \"listen\": \"h:1\", "           \
    "\"tls\": {\"ca\": \"a\", \"cert\": \"b\", \"key\": \"c\"}"

static int load(const char *text, struct settings *settings, struct error *err)
{
    char path[] = "/tmp/mooring-settings.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    int code = settings_load(settings, path, err);
    unlink(path);
    return code;
}

static void settings_defaults(void **state)
{
    _cleanup_error_ struct error err = {0};
    struct settings settings;
    (void)state;
    assert_int_equal(
        load("{" REQUIRED ", \"portals\": [\"0.0.0.0:3260\", \"[::]:3260\"], \"loops\": 0}", &settings, &err),
        0);
    assert_int_equal(settings.portals_count, 2);
    assert_string_equal(settings.advertise[1], "[::]:3260");
    assert_true(settings.loops >= 1);
    assert_int_equal(settings.commands_per_session_max, 128);
    assert_int_equal(settings.pool_warning_percent, 80);
    assert_int_equal(settings.scrub_bytes_per_s, 16 << 20);
    assert_int_equal(settings.scrub_interval_days, 30);
    settings_done(&settings);
    assert_int_equal(load("{" REQUIRED
                          ", \"portals\": [\"0.0.0.0:1\"], \"advertise\": [\"10.0.0.1:1\"], \"loops\": 3}",
                          &settings, &err),
                     0);
    assert_string_equal(settings.portals[0], "0.0.0.0:1");
    assert_string_equal(settings.advertise[0], "10.0.0.1:1");
    assert_int_equal(settings.loops, 3);
    settings_done(&settings);
}

static void settings_refusals(void **state)
{
    static const char *const wrong[] = {
        "{" REQUIRED "}",
        "{" REQUIRED ", \"portals\": []}",
        "{" REQUIRED ", \"portals\": [\"nowhere\"]}",
        "{" REQUIRED ", \"portals\": [7]}",
        "{" REQUIRED ", \"portals\": [\"h:1\"], \"portal\": 1}",
        "{" REQUIRED ", \"portals\": [\"h:1\"], \"loops\": 1000}",
        "{" REQUIRED ", \"portals\": [\"h:1\"], \"log_level\": \"loud\"}",
        "{" REQUIRED ", \"portals\": [\"h:1\"], \"scrub_interval_days\": 0}",
        "{" REQUIRED ", \"portals\": [\"h:1\"], \"scrub_bytes_per_s\": -1}",
        "{" REQUIRED ", \"portals\": [\"h:1\"], \"scrub_bytes_per_s\": 1024}",
        "{" REQUIRED ", \"portals\": [\"h:1\"], \"topology\": {\"zone\": 1}}",
        "{" REQUIRED ", \"portals\": [\"h:1\"], \"limits\": {\"connections\": 0}}",
        "{" REQUIRED ", \"portals\": [\"h:1\"], \"limits\": {\"buffer_bytes_per_loop\": 4096}}",
        "{\"server_id\": \"Store\"}",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        _cleanup_error_ struct error err = {0};
        struct settings settings;
        assert_int_equal(load(wrong[i], &settings, &err), E_INVALID_ARGUMENT);
        assert_non_null(strstr(error_text(&err), "mooring-settings"));
    }
}

/* ---- nodes ---- */

static void nodes_are_seen(void **state)
{
    struct nodes_seen seen;
    char id[32];
    (void)state;
    nodes_seen_init(&seen);
    assert_int_equal(nodes_seen_last(&seen, "n0"), 0);
    for (unsigned i = 0; i < 100; i++) {
        snprintf(id, sizeof(id), "n%u", i % 40);
        nodes_seen_note(&seen, id);
    }
    assert_int_equal(seen.count, 40);
    assert_true(nodes_seen_last(&seen, "n39") > 0);
    assert_int_equal(nodes_seen_last(&seen, "n40"), 0);
    nodes_seen_done(&seen);
}

/* ---- health ---- */

static enum health_pool judge(unsigned permille, bool refused, enum health_pool before)
{
    const struct store_capacity capacity = {.total_bytes = 100 * GIB, .used_bytes = permille * GIB / 10};
    return health_judge_pool(&capacity, 80, refused, before);
}

static void pool_is_judged(void **state)
{
    (void)state;
    assert_int_equal(judge(799, false, HEALTH_POOL_GOOD), HEALTH_POOL_GOOD);
    assert_int_equal(judge(800, false, HEALTH_POOL_GOOD), HEALTH_POOL_FILLING);
    assert_int_equal(judge(994, false, HEALTH_POOL_FILLING), HEALTH_POOL_FILLING);
    assert_int_equal(judge(996, false, HEALTH_POOL_FILLING), HEALTH_POOL_FULL);
    /* Back only at some distance, so that no state comes and goes with each write. */
    assert_int_equal(judge(994, false, HEALTH_POOL_FULL), HEALTH_POOL_FULL);
    assert_int_equal(judge(989, false, HEALTH_POOL_FULL), HEALTH_POOL_FILLING);
    assert_int_equal(judge(795, false, HEALTH_POOL_FILLING), HEALTH_POOL_FILLING);
    assert_int_equal(judge(789, false, HEALTH_POOL_FILLING), HEALTH_POOL_GOOD);
    /* A write was refused: full, whatever the numbers say. */
    assert_int_equal(judge(900, true, HEALTH_POOL_GOOD), HEALTH_POOL_FULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pool_is_judged),       cmocka_unit_test(pool_is_bounded),
        cmocka_unit_test(pool_serves_in_order), cmocka_unit_test(pool_cancel_serves_the_next),
        cmocka_unit_test(settings_defaults),    cmocka_unit_test(settings_refusals),
        cmocka_unit_test(nodes_are_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
