/* The command lines that make file systems, and the sizes that superblocks tell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "node/filesystem.h"
#include "node/mkfs_command.h"

static void assert_command(const char *fs_type, const char *options, bool new_xfs, const char *expected)
{
    _cleanup_mkfs_command_ struct mkfs_command command = {0};
    char line[1024] = "";

    assert_int_equal(mkfs_command_init(&command, "/dev/x", fs_type, options, new_xfs, NULL), 0);
    for (size_t i = 0; command.argv[i]; i++) {
        size_t length = strlen(line);
        snprintf(line + length, sizeof(line) - length, "%s%s", i ? " " : "", command.argv[i]);
    }
    assert_string_equal(line, expected);
}

#define EXT4                                                                                                 \
    "mkfs.ext4 -q -O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,"        \
    "sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

static void ext4_features_are_merged(void **state)
{
    (void)state;
    assert_command("ext4", "", false, EXT4 " -E nodiscard /dev/x");
    assert_command("ext4", "-m 0  -O bigalloc,^64bit -C 16384 -Ostable_inodes -E stride=4", false,
                   EXT4 ",bigalloc,^64bit,stable_inodes -E nodiscard,stride=4 -m 0 -C 16384 /dev/x");
}

static void xfs_features_are_said_once(void **state)
{
    (void)state;
    assert_command("xfs", "", false,
                   "mkfs.xfs -q -K -m crc=1,finobt=1,reflink=1,rmapbt=0,bigtime=1,inobtcount=1 -i "
                   "sparse=1,nrext64=0 /dev/x");
    assert_command("xfs", "-m reflink=0,rmapbt=1 -i maxpct=5 -L l", false,
                   "mkfs.xfs -q -K -m crc=1,finobt=1,bigtime=1,inobtcount=1 -i sparse=1,nrext64=0 -m "
                   "reflink=0,rmapbt=1 -i maxpct=5 -L l /dev/x");
    assert_command("xfs", "", true,
                   "mkfs.xfs -q -K -m crc=1,finobt=1,reflink=1,rmapbt=0,bigtime=1,inobtcount=1 -i "
                   "sparse=1,nrext64=0,exchange=0 -n parent=0 /dev/x");
    assert_command("xfs", "-mcrc=0", false, "mkfs.xfs -q -K -mcrc=0 /dev/x");
    assert_command(
        "xfs", "-f -n ftype=1 -m reflink=0", false,
        "mkfs.xfs -q -K -m crc=1,finobt=1,rmapbt=0,bigtime=1,inobtcount=1 -i sparse=1,nrext64=0 -f "
        "-n ftype=1 -m reflink=0 /dev/x");
}

static void assert_refused(const char *fs_type, const char *options)
{
    _cleanup_mkfs_command_ struct mkfs_command command = {0};
    _cleanup_error_ struct error err = {0};

    if (mkfs_command_init(&command, "/dev/x", fs_type, options, false, &err) != E_INVALID_ARGUMENT)
        fail_msg("mkfs.%s takes \"%s\"", fs_type, options);
    assert_non_null(strstr(error_text(&err), fs_type));
}

/* What would read a file of the node, make nothing, or make something else. */
static void other_options_are_refused(void **state)
{
    static const char *const ext4[] = {"-d etc",  "-qd etc", "-detc",  "-l list", "-n",
                                       "-z undo", "-t ext3", "-V",     "-S",      "-c",
                                       "vmlinuz", "-",       "--help", "-b",      "-J size=8,device=UUID=1-2",
                                       "-O x -n"};
    static const char *const xfs[] = {
        "-c options=x.conf", "-p protofile", "-N", "-r rtdev=sda", "-d name=disk",      "-d agcount=4,file",
        "-l logdev=sdb",     "sda",          "-V", "-fN",          "-f -m reflink=0 -N"};

    (void)state;
    for (size_t i = 0; i < sizeof(ext4) / sizeof(ext4[0]); i++)
        assert_refused("ext4", ext4[i]);
    for (size_t i = 0; i < sizeof(xfs) / sizeof(xfs[0]); i++)
        assert_refused("xfs", xfs[i]);
    assert_command("ext4", "-J size=4 -L -n -E lazy_itable_init=0 -T largefile", false,
                   EXT4 " -E nodiscard,lazy_itable_init=0 -J size=4 -L -n -T largefile /dev/x");
    assert_command("xfs", "-L name -d agcount=4", false,
                   "mkfs.xfs -q -K -m crc=1,finobt=1,reflink=1,rmapbt=0,bigtime=1,inobtcount=1 -i "
                   "sparse=1,nrext64=0 -L name -d agcount=4 /dev/x");
}

static void too_many_words_are_refused(void **state)
{
    _cleanup_mkfs_command_ struct mkfs_command command = {0};
    char options[4096] = "";

    (void)state;
    for (int i = 0; i < 64; i++)
        strcat(options, " -f");
    assert_int_equal(mkfs_command_init(&command, "/dev/x", "xfs", options, false, NULL), E_INVALID_ARGUMENT);
    mkfs_command_done(&command);
    memset(options, 'a', 600);
    memcpy(options, "-O", 2);
    options[600] = '\0';
    assert_int_equal(mkfs_command_init(&command, "/dev/x", "ext4", options, false, NULL), E_INVALID_ARGUMENT);
}

static void versions_are_told_apart(void **state)
{
    (void)state;
    assert_false(mkfs_command_is_new_xfs("mkfs.xfs version 6.1.0"));
    assert_false(mkfs_command_is_new_xfs("mkfs.xfs version 6.9.0"));
    assert_false(mkfs_command_is_new_xfs("mkfs.xfs version"));
    assert_true(mkfs_command_is_new_xfs("mkfs.xfs version 6.10.1"));
    assert_true(mkfs_command_is_new_xfs("mkfs.xfs version 7.0"));
}

static void sizes_are_read(void **state)
{
    uint8_t head[4096] = {[1024 + 0x38] = 0x53, [1024 + 0x39] = 0xef};

    (void)state;
    head[1024 + 0x05] = 0x40; /* 16384 blocks */
    head[1024 + 0x18] = 2;    /* of 4 KiB */
    head[1024 + 0x150] = 1;   /* and 2^32, if it is a 64-bit one */
    assert_true(filesystem_parse_size("ext4", head) == 16384 * UINT64_C(4096));
    head[1024 + 0x60] = 0x80;
    assert_true(filesystem_parse_size("ext4", head) == ((UINT64_C(1) << 32) + 16384) * 4096);
    head[1024 + 0x18] = 7;
    assert_true(filesystem_parse_size("ext4", head) == 0);
    assert_true(filesystem_parse_size("xfs", head) == 0);
    memcpy(head, "XFSB\0\0\x10\0\0\0\0\0\0\1\0\0", 16);
    assert_true(filesystem_parse_size("xfs", head) == UINT64_C(65536) * 4096);
    head[8] = 0xff;
    assert_true(filesystem_parse_size("xfs", head) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ext4_features_are_merged),  cmocka_unit_test(xfs_features_are_said_once),
        cmocka_unit_test(other_options_are_refused), cmocka_unit_test(too_many_words_are_refused),
        cmocka_unit_test(versions_are_told_apart),   cmocka_unit_test(sizes_are_read),
    };
    return cmocka_run_group_tests_name("node_mkfs", tests, NULL, NULL);
}
