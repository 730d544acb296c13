/* The replay log: what is in it, when an entry leaves, and what a successor finds (invariant 1). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/device/boot_id.h"
#include "datapath/device/replay_log.h"

#define VOLUME "store-1.9f86d081884c7d65"
#define EPOCH 4
#define MIB_1 (1024u * 1024)

struct fixture {
    struct replay_log log;
    int fd;
};

static int setup(void **state)
{
    static struct fixture fixture;
    assert_int_equal(replay_log_create(&fixture.log, VOLUME, EPOCH, REPLAY_LOG_SIZE_MIN, &fixture.fd, NULL),
                     0);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    replay_log_done(&fixture->log);
    fixture->fd = fd_close(fixture->fd);
    return 0;
}

static struct replay_entry *write_entry(struct replay_log *log, uint64_t offset, uint8_t byte,
                                        uint64_t length)
{
    void *room = replay_log_reserve(log, length);
    if (!room)
        return NULL;
    memset(room, byte, length);
    return replay_log_append(log, REPLAY_WRITE, offset, length, length);
}

static unsigned count(struct replay_log *log)
{
    unsigned entries = 0;
    for (struct replay_entry *entry = replay_log_first(log); entry; entry = replay_log_next(log, entry))
        entries++;
    return entries;
}

static void flush(struct replay_log *log)
{
    replay_log_flushed(log, replay_log_flush_begin(log));
}

/* A successor's view of the same memory. */
static int adopt(struct fixture *fixture, struct replay_log *ret_log, const char *volume_id, uint64_t epoch)
{
    return replay_log_adopt(ret_log, fixture->fd, volume_id, epoch, NULL);
}

static void test_entries_in_order(void **state)
{
    struct fixture *fixture = *state;
    struct replay_log *log = &fixture->log;
    write_entry(log, 0, 'a', 4096);
    assert_non_null(replay_log_reserve(log, 0));
    assert_non_null(replay_log_append(log, REPLAY_DISCARD, 8192, 1 << 30, 0));
    write_entry(log, 4096, 'b', 512);

    struct replay_entry *entry = replay_log_first(log);
    assert_int_equal(entry->op, REPLAY_WRITE);
    assert_int_equal(((char *)replay_entry_payload(entry))[4095], 'a');
    entry = replay_log_next(log, entry);
    assert_int_equal(entry->op, REPLAY_DISCARD);
    assert_int_equal(entry->length, 1 << 30);
    entry = replay_log_next(log, entry);
    assert_int_equal(entry->offset, 4096);
    assert_int_equal(((char *)replay_entry_payload(entry))[511], 'b');
    assert_null(replay_log_next(log, entry));
}

static void test_leaves_after_a_later_flush(void **state)
{
    struct replay_log *log = &((struct fixture *)*state)->log;
    struct replay_entry *entry = write_entry(log, 0, 'a', 4096);
    flush(log); /* sent before the answer: says nothing about the entry */
    assert_int_equal(count(log), 1);

    uint64_t clock = replay_log_flush_begin(log);
    replay_log_answered(log, entry, false); /* while the flush was under way */
    replay_log_flushed(log, clock);
    assert_int_equal(count(log), 1);

    replay_log_flush_begin(log); /* sent, but never succeeded */
    assert_int_equal(count(log), 1);
    flush(log);
    assert_true(replay_log_empty(log));
}

static void test_unanswered_holds_the_rest(void **state)
{
    struct replay_log *log = &((struct fixture *)*state)->log;
    struct replay_entry *first = write_entry(log, 0, 'a', 4096), *second = write_entry(log, 0, 'b', 4096);
    replay_log_answered(log, second, false);
    flush(log);
    assert_int_equal(count(log), 2);
    replay_log_answered(log, first, false);
    flush(log);
    assert_true(replay_log_empty(log));
}

/* A FUA write over an older, unflushed one: replaying the older alone would undo it. */
static void test_stable_stays_behind_older(void **state)
{
    struct replay_log *log = &((struct fixture *)*state)->log;
    struct replay_entry *older = write_entry(log, 0, 'a', 4096), *fua = write_entry(log, 0, 'b', 4096);
    replay_log_answered(log, older, false);
    replay_log_answered(log, fua, true);
    assert_int_equal(count(log), 2);
    flush(log);
    assert_true(replay_log_empty(log));
    replay_log_answered(log, write_entry(log, 0, 'c', 4096), true);
    assert_true(replay_log_empty(log));
}

static void test_voided_is_not_replayed(void **state)
{
    struct replay_log *log = &((struct fixture *)*state)->log;
    replay_log_answered(log, write_entry(log, 0, 'a', 4096), false);
    replay_log_voided(log, write_entry(log, 4096, 'b', 4096));
    assert_int_equal(count(log), 1);
    assert_int_equal(replay_log_first(log)->offset, 0);
}

static void test_full_then_room(void **state)
{
    struct replay_log *log = &((struct fixture *)*state)->log;
    unsigned entries = 0;
    struct replay_entry *entry;
    while (entries < 100 && (entry = write_entry(log, entries * 4096, (uint8_t)entries, 100 * 1024))) {
        replay_log_answered(log, entry, false);
        entries++;
    }
    assert_true(entries < 100);
    assert_int_equal(count(log), entries);
    assert_true(entries >= REPLAY_LOG_SIZE_MIN / (101 * 1024));
    for (unsigned i = 0; i < entries; i++) { /* nothing was overwritten */
        entry = i ? replay_log_next(log, entry) : replay_log_first(log);
        assert_int_equal(*(uint8_t *)replay_entry_payload(entry), i);
    }
    flush(log);
    assert_non_null(write_entry(log, 0, 'z', 100 * 1024));
}

static void test_wraps(void **state)
{
    struct fixture *fixture = *state;
    struct replay_log *log = &fixture->log;
    for (unsigned lap = 0; lap < 50; lap++) {
        uint64_t length = 64 * 1024 + lap * 8192;
        struct replay_entry *entry = write_entry(log, lap, (uint8_t)lap, length);
        assert_non_null(entry);
        struct replay_log successor;
        assert_int_equal(adopt(fixture, &successor, VOLUME, EPOCH), 0);
        assert_int_equal(replay_log_first(&successor)->offset, lap);
        assert_int_equal(count(&successor), 1);
        replay_log_done(&successor);
        entry->answered_clock = 0; /* the successor had it for answered */
        replay_log_answered(log, entry, false);
        flush(log);
        assert_true(replay_log_empty(log));
    }
}

static void test_adopted(void **state)
{
    struct fixture *fixture = *state;
    struct replay_log successor;
    replay_log_answered(&fixture->log, write_entry(&fixture->log, 0, 'a', 4096), false);
    write_entry(&fixture->log, 4096, 'b', 4096);
    replay_log_set_boot_id(&fixture->log, "0123456789abcdef0123456789abcdef");

    assert_int_equal(adopt(fixture, &successor, VOLUME, EPOCH), 0);
    assert_int_equal(count(&successor), 2);
    assert_string_equal(replay_log_boot_id(&successor), "0123456789abcdef0123456789abcdef");
    assert_true(boot_id_needs_replay(&successor, "ffffffffffffffffffffffffffffffff"));
    assert_false(boot_id_needs_replay(&successor, "0123456789abcdef0123456789abcdef"));
    assert_false(boot_id_needs_replay(&successor, ""));

    struct replay_entry *more = write_entry(&successor, 8192, 'c', 4096);
    assert_int_equal(count(&successor), 3);
    flush(&successor); /* the first two were drained before its session came up; the third has no answer */
    assert_int_equal(count(&successor), 1);
    assert_ptr_equal(replay_log_first(&successor), more);
    replay_log_done(&successor);
}

static void test_torn_tail(void **state)
{
    struct fixture *fixture = *state;
    struct replay_log successor;
    write_entry(&fixture->log, 0, 'a', 4096);
    struct replay_entry *torn = write_entry(&fixture->log, 4096, 'b', 4096);
    ((uint8_t *)replay_entry_payload(torn))[2048] = 'x';
    assert_int_equal(adopt(fixture, &successor, VOLUME, EPOCH), 0);
    assert_int_equal(count(&successor), 1);
    assert_int_equal(replay_log_first(&successor)->offset, 0);

    /* what comes next takes its place */
    write_entry(&successor, 12288, 'c', 4096);
    assert_int_equal(count(&successor), 2);
    replay_log_done(&successor);
    assert_int_equal(adopt(fixture, &successor, VOLUME, EPOCH), 0);
    assert_int_equal(count(&successor), 2);
    replay_log_done(&successor);
}

static void test_torn_header(void **state)
{
    struct fixture *fixture = *state;
    struct replay_log successor;
    uint64_t sizes[] = {0, 63, 1 << 30, REPLAY_LOG_SIZE_MIN + 64};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct replay_entry *entry = write_entry(&fixture->log, 0, 'a', 4096);
        entry->total_length = (uint32_t)sizes[i];
        assert_int_equal(adopt(fixture, &successor, VOLUME, EPOCH), 0);
        assert_true(replay_log_empty(&successor));
        replay_log_done(&successor);
        entry->payload_length = (1u << 30) - 64; /* would be read far beyond the ring */
        assert_int_equal(adopt(fixture, &successor, VOLUME, EPOCH), 0);
        assert_true(replay_log_empty(&successor));
        replay_log_done(&successor);
        entry->payload_length = 4096;
        entry->total_length = 64 + 4096;
        entry->op = 9;
        assert_int_equal(adopt(fixture, &successor, VOLUME, EPOCH), 0);
        assert_true(replay_log_empty(&successor));
        replay_log_done(&successor);
        entry->op = REPLAY_WRITE;
        entry->answered_clock = 0;
        replay_log_answered(&fixture->log, entry, true);
    }
}

static void refused_and_destroyed(struct fixture *fixture, const char *volume_id, uint64_t epoch)
{
    struct replay_log successor;
    struct stat status;
    write_entry(&fixture->log, 0, 'a', 4096);
    replay_log_done(&fixture->log);
    assert_int_equal(adopt(fixture, &successor, volume_id, epoch), E_STALE);
    assert_int_equal(fstat(fixture->fd, &status), 0);
    assert_int_equal(status.st_size, 0);
}

static void test_other_epoch(void **state)
{
    refused_and_destroyed(*state, VOLUME, EPOCH + 1);
}

static void test_other_volume(void **state)
{
    refused_and_destroyed(*state, "store-1.0000000000000000", EPOCH);
}

static void test_sizes(void **state)
{
    (void)state;
    struct replay_log log;
    int fd;
    assert_int_equal(replay_log_create(&log, VOLUME, EPOCH, MIB_1, &fd, NULL), E_INVALID_ARGUMENT);
}

static void test_boot_id_page(void **state)
{
    (void)state;
    uint8_t page[36] = {0, 0xC0, 0, 32};
    char boot_id[ID_BOOT_LENGTH + 1] = "unchanged";
    memcpy(page + 4, "0123456789abcdef0123456789abcdef", 32);
    assert_false(boot_id_parse(page, 35, boot_id));
    page[10] = 'g';
    assert_false(boot_id_parse(page, 36, boot_id));
    assert_string_equal(boot_id, "unchanged");
    page[10] = '6';
    assert_true(boot_id_parse(page, 36, boot_id));
    assert_string_equal(boot_id, "0123456789abcdef0123456789abcdef");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_entries_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leaves_after_a_later_flush, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unanswered_holds_the_rest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stable_stays_behind_older, setup, teardown),
        cmocka_unit_test_setup_teardown(test_voided_is_not_replayed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_then_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wraps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adopted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_tail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_header, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_epoch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_volume, setup, teardown),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_boot_id_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
