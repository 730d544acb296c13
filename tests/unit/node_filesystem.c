/* What is on a device, told by libblkid on real loop devices; making and checking file systems. Needs root.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "node/filesystem.h"
#include "node/mount.h"
#include "node/process.h"
#include "tests/unit/common_dir.h"

#define IMAGE_BYTES (320 * MIB)

static char device[64];

static void run(const char *const *argv, char **ret_output)
{
    _cleanup_error_ struct error err = {0};
    int status;

    if (process_run(argv, NULL, &status, ret_output, &err) || status)
        fail_msg("%s: status %d %s", argv[0], status, error_text(&err));
}

static int setup(void **state)
{
    if (geteuid() != 0)
        return 0;
    if (test_dir_setup(state))
        return -1;
    const struct test_dir *dir = *state;
    _cleanup_free_ char *image = str_format("%s/image", dir->path);
    _cleanup_free_ char *output = NULL;
    const char *argv[] = {"losetup", "--find", "--show", image, NULL};
    _cleanup_fd_ int fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_int_equal(ftruncate(fd, (off_t)IMAGE_BYTES), 0);
    run(argv, &output);
    assert_true(str_copy(device, sizeof(device), output));
    return 0;
}

static int teardown(void **state)
{
    const char *argv[] = {"losetup", "--detach", device, NULL};

    if (geteuid() != 0)
        return 0;
    run(argv, NULL);
    return test_dir_teardown(state);
}

static void need_root(void)
{
    if (geteuid() != 0)
        skip();
}

static void assert_found(const char *expected)
{
    _cleanup_error_ struct error err = {0};
    _cleanup_free_ char *found = NULL;

    if (filesystem_probe(device, &found, &err))
        fail_msg("%s", error_text(&err));
    if (expected)
        assert_string_equal(found, expected);
    else
        assert_null(found);
}

static void blank_is_blank_and_mkfs_is_found(void **state)
{
    static const char *const types[] = {"ext4", "xfs"};
    const char *wipe[] = {"wipefs", "--all", device, NULL};
    _cleanup_error_ struct error err = {0};

    (void)state;
    need_root();
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        assert_found(NULL);
        if (filesystem_make(device, types[i], "", NULL, &err))
            fail_msg("%s", error_text(&err));
        assert_found(types[i]);
        assert_int_equal(filesystem_check(device, types[i], &err), 0);
        run(wipe, NULL);
    }
}

/* One Linux partition of 1 MiB at 1 MiB, as fdisk writes it. */
static void write_partition_table(void)
{
    uint8_t sector[512] = {[450] = 0x83, [455] = 0x08, [459] = 0x08, [510] = 0x55, [511] = 0xaa};
    _cleanup_fd_ int fd = open(device, O_WRONLY | O_CLOEXEC);

    assert_int_equal(pwrite(fd, sector, sizeof(sector), 0), sizeof(sector));
    assert_int_equal(fsync(fd), 0);
}

static void other_signatures_are_found(void **state)
{
    const char *swap[] = {"mkswap", device, NULL};

    (void)state;
    need_root();
    run(swap, NULL);
    assert_found("swap");
    run((const char *[]){"wipefs", "--all", device, NULL}, NULL);
    write_partition_table();
    assert_found("dos");
}

static void bad_mkfs_options_are_told(void **state)
{
    _cleanup_error_ struct error err = {0};

    (void)state;
    need_root();
    assert_int_equal(filesystem_make(device, "ext4", "--no-such-option", NULL, &err), E_INVALID_ARGUMENT);
    assert_non_null(strstr(error_text(&err), "mkfs.ext4"));
}

/* A device that cannot be read is not blank. */
static void a_read_error_is_not_blank(void **state)
{
    _cleanup_error_ struct error err = {0};
    const struct test_dir *dir = *state;
    char *found = (char *)"untouched";

    need_root();
    _cleanup_free_ char *image = str_format("%s/image", dir->path);
    assert_int_equal(truncate(image, (off_t)(IMAGE_BYTES / 2)),
                     0); /* the loop device's second half is gone */
    assert_int_equal(filesystem_probe(device, &found, &err), -EIO);
    assert_string_equal(found, "untouched");
}

static void mounts_are_found_and_removed(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_mount_info_ struct mount_info info = {0};
    _cleanup_error_ struct error err = {0};

    need_root();
    _cleanup_free_ char *at = str_format("%s/at", dir->path);
    _cleanup_free_ char *bound = str_format("%s/bound", dir->path);
    mkdir(at, 0700);
    mkdir(bound, 0700);
    assert_int_equal(filesystem_make(device, "ext4", "", NULL, NULL), 0);
    assert_int_equal(mount_find(at, &info, NULL), E_NOT_FOUND);
    if (mount_device(device, at, "ext4", "noatime", false, &err))
        fail_msg("%s", error_text(&err));
    assert_int_equal(mount_find(at, &info, NULL), 0);
    assert_string_equal(info.source, device);
    assert_string_equal(info.fs_type, "ext4");
    assert_false(info.readonly);
    assert_int_equal(mount_bind(at, bound, true, NULL), 0);
    mount_info_done(&info);
    assert_int_equal(mount_find(bound, &info, NULL), 0);
    assert_true(info.readonly);
    _cleanup_free_ char *file = str_format("%s/f", bound);
    assert_int_equal(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600), -1);
    assert_int_equal(mount_remove(bound, NULL, NULL), 0);
    _cleanup_free_ char *open_file = str_format("%s/f", at);
    int fd = open(open_file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_int_equal(mount_remove(at, NULL, &err), E_PRECONDITION);
    close(fd);
    assert_int_equal(mount_remove(at, NULL, NULL), 0);
    assert_int_equal(mount_remove(at, NULL, NULL), 0);
    assert_int_equal(mount_device(device, at, "ext4", "no_such_option", false, &err), E_INVALID_ARGUMENT);
    rmdir(at);
    rmdir(bound);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(blank_is_blank_and_mkfs_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(other_signatures_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_mkfs_options_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(a_read_error_is_not_blank, setup, teardown),
        cmocka_unit_test_setup_teardown(mounts_are_found_and_removed, setup, teardown),
    };
    return cmocka_run_group_tests_name("node_filesystem", tests, NULL, NULL);
}
