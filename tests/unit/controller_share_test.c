/* Places for calls that wait for storage servers: no set of them takes all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "controller/share.h"

#define PLACES 64
#define SHARES 12

struct places {
    struct share_place items[PLACES];
    unsigned count;
};

static unsigned fill(struct share *share, struct places *places, unsigned most)
{
    unsigned before = places->count;

    while (share_enter(share, most, "AttachVolume", &places->items[places->count], NULL) == E_OK)
        places->count++;
    return places->count - before;
}

/* As if they had waited for long. */
static void grow_old(struct places *places)
{
    for (unsigned i = 0; i < places->count; i++)
        places->items[i].since_ms = 0;
}

static void leave_all(struct places *places)
{
    while (places->count > 0)
        share_leave(&places->items[--places->count]);
}

static void test_half_of_what_is_left(void **state)
{
    struct share_pool pool;
    struct share a, b, c;
    struct places of_a = {0}, of_b = {0}, of_c = {0};

    (void)state;
    share_pool_init(&pool, PLACES);
    share_init(&a, &pool, "s1", "host:1");
    share_init(&b, &pool, "s2", "host:2");
    share_init(&c, &pool, "s3", "host:3");
    assert_int_equal(share_enter(&a, 0, "AttachVolume", &of_a.items[of_a.count++], NULL), E_OK);
    grow_old(&of_a);
    assert_int_equal(fill(&a, &of_a, 0), PLACES / 2 - 1);
    assert_int_equal(share_enter(&b, 0, "AttachVolume", &of_b.items[of_b.count++], NULL), E_OK);
    grow_old(&of_b);
    assert_int_equal(fill(&b, &of_b, 0), PLACES / 4 - 1);
    assert_int_equal(fill(&a, &of_a, 0), 0);
    leave_all(&of_a);
    assert_int_equal(fill(&c, &of_c, 8), 8);
    grow_old(&of_c);
    assert_int_equal(fill(&c, &of_c, 0), (PLACES - PLACES / 4) / 2 - 8);
    leave_all(&of_b);
    leave_all(&of_c);
    share_pool_done(&pool);
}

/* A burst that is answered gets more than a server that hangs. */
static void test_burst(void **state)
{
    struct share_pool pool;
    struct share a, b;
    struct places of_a = {0}, of_b = {0};

    (void)state;
    share_pool_init(&pool, PLACES);
    share_init(&a, &pool, "s1", "host:1");
    share_init(&b, &pool, "s2", "host:2");
    assert_int_equal(fill(&a, &of_a, 0), PLACES * 7 / 8);
    assert_int_equal(fill(&b, &of_b, 0), 7);
    leave_all(&of_a);
    leave_all(&of_b);
    share_pool_done(&pool);
}

/* However many servers hang: the pool's last place is nobody's. */
static void test_never_all(void **state)
{
    struct share_pool pool;
    struct share shares[SHARES];
    struct places places[SHARES] = {0};
    unsigned taken = 0;

    (void)state;
    share_pool_init(&pool, PLACES);
    for (size_t i = 0; i < SHARES; i++) {
        share_init(&shares[i], &pool, "s", "host");
        taken += fill(&shares[i], &places[i], 0);
    }
    assert_in_range(taken, PLACES / 2, PLACES - 1);
    assert_int_equal(pool.taken, taken);
    for (size_t i = 0; i < SHARES; i++)
        leave_all(&places[i]);
    share_pool_done(&pool);
}

static void expect_names(struct share *share, const char *method)
{
    _cleanup_error_ struct error err = {0};
    struct share_place place;

    assert_int_equal(share_enter(share, 0, "DeleteVolume", &place, &err), E_UNAVAILABLE);
    assert_non_null(strstr(error_text(&err), "s1 at host:1"));
    assert_non_null(strstr(error_text(&err), method));
}

/* What waits is in the order that it came in, whoever of it leaves. */
static void test_names_the_longest(void **state)
{
    struct share_pool pool;
    struct share share;
    struct share_place first, second, third, last;

    (void)state;
    share_pool_init(&pool, 5); /* 4 for a burst */
    share_init(&share, &pool, "s1", "host:1");
    assert_int_equal(share_enter(&share, 0, "First", &first, NULL), E_OK);
    assert_int_equal(share_enter(&share, 0, "Second", &second, NULL), E_OK);
    assert_int_equal(share_enter(&share, 0, "Third", &third, NULL), E_OK);
    assert_int_equal(share_enter(&share, 0, "Last", &last, NULL), E_OK);
    expect_names(&share, "First");
    share_leave(&second);
    assert_int_equal(share_enter(&share, 0, "Second", &second, NULL), E_OK);
    expect_names(&share, "First");
    share_leave(&first);
    assert_int_equal(share_enter(&share, 0, "First", &first, NULL), E_OK);
    expect_names(&share, "Third");
    share_leave(&first);
    share_leave(&last);
    share_leave(&third);
    assert_ptr_equal(share.oldest, &second);
    assert_ptr_equal(share.newest, &second);
    share_leave(&second);
    assert_null(share.oldest);
    assert_null(share.newest);
    share_pool_done(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_of_what_is_left),
        cmocka_unit_test(test_burst),
        cmocka_unit_test(test_never_all),
        cmocka_unit_test(test_names_the_longest),
    };

    log_init("test", LOG_LEVEL_ERROR);
    return cmocka_run_group_tests_name("controller_share", tests, NULL, NULL);
}
