/* Tests of making a pool's file system: what holds data, is in use or is too small is left alone. As root. */
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_make.h"
#include "tests/unit/store_fixture.h"

#define SIZE (UINT64_C(320) << 20)

static void assert_words(int r, int code, const struct error *err, const char *word)
{
    if (r != code || !strstr(error_text(err), word))
        fail_msg("expected %s with \"%s\": %s, %s", error_name(code), word, error_name(r), error_text(err));
}

static void image_refusals(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    _cleanup_free_ char *dir = str_format("%s/other", fixture->dir), *image = str_format("%s.img", dir);
    _cleanup_error_ struct error err = {0};

    assert_words(pool_make_image(image, POOL_MAKE_IMAGE_MIN_BYTES - 1, dir, &err), E_OUT_OF_RANGE, &err,
                 "small");
    assert_words(pool_make_image(fixture->image, SIZE, dir, &err), E_EXISTS, &err, fixture->image);
    assert_words(pool_make_image(image, SIZE, fixture->pool, &err), E_EXISTS, &err, "not empty");
    assert_int_equal(access(image, F_OK), -1);
    /* No file system comes to be: nothing is left. */
    assert_int_equal(setenv("PATH", "/nonexistent", 1), 0);
    assert_true(pool_make_image(image, SIZE, dir, &err) < 0);
    assert_int_equal(access(image, F_OK), -1);
    assert_int_equal(setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1), 0);
    assert_int_equal(rmdir(dir), 0);
}

/* A loop device on a new sparse file; the caller gives it back. */
static int loop_on(const char *image, char ret_device[32])
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd = -1, number;
    int file = open(image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    struct loop_config config = {.fd = (unsigned)file};

    assert_true(control >= 0 && file >= 0);
    assert_int_equal(ftruncate(file, (off_t)SIZE), 0);
    for (int i = 0; i < 8; i++) {
        number = ioctl(control, LOOP_CTL_GET_FREE);
        snprintf(ret_device, 32, "/dev/loop%d", number);
        fd = open(ret_device, O_RDWR | O_CLOEXEC);
        if (ioctl(fd, LOOP_CONFIGURE, &config) == 0)
            break;
        fd = fd_close(fd);
    }
    assert_true(fd >= 0);
    close(control);
    close(file);
    return fd;
}

/* An empty device, the same mounted, and the same with a file system on it. Asserted after it is given back.
 */
static void device_refusals(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    _cleanup_free_ char *dir = str_format("%s/other", fixture->dir), *image = str_format("%s.img", dir);
    struct error in_use = {0}, data = {0}, file = {0}, made = {0};
    int r_in_use, r_data, r_file, r_made, fd;
    char device[32];

    r_file = pool_make_device(fixture->image, dir, &file);
    fd = loop_on(image, device);
    r_made = pool_make_device(device, dir, &made);
    r_in_use = pool_make_device(device, dir, &in_use);
    umount2(dir, MNT_DETACH);
    r_data = pool_make_device(device, dir, &data);
    umount2(dir, MNT_DETACH);
    ioctl(fd, LOOP_CLR_FD);
    close(fd);
    unlink(image);
    rmdir(dir);
    assert_words(r_file, E_INVALID_ARGUMENT, &file, "not a block device");
    if (r_made != E_OK)
        fail_msg("an empty device: %s", error_text(&made));
    assert_words(r_in_use, E_BUSY, &in_use, "in use");
    assert_words(r_data, E_EXISTS, &data, "xfs");
    error_done(&in_use);
    error_done(&data);
    error_done(&file);
    error_done(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_refusals),
        cmocka_unit_test(device_refusals),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
