/* Detaching a real loop device from under its users. Needs root. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "datapath/device/loop_device.h"
#include "tests/unit/common_dir.h"

#define FILE_BYTES (1 << 20)
#define ROUNDS 100

static char file[128], device[LOOP_DEVICE_PATH_MAX];

/* Again and again, as the end of a device does while somebody has the device open. */
static void *clear_until_gone(void *unused)
{
    int r;

    (void)unused;
    do
        r = loop_device_clear(device, file, NULL);
    while (r == E_BUSY);
    return (void *)(intptr_t)r;
}

/* A user who writes through the page cache, and closes without a flush. */
static void what_its_last_user_wrote_is_kept(void **state)
{
    static char text[64 * 1024], found[sizeof(text)];
    const struct test_dir *dir = *state;

    snprintf(file, sizeof(file), "%s/volume", dir->path);
    for (int round = 0; round < ROUNDS; round++) {
        _cleanup_fd_ int backing = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        pthread_t thread;
        void *result;

        assert_int_equal(ftruncate(backing, FILE_BYTES), 0);
        assert_int_equal(loop_device_create(file, 4096, false, device, NULL), 0);
        int user = open(device, O_RDWR | O_CLOEXEC);
        memset(text, round, sizeof(text));
        assert_int_equal(pwrite(user, text, sizeof(text), 0), sizeof(text));
        assert_int_equal(loop_device_clear(device, file, NULL), E_BUSY);
        assert_int_equal(pthread_create(&thread, NULL, clear_until_gone, NULL), 0);
        usleep(100 + (unsigned)(round % 50) * 7);
        close(user);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_null(result);
        assert_int_equal(pread(backing, found, sizeof(found), 0), sizeof(found));
        assert_memory_equal(found, text, sizeof(text));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_its_last_user_wrote_is_kept, test_dir_setup, test_dir_teardown),
    };

    return cmocka_run_group_tests_name("device_loop", tests, NULL, NULL);
}
