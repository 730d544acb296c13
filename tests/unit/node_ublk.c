/* Whose a ublk device is, by the note of it: not by a name, and not by a number that another has by now. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"
#include "node/ublk_note.h"
#include "tests/unit/common_dir.h"

#define VOLUME "store.0123456789abcdef"
#define NO_NUMBER makedev(4095, 1048575)

static struct {
    struct node_config config;
    struct attach_files paths;
} node;

static const struct ublk_device noted = {"/dev/ublkb3", 1, 9};

static int setup(void **state)
{
    if (test_dir_setup(state))
        return -1;
    node.config.state_dir = ((struct test_dir *)*state)->path;
    str_copy(node.config.boot_id, sizeof(node.config.boot_id), "first");
    return attach_files_init(&node.paths, &node.config, VOLUME, NULL) ||
           io_make_dirs(node.paths.dir, 0700, NULL);
}

static int teardown(void **state)
{
    attach_files_done(&node.paths);
    return test_dir_teardown(state);
}

static void a_note_is_of_its_boot(void **state)
{
    struct ublk_device device = {0};

    (void)state;
    assert_int_equal(ublk_note_load(&node.paths, &device, NULL), E_NOT_FOUND);
    assert_int_equal(ublk_note_save(&node.paths, &noted, NULL), 0);
    assert_int_equal(ublk_note_load(&node.paths, &device, NULL), 0);
    assert_memory_equal(&device, &noted, sizeof(noted));
    str_copy(node.config.boot_id, sizeof(node.config.boot_id), "second");
    assert_int_equal(ublk_note_load(&node.paths, &device, NULL), E_NOT_FOUND);
    assert_int_equal(ublk_note_save(&node.paths, &noted, NULL), 0);
    assert_int_equal(ublk_note_load(&node.paths, &device, NULL), 0);
}

static void a_newer_device_takes_the_note_over(void **state)
{
    struct ublk_device device = {0}, next = noted;

    (void)state;
    next.sequence++;
    assert_int_equal(ublk_note_save(&node.paths, &noted, NULL), 0);
    assert_int_equal(ublk_note_save(&node.paths, &next, NULL), 0);
    assert_int_equal(ublk_note_load(&node.paths, &device, NULL), 0);
    assert_memory_equal(&device, &next, sizeof(next));
}

/* Some block device that every kernel with loop devices has stands for one that is there. */
static dev_t device_there(uint64_t *ret_sequence)
{
    _cleanup_free_ char *text = NULL;
    const char *rest;

    if (io_read_file("/sys/dev/block/7:0/diskseq", 64, &text, NULL, NULL))
        return 0;
    assert_true(str_parse_uint64(text, ret_sequence, &rest));
    return makedev(7, 0);
}

static void a_number_alone_is_nobodys(void **state)
{
    struct ublk_device device = {.path = "/dev/ublkb3"};
    dev_t number = device_there(&device.sequence);

    (void)state;
    if (!number)
        skip();
    device.number = number;
    assert_true(ublk_device_owns(&device, number));
    assert_false(ublk_device_owns(&device, NO_NUMBER));
    device.sequence++;
    assert_false(ublk_device_owns(&device, number));
}

static void a_dead_device_keeps_its_number(void **state)
{
    const struct ublk_device device = {.path = "/dev/ublkb3", .number = NO_NUMBER, .sequence = 3};
    bool stands = true;

    (void)state;
    assert_true(ublk_device_owns(&device, NO_NUMBER));
    assert_int_equal(ublk_device_stands(&device, &stands, NULL), 0);
    assert_false(stands);
}

static void other_names_are_refused(void **state)
{
    struct ublk_device device;

    (void)state;
    assert_int_equal(ublk_device_look("/dev/loop0", &device, NULL), E_PRECONDITION);
    assert_int_equal(ublk_device_look("/dev/ublkb65535", &device, NULL), E_PRECONDITION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_note_is_of_its_boot, setup, teardown),
        cmocka_unit_test_setup_teardown(a_newer_device_takes_the_note_over, setup, teardown),
        cmocka_unit_test(a_number_alone_is_nobodys),
        cmocka_unit_test(a_dead_device_keeps_its_number),
        cmocka_unit_test(other_names_are_refused),
    };

    return cmocka_run_group_tests_name("node_ublk", tests, NULL, NULL);
}
