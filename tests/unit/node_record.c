/* stage.json: written, read back, damaged, removed with its folder. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"
#include "node/stage_record.h"
#include "tests/unit/common_dir.h"

#define VOLUME "store.0123456789abcdef"

static struct stage_record example(void)
{
    struct stage_record record = {
        .volume_id = VOLUME,
        .boot_id = "00112233445566778899aabbccddeeff",
        .epoch = 7,
        .readonly = true,
        .complete = true,
        .staging_path = strdup("/staging"),
        .fs_type = strdup("xfs"),
        .mount_options = strdup("noatime"),
    };

    assert_int_equal(stage_record_add_publish(&record, "/pods/one", false), 0);
    assert_int_equal(stage_record_add_publish(&record, "/pods/two", true), 0);
    return record;
}

static void a_record_is_read_back(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_stage_record_ struct stage_record record = example();
    _cleanup_stage_record_ struct stage_record again = {0};

    assert_int_equal(stage_record_load(dir->path, VOLUME, &again, NULL), E_NOT_FOUND);
    assert_int_equal(stage_record_save(dir->path, &record, NULL), 0);
    assert_int_equal(stage_record_load(dir->path, VOLUME, &again, NULL), 0);
    assert_string_equal(again.volume_id, VOLUME);
    assert_string_equal(again.boot_id, record.boot_id);
    assert_int_equal(again.epoch, 7);
    assert_true(again.readonly);
    assert_true(again.complete);
    assert_false(again.block);
    assert_string_equal(again.staging_path, "/staging");
    assert_string_equal(again.fs_type, "xfs");
    assert_string_equal(again.mount_options, "noatime");
    assert_int_equal(again.publishes_count, 2);
    assert_string_equal(again.publishes[1].target_path, "/pods/two");
    assert_true(again.publishes[1].readonly);
}

static void publishes_come_and_go(void **state)
{
    _cleanup_stage_record_ struct stage_record record = example();

    (void)state;
    stage_record_remove_publish(&record, "/pods/one");
    stage_record_remove_publish(&record, "/pods/none");
    assert_int_equal(record.publishes_count, 1);
    assert_string_equal(record.publishes[0].target_path, "/pods/two");
    for (size_t i = 1; i < STAGE_PUBLISHES_MAX; i++)
        assert_int_equal(stage_record_add_publish(&record, "/pods/more", false), 0);
    assert_int_equal(stage_record_add_publish(&record, "/pods/more", false), E_EXHAUSTED);
}

static void write_record(const struct test_dir *dir, const char *text)
{
    _cleanup_free_ char *path = stage_record_path(dir->path, VOLUME, "stage.json");
    _cleanup_fd_ int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void a_damaged_record_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "{\"format\": 2}",
        "{\"format\": 1}",
        "{\"format\": 1, \"volume_id\": 3}",
        "{\"format\": 1, \"volume_id\": \"../../etc\", \"boot_id\": \"\", \"epoch\": 1, \"block\": false, "
        "\"readonly\": "
        "false, \"single\": false, \"complete\": true, \"staging_path\": \"/s\", \"fs_type\": \"\", "
        "\"mount_options\": "
        "\"\", \"publishes\": []}",
    };
    const struct test_dir *dir = *state;
    _cleanup_stage_record_ struct stage_record record = example();

    assert_int_equal(stage_record_save(dir->path, &record, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_stage_record_ struct stage_record again = {0};
        _cleanup_error_ struct error err = {0};
        write_record(dir, bad[i]);
        assert_int_equal(stage_record_load(dir->path, VOLUME, &again, &err), E_CORRUPT);
        assert_non_null(err.text);
    }
}

static void count_volume(const char *volume_id, void *context)
{
    assert_string_equal(volume_id, VOLUME);
    ++*(unsigned *)context;
}

static void a_removed_volume_leaves_nothing(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_stage_record_ struct stage_record record = example();
    _cleanup_free_ char *folder = stage_record_path(dir->path, VOLUME, NULL);
    _cleanup_free_ char *device = stage_record_path(dir->path, VOLUME, "device/fuse");
    _cleanup_free_ char *log = stage_record_path(dir->path, VOLUME, "log");
    unsigned count = 0;

    assert_int_equal(stage_record_save(dir->path, &record, NULL), 0);
    assert_int_equal(io_make_dirs(device, 0700, NULL), 0);
    _cleanup_fd_ int fd = open(log, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(stage_record_each(dir->path, count_volume, &count, NULL), 0);
    assert_int_equal(count, 1);
    assert_int_equal(stage_record_remove(dir->path, VOLUME, NULL), 0);
    assert_int_not_equal(access(folder, F_OK), 0);
    assert_int_equal(stage_record_remove(dir->path, VOLUME, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_record_is_read_back, test_dir_setup, test_dir_teardown),
        cmocka_unit_test(publishes_come_and_go),
        cmocka_unit_test_setup_teardown(a_damaged_record_is_refused, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(a_removed_volume_leaves_nothing, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests_name("node_record", tests, NULL, NULL);
}
