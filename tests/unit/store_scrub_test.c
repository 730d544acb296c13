/*
 * The scrub, step by step on a clock of the test's, on a real XFS whose reads fail where the test says: what
 * it reads and how fast, what it tells of what cannot be read and until when, and that nothing waits for it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"
#include "datapath/store/scrub_internal.h"
#include "tests/unit/store_bench.h"

#define SIZE (8 * MIB)
#define BLOCK 4096u
#define BLOCKS (SIZE / BLOCK)
#define SECOND_NS UINT64_C(1000000000)
#define DAY_S 86400

#define FIRST FIXTURE_SERVER ".0000000000000001" /* the bench's volume */
#define SECOND FIXTURE_SERVER ".0000000000000002"

/* ---- a disk whose reads fail, and a clock ---- */

static struct rig {
    struct backend_ops ops;
    uint64_t now_ns, takes_ns;
    int64_t unix_s;
    const char *bad_id; /* NULL: any */
    uint64_t bad_from, bad_to;
    int bad_errno;
    int save_code;
    void (*before)(uint64_t offset); /* each read */
    const char *seen_id;             /* whose reads are told in `seen` */
    unsigned char seen[BLOCKS];      /* how often */
    uint64_t read_bytes, longest_bytes;
} rig;

static uint64_t rig_now_ns(void)
{
    return rig.now_ns;
}

static int64_t rig_unix_s(void)
{
    return rig.unix_s + (int64_t)(rig.now_ns / SECOND_NS);
}

static int rig_read(struct backend_image *image, void *buffer, uint64_t offset, size_t length,
                    size_t *ret_length)
{
    if (rig.before)
        rig.before(offset);
    rig.now_ns += rig.takes_ns;
    rig.read_bytes += length;
    rig.longest_bytes = MAX(rig.longest_bytes, length);
    if (rig.seen_id && str_equal(image->id, rig.seen_id))
        for (uint64_t block = offset / BLOCK; block < (offset + length) / BLOCK; block++)
            rig.seen[block]++;
    if (rig.bad_errno && (!rig.bad_id || str_equal(rig.bad_id, image->id)) && offset < rig.bad_to &&
        offset + length > rig.bad_from)
        return -rig.bad_errno;
    return pool_backend.scrub_read(image, buffer, offset, length, ret_length);
}

static int rig_save(struct backend *backend, json_t *object, struct error *err)
{
    return rig.save_code ? error_set(err, rig.save_code, "as the test wants")
                         : pool_backend.scrub_save(backend, object, err);
}

static void rig_fail(const char *id, uint64_t from, uint64_t to, int errnum)
{
    rig.bad_id = id;
    rig.bad_from = from;
    rig.bad_to = to;
    rig.bad_errno = errnum;
}

static void rig_use(struct store *store, uint64_t bytes_per_s)
{
    const struct scrub_options options = {
        .bytes_per_s = bytes_per_s, .interval_s = 30 * DAY_S, .now_ns = rig_now_ns, .unix_s = rig_unix_s};

    rig.ops = pool_backend;
    rig.ops.scrub_read = rig_read;
    rig.ops.scrub_save = rig_save;
    store->ops = &rig.ops;
    assert_int_equal(store_scrub_open(store, &options, NULL), E_OK);
}

/* An empty pool with a volume, and a scrub that nobody runs. */
static void rig_open(struct bench *bench, void **state, uint64_t bytes_per_s)
{
    char path[160];

    rig = (struct rig){.now_ns = 1000 * SECOND_NS, .unix_s = 1700000000};
    bench_open(bench, state, SIZE);
    snprintf(path, sizeof(path), "%s/scrub.json", bench->fixture->pool);
    unlink(path);
    rig_use(bench->store, bytes_per_s);
}

static void rig_reopen(struct bench *bench, uint64_t bytes_per_s)
{
    bench_reopen(bench);
    rig_use(bench->store, bytes_per_s);
}

static struct scrub_status rig_status(struct bench *bench)
{
    struct scrub_status status;

    store_scrub_status(bench->store, &status);
    return status;
}

/* Steps until none is due; the time goes on as asked for. */
static void rig_settle(struct bench *bench)
{
    for (unsigned steps = 0; steps < 100000; steps++) {
        uint64_t wait_ns = store_scrub_step(bench->store);

        if (wait_ns >= 30 * SECOND_NS)
            return;
        rig.now_ns += wait_ns;
    }
    fail_msg("the scrub comes to no end");
}

static struct scrub_round rig_round(struct bench *bench)
{
    assert_int_equal(store_scrub_request(bench->store, NULL), E_OK);
    rig_settle(bench);
    assert_false(rig_status(bench).running);
    return rig_status(bench).last;
}

/* All that cannot be read, as "id offset+length errno" a line. */
static void assert_unreadable(struct bench *bench, const char *expected)
{
    struct scrub_error errors[SCRUB_RANGES_MAX];
    size_t count = store_scrub_errors(bench->store, NULL, errors, ARRAY_SIZE(errors));
    char text[4096] = "", line[128];

    for (size_t i = 0; i < count; i++) {
        snprintf(line, sizeof(line), "%.64s %" PRIu64 "+%" PRIu64 " %s\n", errors[i].id, errors[i].offset,
                 errors[i].length, error_name(-errors[i].errnum));
        strncat(text, line, sizeof(text) - strlen(text) - 1);
    }
    assert_string_equal(text, expected);
    assert_int_equal(rig_status(bench).unreadable, count);
}

static unsigned open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;

    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* ---- what is read ---- */

static void assert_read(uint64_t from, uint64_t to, unsigned times)
{
    for (uint64_t block = from / BLOCK; block < to / BLOCK; block++)
        if (rig.seen[block] != times)
            fail_msg("block %" PRIu64 " was read %u times, not %u", block, rig.seen[block], times);
}

static void what_is_written_is_read(void **state)
{
    struct scrub_round round;
    struct snapshot *snapshot;
    struct bench bench;

    rig_open(&bench, state, GIB);
    bench_write(&bench, 0, MIB, 'x');
    bench_write(&bench, 3 * MIB, 64 * KIB, 'x');
    test_io_run(&bench.loop, bench.image, IMAGE_WRITE_ZEROES, 5 * MIB, MIB, 0, NULL);
    rig.seen_id = FIRST;
    assert_int_equal(store_scrub_read_at(bench.store, FIRST), 0);
    round = rig_round(&bench);
    assert_read(0, MIB, 1);
    assert_read(MIB, 3 * MIB, 0);
    assert_read(3 * MIB, 3 * MIB + 64 * KIB, 1);
    assert_read(3 * MIB + 64 * KIB, SIZE, 0);
    assert_int_equal(round.read_bytes, MIB + 64 * KIB);
    assert_int_equal(round.files_count, 1);
    assert_int_equal(round.unreadable_bytes, 0);
    assert_true(round.began_unix_s > 0 && round.ended_unix_s >= round.began_unix_s);
    assert_true(store_scrub_read_at(bench.store, FIRST) >= round.began_unix_s);
    assert_true(rig.longest_bytes <= 256 * KIB);

    /* A snapshot is read where it does not share what was. */
    snapshot = bench_snapshot(&bench, 1);
    bench_wait_ready(snapshot);
    bench_write(&bench, 128 * KIB, 64 * KIB, 'y');
    memset(rig.seen, 0, sizeof(rig.seen));
    rig.seen_id = FIXTURE_SERVER ".s-0000000000000001";
    round = rig_round(&bench);
    assert_read(0, 128 * KIB, 0);
    assert_read(128 * KIB, 192 * KIB, 1);
    assert_read(192 * KIB, SIZE, 0);
    assert_int_equal(round.files_count, 2);
    assert_int_equal(round.read_bytes, MIB + 128 * KIB);
    assert_int_equal(round.shared_bytes, MIB);
    snapshot_unref(snapshot);
    bench_close(&bench);
}

/* ---- how fast ---- */

#define RATE MIB

static void the_rate_is_kept(void **state)
{
    uint64_t began_ns, seconds;
    struct bench bench;

    rig_open(&bench, state, RATE);
    bench_write(&bench, 0, SIZE, 'x');
    assert_int_equal(store_scrub_request(bench.store, NULL), E_OK);
    began_ns = rig.now_ns;
    for (bool running = true; running; running = rig_status(&bench).running) {
        uint64_t wait_ns = store_scrub_step(bench.store), passed_ns = rig.now_ns - began_ns;

        assert_true(rig.read_bytes <= 256 * KIB + passed_ns / 1000 * RATE / 1000000);
        rig.now_ns += MIN(wait_ns, SECOND_NS / 3); /* woken for nothing, too */
    }
    seconds = (rig.now_ns - began_ns) / SECOND_NS;
    print_message("%" PRIu64 " s for %" PRIu64 " bytes\n", seconds, rig.read_bytes);
    assert_int_equal(rig.read_bytes, SIZE);
    assert_in_range(seconds, SIZE / RATE - 1, SIZE / RATE + 1);
    bench_close(&bench);
}

static void a_busy_disk_is_left_alone(void **state)
{
    uint64_t wait_ns = 0;
    struct bench bench;

    rig_open(&bench, state, GIB);
    bench_write(&bench, 0, MIB, 'x');
    rig.takes_ns = SECOND_NS / 10;
    assert_int_equal(store_scrub_request(bench.store, NULL), E_OK);
    while (rig.read_bytes == 0)
        wait_ns = store_scrub_step(bench.store);
    assert_int_equal(wait_ns, 3 * rig.takes_ns);
    rig.now_ns += wait_ns - 1;
    assert_int_equal(store_scrub_step(bench.store), 1);
    assert_int_equal(rig.read_bytes, 256 * KIB);
    rig.now_ns++;
    rig.takes_ns = 60 * SECOND_NS; /* it goes on all the same */
    assert_int_equal(store_scrub_step(bench.store), 10 * SECOND_NS);
    assert_int_equal(rig.read_bytes, 512 * KIB);
    bench_close(&bench);
}

static void rounds_have_their_time(void **state)
{
    struct scrub_status status;
    struct bench bench;

    rig_open(&bench, state, GIB);
    rig_settle(&bench);
    status = rig_status(&bench);
    assert_false(status.running);
    assert_int_equal(status.last.began_unix_s, 0);
    assert_int_equal(status.next_unix_s, rig_unix_s() + 3600); /* not at the first start itself */
    rig_reopen(&bench, GIB);
    assert_int_equal(rig_status(&bench).next_unix_s, status.next_unix_s); /* nor put off by another one */
    rig.now_ns += 3600 * SECOND_NS;
    rig_settle(&bench);
    assert_int_equal(rig_status(&bench).last.files_count, 1);
    assert_int_equal(rig_status(&bench).next_unix_s, rig_status(&bench).last.began_unix_s + 30 * DAY_S);
    rig_reopen(&bench, 0); /* off */
    assert_int_equal(store_scrub_request(bench.store, NULL), E_PRECONDITION);
    rig.now_ns += 31 * (uint64_t)DAY_S * SECOND_NS;
    rig_settle(&bench);
    assert_false(rig_status(&bench).running);
    rig_reopen(&bench, GIB);
    rig_settle(&bench);
    assert_true(rig_status(&bench).last.began_unix_s >= rig_unix_s() - 60);
    bench_close(&bench);
}

/* ---- what cannot be read ---- */

static void it_is_told_until_it_can_be_read(void **state)
{
    struct scrub_round round;
    struct bench bench;

    rig_open(&bench, state, GIB);
    bench_write(&bench, 0, 2 * MIB, 'x');
    rig_fail(FIRST, MIB + 3 * BLOCK + 512, MIB + 5 * BLOCK, EIO);
    round = rig_round(&bench);
    assert_int_equal(round.unreadable_bytes, 2 * BLOCK);
    assert_unreadable(&bench, FIRST " 1060864+8192 EIO\n");
    assert_int_equal(round.read_bytes, 2 * MIB - 2 * BLOCK);
    assert_true(store_scrub_read_at(bench.store, FIRST) > 0);
    assert_string_equal(rig_status(&bench).first, FIRST);
    rig_reopen(&bench, GIB);
    assert_unreadable(&bench, FIRST " 1060864+8192 EIO\n");
    rig_settle(&bench); /* read again at the start, and still bad */
    assert_unreadable(&bench, FIRST " 1060864+8192 EIO\n");
    rig_fail(FIRST, MIB + 4 * BLOCK, MIB + 5 * BLOCK, ENODATA); /* what a disk says of a bad sector */
    rig_settle(&bench);
    assert_unreadable(&bench, FIRST " 1060864+8192 EIO\n");
    rig_round(&bench);
    assert_unreadable(&bench, FIRST " 1064960+4096 ENODATA\n");
    rig_fail(NULL, 0, 0, 0);
    round = rig_round(&bench);
    assert_unreadable(&bench, "");
    assert_int_equal(round.unreadable_bytes, 0);
    bench_close(&bench);
}

static void what_is_written_anew_is_read_again(void **state)
{
    uint64_t before;
    struct bench bench;

    rig_open(&bench, state, GIB);
    bench_write(&bench, 0, 2 * MIB, 'x');
    rig_fail(FIRST, MIB, MIB + 4 * BLOCK, EIO);
    rig_round(&bench);
    assert_unreadable(&bench, FIRST " 1048576+16384 EIO\n");
    rig_fail(NULL, 0, 0, 0);
    before = rig.read_bytes;
    bench_write(&bench, MIB - BLOCK, BLOCK, 'y'); /* elsewhere */
    bench_write(&bench, MIB + 4 * BLOCK, BLOCK, 'y');
    rig_settle(&bench);
    assert_unreadable(&bench, FIRST " 1048576+16384 EIO\n");
    assert_int_equal(rig.read_bytes, before);
    bench_write(&bench, MIB + BLOCK, BLOCK, 'y'); /* a part */
    rig_settle(&bench);
    assert_unreadable(&bench, FIRST " 1048576+4096 EIO\n" FIRST " 1056768+8192 EIO\n");
    assert_int_equal(rig.read_bytes, before + BLOCK);
    test_io_run(&bench.loop, bench.image, IMAGE_UNMAP, MIB + 2 * BLOCK, BLOCK, 0, NULL);
    rig_settle(&bench);
    assert_unreadable(&bench, FIRST " 1048576+4096 EIO\n" FIRST " 1060864+4096 EIO\n");
    rig_fail(FIRST, MIB, MIB + 4 * BLOCK, EIO); /* it stays bad when it is written */
    bench_write(&bench, MIB, BLOCK, 'y');
    rig_settle(&bench);
    assert_unreadable(&bench, FIRST " 1048576+4096 EIO\n" FIRST " 1060864+4096 EIO\n");
    assert_int_equal(image_discard_all(bench.image, NULL), E_OK);
    rig_settle(&bench);
    assert_unreadable(&bench, "");
    assert_false(atomic_load(&bench.volume->suspect)); /* its writers have nothing to tell any more */
    bench_close(&bench);
}

static struct bench *writing;

static void write_there(uint64_t offset)
{
    if (offset == MIB + BLOCK && writing) {
        bench_write(writing, offset, BLOCK, 'y');
        writing = NULL;
        rig_fail(NULL, 0, 0, 0);
        rig_fail(FIRST, MIB + BLOCK, MIB + 2 * BLOCK, EIO); /* for this one read still */
    } else {
        rig_fail(NULL, 0, 0, 0);
    }
}

static void prepare_write(uint64_t offset)
{
    if (offset == MIB + BLOCK)
        rig.before = write_there;
    if (rig.before == write_there)
        write_there(offset);
}

/* An error of a block that is written at that moment is an error of what was there. */
static void a_write_meanwhile(void **state)
{
    struct bench bench;

    rig_open(&bench, state, GIB);
    bench_write(&bench, 0, 2 * MIB, 'x');
    rig_fail(FIRST, MIB + BLOCK, MIB + 2 * BLOCK, EIO);
    writing = &bench;
    rig.before = prepare_write;
    rig_round(&bench);
    assert_null(writing);
    assert_unreadable(&bench, "");
    bench_close(&bench);
}

static void failures_that_say_nothing(void **state)
{
    struct scrub_round round;
    struct bench bench;

    rig_open(&bench, state, GIB);
    bench_write(&bench, 0, MIB, 'x');
    rig_fail(FIRST, 0, MIB, ENOMEM);
    round = rig_round(&bench);
    assert_unreadable(&bench, "");
    assert_int_equal(round.files_count, 0); /* not read whole, and it does not say so */
    assert_int_equal(store_scrub_read_at(bench.store, FIRST), 0);
    rig.save_code = E_NO_SPACE;
    rig_fail(FIRST, 0, BLOCK, EIO);
    rig_round(&bench);
    assert_unreadable(&bench, FIRST " 0+4096 EIO\n");
    rig.save_code = 0;
    rig_reopen(&bench, GIB); /* saved at last */
    assert_unreadable(&bench, FIRST " 0+4096 EIO\n");
    bench_close(&bench);
}

/* ---- through restarts ---- */

static void a_round_goes_on(void **state)
{
    struct volume_record spec = fixture_spec(2);
    struct scrub_status status;
    struct volume *second;
    struct bench bench;

    rig_open(&bench, state, RATE);
    bench_write(&bench, 0, SIZE, 'x');
    second = fixture_create(bench.store, &spec);
    volume_unref(second);
    rig.seen_id = FIRST;
    assert_int_equal(store_scrub_request(bench.store, NULL), E_OK);
    while (rig_status(&bench).round.read_bytes < 5 * MIB)
        rig.now_ns += store_scrub_step(bench.store);
    status = rig_status(&bench);
    assert_true(status.running);
    assert_in_range(status.progress_percent, 100 * 5 / 8 / 2 - 1, 100 * 6 / 8 / 2);
    rig_reopen(&bench, RATE);
    assert_true(rig_status(&bench).running);
    assert_int_equal(rig_status(&bench).round.read_bytes, status.round.read_bytes);
    rig_settle(&bench);
    assert_read(0, SIZE, 1);
    assert_int_equal(rig_status(&bench).last.read_bytes, SIZE);
    assert_int_equal(rig_status(&bench).last.files_count, 2);
    assert_int_equal(rig_status(&bench).last.began_unix_s, status.round.began_unix_s);
    bench_close(&bench);
}

static void a_record_that_is_torn(void **state)
{
    struct bench bench;
    char path[160];
    int fd;

    rig_open(&bench, state, GIB);
    bench_write(&bench, 0, MIB, 'x');
    rig_fail(FIRST, 0, BLOCK, EIO);
    rig_round(&bench);
    bench_reopen(&bench); /* saved */
    snprintf(path, sizeof(path), "%s/scrub.json", bench.fixture->pool);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, 40), 0);
    close(fd);
    rig_use(bench.store, GIB);
    assert_unreadable(&bench, "");
    rig_round(&bench);
    assert_unreadable(&bench, FIRST " 0+4096 EIO\n");
    bench_close(&bench);
}

/* ---- nothing waits ---- */

static void deleted_while_it_is_read(void **state)
{
    struct volume_record spec = fixture_spec(2);
    unsigned descriptors;
    struct volume *second;
    struct bench bench;

    rig_open(&bench, state, RATE);
    bench_write(&bench, 0, MIB, 'x');
    spec.size_bytes = SIZE;
    second = fixture_create(bench.store, &spec);
    assert_int_equal(volume_image(second, &bench.image, NULL), E_OK);
    bench_write(&bench, 0, SIZE, 'x');
    rig_fail(SECOND, 0, BLOCK, EIO);
    assert_int_equal(store_scrub_request(bench.store, NULL), E_OK);
    while (rig_status(&bench).unreadable == 0)
        rig.now_ns += store_scrub_step(bench.store);
    descriptors = open_descriptors();
    store_scrub_step(bench.store);
    assert_int_equal(open_descriptors(), descriptors);
    volume_unref(second);
    assert_int_equal(store_volume_delete(bench.store, SECOND, NULL), E_OK);
    assert_int_equal(open_descriptors(), descriptors - 2); /* its image's: nobody keeps its space */
    assert_unreadable(&bench, "");
    rig_settle(&bench);
    assert_int_equal(rig_status(&bench).last.files_count, 1);
    bench_close(&bench);
}

static struct store *deleting;

static void delete_second(uint64_t offset)
{
    (void)offset;
    if (rig.read_bytes != BLOCK) /* the second read: by the first one alone it does not believe it */
        return;
    assert_int_equal(store_volume_delete(deleting, SECOND, NULL), E_OK);
    deleting = NULL;
}

/* What its last read says of it is of nothing any more. */
static void deleted_at_its_last_read(void **state)
{
    struct volume_record spec = fixture_spec(2);
    struct volume *second;
    struct bench bench;

    rig_open(&bench, state, GIB);
    second = fixture_create(bench.store, &spec);
    assert_int_equal(volume_image(second, &bench.image, NULL), E_OK);
    bench_write(&bench, 0, BLOCK, 'x');
    volume_unref(second);
    rig_fail(SECOND, 0, BLOCK, EIO);
    deleting = bench.store;
    rig.before = delete_second;
    rig_round(&bench);
    assert_null(deleting);
    assert_unreadable(&bench, "");
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(the_rate_is_kept),
        cmocka_unit_test(a_busy_disk_is_left_alone),
        cmocka_unit_test(rounds_have_their_time),
        cmocka_unit_test(it_is_told_until_it_can_be_read),
        cmocka_unit_test(what_is_written_anew_is_read_again),
        cmocka_unit_test(a_write_meanwhile),
        cmocka_unit_test(failures_that_say_nothing),
        cmocka_unit_test(a_round_goes_on),
        cmocka_unit_test(a_record_that_is_torn),
        cmocka_unit_test(deleted_while_it_is_read),
        cmocka_unit_test(deleted_at_its_last_read),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
