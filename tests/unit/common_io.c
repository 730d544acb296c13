/* Tests of common/io: above all that replacing a file is all or nothing, whichever step fails. */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"
#include "tests/unit/common_dir.h"

/* Stands in for libc's: counts, and fails the call whose turn it is. What was synced is kept for the order.
 */
static int sync_calls, sync_fail_at;
static mode_t sync_types[4];

int fsync(int fd)
{
    struct stat status;

    if (sync_calls < (int)ARRAY_SIZE(sync_types) && fstat(fd, &status) == 0)
        sync_types[sync_calls] = status.st_mode & S_IFMT;
    if (++sync_calls == sync_fail_at) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

static void assert_content(const struct test_dir *dir, const char *name, const char *expected)
{
    _cleanup_free_ char *text = NULL;
    size_t length = 0;

    assert_int_equal(io_read_file_at(dir->fd, name, 1 << 20, &text, &length, NULL), E_OK);
    assert_string_equal(text, expected);
    assert_int_equal(length, strlen(expected));
}

static void full_transfers(void **state)
{
    char buffer[8] = "";
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(io_write_full(ends[1], "abcdef", 6), 0);
    assert_int_equal(io_read_full(ends[0], buffer, 4), 0);
    assert_string_equal(buffer, "abcd");
    close(ends[1]);
    assert_int_equal(io_read_full(ends[0], buffer, 4), -EIO);
    assert_int_equal(io_read_full(ends[0], buffer, 0), 0);
    close(ends[0]);
    assert_int_equal(io_read_full(-1, buffer, 1), -EBADF);
    assert_int_equal(io_write_full(-1, buffer, 1), -EBADF);
}

static void read_has_a_limit(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};
    char large[10001], *text = NULL;

    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    test_dir_write(dir, "file", large);
    assert_content(dir, "file", large);
    assert_int_equal(io_read_file_at(dir->fd, "file", 9999, &text, NULL, &err), E_OUT_OF_RANGE);
    assert_non_null(strstr(err.text, dir->path));
    assert_null(text);
    assert_int_equal(io_read_file_at(dir->fd, "file", 10000, &text, NULL, &err), E_OK);
    free(text);
}

static void read_of_the_absent(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};
    char *text = NULL;

    assert_int_equal(io_read_file_at(dir->fd, "absent", 10, &text, NULL, &err), E_NOT_FOUND);
    assert_non_null(strstr(err.text, "absent"));
    assert_int_equal(io_read_file(dir->path, 10, &text, NULL, &err), -EISDIR);
    assert_int_equal(io_read_file("/dev/null/x", 10, &text, NULL, &err), -ENOTDIR);
}

static void replace_sets_content_and_mode(void **state)
{
    const struct test_dir *dir = *state;
    mode_t mask = umask(0077);
    struct stat status;

    assert_int_equal(io_replace_file(dir->fd, "file", "one", 3, 0644, NULL), E_OK);
    umask(mask);
    assert_int_equal(fstatat(dir->fd, "file", &status, 0), 0);
    assert_int_equal(status.st_mode & 07777, 0644);
    assert_int_equal(io_replace_file(dir->fd, "file", "two", 3, 0600, NULL), E_OK);
    assert_content(dir, "file", "two");
    assert_int_equal(fstatat(dir->fd, "file", &status, 0), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    assert_int_equal(test_dir_count(dir), 1);
}

/* A leftover of a writer that died is neither trusted nor written into. */
static void leftover_temporary_is_replaced(void **state)
{
    const struct test_dir *dir = *state;
    struct stat status;

    test_dir_write(dir, "victim", "mine");
    assert_int_equal(symlinkat("victim", dir->fd, ".file.tmp"), 0);
    assert_int_equal(io_replace_file(dir->fd, "file", "new", 3, 0600, NULL), E_OK);
    assert_content(dir, "victim", "mine");
    assert_content(dir, "file", "new");
    test_dir_write(dir, ".file.tmp", "half-made, and longer than what comes");
    assert_int_equal(io_replace_file(dir->fd, "file", "newer", 5, 0640, NULL), E_OK);
    assert_content(dir, "file", "newer");
    assert_int_equal(fstatat(dir->fd, "file", &status, AT_SYMLINK_NOFOLLOW), 0);
    assert_int_equal(status.st_mode & 07777, 0640);
    assert_int_equal(test_dir_count(dir), 2);
}

static void name_too_long(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};
    char name[NAME_MAX + 1];

    memset(name, 'n', sizeof(name));
    name[NAME_MAX - 4] = '\0'; /* a name that is allowed, whose temporary name is not */
    assert_int_equal(io_replace_file(dir->fd, name, "x", 1, 0600, &err), -ENAMETOOLONG);
    assert_int_equal(test_dir_count(dir), 0);
}

static void temporary_cannot_be_removed(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};

    test_dir_write(dir, "file", "old");
    assert_int_equal(mkdirat(dir->fd, ".file.tmp", 0700), 0);
    assert_int_equal(io_replace_file(dir->fd, "file", "new", 3, 0600, &err), -EISDIR);
    assert_content(dir, "file", "old");
}

static void directory_is_gone(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};
    _cleanup_fd_ int fd = -1;

    assert_int_equal(mkdirat(dir->fd, "gone", 0700), 0);
    fd = openat(dir->fd, "gone", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(unlinkat(dir->fd, "gone", AT_REMOVEDIR), 0);
    assert_int_equal(io_replace_file(fd, "file", "new", 3, 0600, &err), -ENOENT);
    assert_non_null(strstr(err.text, "file"));
}

static void write_falls_short(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};
    struct rlimit before, small;

    test_dir_write(dir, "file", "old");
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 4;
    setrlimit(RLIMIT_FSIZE, &small);
    assert_int_equal(io_replace_file(dir->fd, "file", "much longer", 11, 0600, &err), -EFBIG);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    assert_content(dir, "file", "old");
    assert_int_equal(test_dir_count(dir), 1);
}

static void rename_fails(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};

    assert_int_equal(mkdirat(dir->fd, "file", 0700), 0);
    assert_int_equal(io_replace_file(dir->fd, "file", "new", 3, 0600, &err), -EISDIR);
    assert_int_equal(test_dir_count(dir), 1);
}

/* Content first, then its name: only that order survives power loss. */
static void file_and_directory_are_synced(void **state)
{
    const struct test_dir *dir = *state;

    sync_calls = 0;
    assert_int_equal(io_replace_file(dir->fd, "file", "new", 3, 0600, NULL), E_OK);
    assert_int_equal(sync_calls, 2);
    assert_int_equal(sync_types[0], S_IFREG);
    assert_int_equal(sync_types[1], S_IFDIR);
    sync_calls = 0;
    assert_int_equal(io_remove_file(dir->fd, "file", NULL), E_OK);
    assert_int_equal(io_remove_file(dir->fd, "file", NULL), E_OK);
    assert_int_equal(sync_calls, 2);
}

static void file_cannot_be_synced(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};

    test_dir_write(dir, "file", "old");
    sync_calls = 0;
    sync_fail_at = 1;
    assert_int_equal(io_replace_file(dir->fd, "file", "new", 3, 0600, &err), -EIO);
    sync_fail_at = 0;
    assert_content(dir, "file", "old");
    assert_int_equal(test_dir_count(dir), 1);
}

/* The new content is there, but not known to be durable: that is not success. */
static void directory_cannot_be_synced(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_fd_ int path_only = open(dir->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    _cleanup_error_ struct error err = {0};

    assert_int_equal(io_replace_file(path_only, "file", "new", 3, 0600, &err), -EBADF);
    assert_content(dir, "file", "new");
    assert_int_equal(io_remove_file(path_only, "file", &err), -EBADF);
}

static void file_system_is_full(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};
    _cleanup_free_ char *large = NULL;
    _cleanup_fd_ int fd = -1;

    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        skip(); /* not root: there is no small file system to be had */
    assert_int_equal(mount("none", dir->path, "tmpfs", 0, "size=64k"), 0);
    large = calloc(1, 1 << 20);
    fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(io_replace_file(fd, "file", "old", 3, 0600, NULL), E_OK);
    assert_int_equal(io_replace_file(fd, "file", large, 1 << 20, 0600, &err), E_NO_SPACE);
    assert_non_null(strstr(err.text, "full"));
    assert_int_equal(faccessat(fd, ".file.tmp", F_OK, 0), -1);
    assert_int_equal(faccessat(fd, "file", F_OK, 0), 0);
    fd = fd_close(fd);
    assert_int_equal(umount(dir->path), 0);
}

static void remove_is_idempotent(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};

    test_dir_write(dir, "file", "x");
    assert_int_equal(io_remove_file(dir->fd, "file", &err), E_OK);
    assert_int_equal(test_dir_count(dir), 0);
    assert_int_equal(io_remove_file(dir->fd, "file", &err), E_OK);
    assert_int_equal(mkdirat(dir->fd, "dir", 0700), 0);
    assert_int_equal(io_remove_file(dir->fd, "dir", &err), -EISDIR);
}

static void directories_are_made(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_error_ struct error err = {0};
    _cleanup_free_ char *deep = str_format("%s/a/b//c/", dir->path);
    _cleanup_free_ char *blocked = str_format("%s/file/x", dir->path);

    assert_int_equal(io_make_dirs(deep, 0700, &err), E_OK);
    assert_int_equal(io_make_dirs(deep, 0700, &err), E_OK);
    assert_int_equal(faccessat(dir->fd, "a/b/c", F_OK, 0), 0);
    assert_int_equal(io_sync_dir(deep, &err), E_OK);
    test_dir_write(dir, "file", "x");
    assert_int_equal(io_make_dirs(blocked, 0700, &err), -ENOTDIR);
    assert_non_null(strstr(err.text, "/file"));
    assert_int_equal(io_sync_dir(blocked, &err), -ENOTDIR);
    assert_true(io_make_dirs("", 0700, &err) < 0);
}

static void random_bytes_differ(void **state)
{
    unsigned char one[64] = {0}, two[64] = {0};

    (void)state;
    assert_int_equal(io_random(one, sizeof(one)), 0);
    assert_int_equal(io_random(two, sizeof(two)), 0);
    assert_memory_not_equal(one, two, sizeof(one));
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, test_dir_setup, test_dir_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_transfers),
        IN_DIR(read_has_a_limit),
        IN_DIR(read_of_the_absent),
        IN_DIR(replace_sets_content_and_mode),
        IN_DIR(leftover_temporary_is_replaced),
        IN_DIR(name_too_long),
        IN_DIR(temporary_cannot_be_removed),
        IN_DIR(directory_is_gone),
        IN_DIR(write_falls_short),
        IN_DIR(rename_fails),
        IN_DIR(file_and_directory_are_synced),
        IN_DIR(file_cannot_be_synced),
        IN_DIR(directory_cannot_be_synced),
        IN_DIR(remove_is_idempotent),
        IN_DIR(directories_are_made),
        cmocka_unit_test(random_bytes_differ),
        IN_DIR(file_system_is_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
