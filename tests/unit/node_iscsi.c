/* attach=iscsi without a kernel that has it: which session and disk are taken, from a folder that looks like
 * sysfs, and what open-iscsi's record becomes. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/iscsi_attach.h"
#include "node/iscsi_note.h"
#include "node/iscsi_record.h"
#include "node/iscsi_sysfs.h"
#include "tests/unit/common_dir.h"

#define VOLUME "store.0123456789abcdef"
#define OTHER "store.fedcba9876543210"
#define IQN ID_IQN_PREFIX VOLUME
#define CHAP_NAME VOLUME "/4/2"
#define SECRET "00112233445566778899aabbccddeeff"

static void put(const struct test_dir *dir, const char *path, const void *data, size_t length)
{
    _cleanup_free_ char *folder = str_format("%s/%s", dir->path, path);

    *strrchr(folder, '/') = '\0';
    assert_int_equal(io_make_dirs(folder, 0700, NULL), 0);
    _cleanup_fd_ int fd = openat(dir->fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, data, length), length);
}

static void put_text(const struct test_dir *dir, const char *path, const char *text)
{
    put(dir, path, text, strlen(text));
}

/* ---- sysfs ---- */

static void put_session(const struct test_dir *dir, unsigned sid, const char *chap_name, const char *state)
{
    const char *const values[][2] = {{"targetname", IQN "\n"},
                                     {"initiatorname", ID_IQN_PREFIX "node:n1\n"},
                                     {"username", chap_name},
                                     {"state", state}};
    char path[256], link[256];

    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        snprintf(path, sizeof(path), "class/iscsi_session/session%u/%s", sid, values[i][0]);
        put_text(dir, path, values[i][1]);
    }
    snprintf(path, sizeof(path), "devices/platform/host%u/session%u/uevent", sid + 2, sid);
    put_text(dir, path, "");
    snprintf(link, sizeof(link), "../../../devices/platform/host%u/session%u", sid + 2, sid);
    snprintf(path, sizeof(path), "class/iscsi_session/session%u/device", sid);
    assert_int_equal(symlinkat(link, dir->fd, path), 0);
}

static size_t put_designator(unsigned char *page, size_t at, unsigned char set, unsigned char type,
                             const char *body)
{
    page[at] = set;
    page[at + 1] = type;
    page[at + 3] = (unsigned char)strlen(body);
    memcpy(&page[at + 4], body, strlen(body));
    return at + 4 + strlen(body);
}

/* The LUN's disk "sdb" in session 3, with what its pages say. */
static void put_disk(const struct test_dir *dir, unsigned lun, const char *serial, const char *identification)
{
    unsigned char page[256] = {0, 0x83};
    char path[256], unit[128];
    size_t length = put_designator(page, 4, 0x53, 0x98, "iqn.of.a.port");

    snprintf(unit, sizeof(unit), "devices/platform/host5/session3/target5:0:0/5:0:0:%u", lun);
    length = put_designator(page, length, 0x02, 0x01, identification);
    page[3] = (unsigned char)(length - 4);
    snprintf(path, sizeof(path), "%s/vpd_pg83", unit);
    put(dir, path, page, length);
    memset(page, 0, sizeof(page));
    page[1] = 0x80;
    page[3] = (unsigned char)strlen(serial);
    memcpy(&page[4], serial, strlen(serial));
    snprintf(path, sizeof(path), "%s/vpd_pg80", unit);
    put(dir, path, page, 4 + strlen(serial));
    snprintf(path, sizeof(path), "%s/block/sdb/uevent", unit);
    put_text(dir, path, "");
    put_text(dir, "block/sdb/dev", "8:16\n");
    put_text(dir, "block/sdb/size", "2048\n");
    put_text(dir, "block/sdb/device/timeout", "30\n");
}

static struct iscsi_session find(const struct test_dir *dir)
{
    struct iscsi_session session;

    assert_int_equal(iscsi_sysfs_find(dir->path, IQN, CHAP_NAME, &session, NULL), 0);
    return session;
}

static void our_session_is_found_by_its_chap_name(void **state)
{
    const struct test_dir *dir = *state;
    struct iscsi_session session;

    assert_int_equal(iscsi_sysfs_find(dir->path, IQN, CHAP_NAME, &session, NULL), E_NOT_FOUND);
    put_session(dir, 1, VOLUME "/4/0\n", "LOGGED_IN\n"); /* somebody's */
    put_session(dir, 2, "(null)\n", "LOGGED_IN\n");
    assert_int_equal(iscsi_sysfs_find(dir->path, IQN, CHAP_NAME, &session, NULL), E_NOT_FOUND);
    put_session(dir, 3, CHAP_NAME "\n", "FAILED\n");
    session = find(dir);
    assert_int_equal(session.sid, 3);
    assert_int_equal(session.host, 5);
    assert_false(session.logged_in);
    assert_string_equal(session.initiator_name, ID_IQN_PREFIX "node:n1");
    assert_int_equal(iscsi_sysfs_find(dir->path, ID_IQN_PREFIX OTHER, CHAP_NAME, &session, NULL),
                     E_NOT_FOUND);
    put_text(dir, "class/iscsi_session/session3/state", "LOGGED_IN\n");
    assert_true(find(dir).logged_in);
}

/* A node's note and a server's record can both be from a backup: what the kernel shows is not. */
static void the_session_that_serves_is_found_whatever_is_on_record(void **state)
{
    const struct test_dir *dir = *state;
    const struct node_config config = {.node_id = "n1"};
    struct storage_attachment attachment = {
        .volume_id = VOLUME, .target_name = IQN, .epoch = 4, .generation = 1};
    _cleanup_error_ struct error err = {0};
    struct iscsi_session session = {0};
    char portal[64];

    put_session(dir, 3, VOLUME "/4/2\n", "FAILED\n");
    put_session(dir, 4, VOLUME "/3/7\n", "LOGGED_IN\n"); /* an earlier epoch's */
    assert_int_equal(iscsi_attach_find_live(dir->path, &config, &attachment, &session, &err), E_NOT_FOUND);
    attachment.generation = 2;
    assert_int_equal(iscsi_attach_find_live(dir->path, &config, &attachment, &session, NULL), 0);
    assert_int_equal(session.sid, 3);
    put_session(dir, 5, VOLUME "/4/6\n", "LOGGED_IN\n");
    assert_int_equal(iscsi_attach_find_live(dir->path, &config, &attachment, &session, NULL), 0);
    assert_int_equal(session.sid, 5);

    assert_false(iscsi_sysfs_portal(dir->path, &session, portal, sizeof(portal)));
    put_text(dir, "class/iscsi_connection/connection5:0/persistent_address", "fd00::1\n");
    put_text(dir, "class/iscsi_connection/connection5:0/persistent_port", "3260\n");
    assert_true(iscsi_sysfs_portal(dir->path, &session, portal, sizeof(portal)));
    assert_string_equal(portal, "[fd00::1]:3260");
    put_text(dir, "class/iscsi_connection/connection5:0/persistent_address", "10.0.0.1\n");
    assert_true(iscsi_sysfs_portal(dir->path, &session, portal, sizeof(portal)));
    assert_string_equal(portal, "10.0.0.1:3260");
}

static void a_record_from_a_backup_proves_no_end(void **state)
{
    const struct iscsi_note note = {.epoch = 4, .generation = 2};
    struct storage_attachment attachment = {.volume_id = VOLUME, .epoch = 4, .generation = 2};
    _cleanup_error_ struct error err = {0};

    (void)state;
    assert_int_equal(iscsi_attach_compare(&attachment, &note, NULL), 0);
    attachment.generation = 1;
    assert_int_equal(iscsi_attach_compare(&attachment, &note, &err), E_STALE);
    assert_non_null(strstr(error_text(&err), "restored"));
    attachment = (struct storage_attachment){.volume_id = VOLUME, .epoch = 3, .generation = 9};
    assert_int_equal(iscsi_attach_compare(&attachment, &note, NULL), E_STALE);
    attachment = (struct storage_attachment){.volume_id = VOLUME, .epoch = 4, .generation = 3};
    assert_int_equal(iscsi_attach_compare(&attachment, &note, NULL), E_NOT_FOUND);
    attachment = (struct storage_attachment){.volume_id = VOLUME, .epoch = 5};
    assert_int_equal(iscsi_attach_compare(&attachment, &note, NULL), E_NOT_FOUND);
    attachment =
        (struct storage_attachment){.volume_id = VOLUME, .epoch = 4, .generation = 2, .removing = true};
    assert_int_equal(iscsi_attach_compare(&attachment, &note, NULL), E_NOT_FOUND);
}

static void a_disk_is_taken_after_it_was_verified(void **state)
{
    const struct test_dir *dir = *state;
    struct iscsi_disk disk;

    put_session(dir, 3, CHAP_NAME "\n", "LOGGED_IN\n");
    struct iscsi_session session = find(dir);
    assert_int_equal(iscsi_sysfs_disk(dir->path, &session, 0, VOLUME, &disk, NULL), E_NOT_FOUND);
    put_disk(dir, 0, VOLUME, "MOORING " VOLUME);
    assert_int_equal(iscsi_sysfs_disk(dir->path, &session, 1, VOLUME, &disk, NULL), E_NOT_FOUND);
    assert_int_equal(iscsi_sysfs_disk(dir->path, &session, 0, VOLUME, &disk, NULL), 0);
    assert_string_equal(disk.name, "sdb");
    assert_true(disk.number == makedev(8, 16));
    assert_int_equal(disk.size_bytes, 1 << 20);
    assert_int_equal(iscsi_sysfs_set_timeout(dir->path, &disk, 600, NULL), 0);
    _cleanup_free_ char *timeout = NULL;
    assert_int_equal(io_read_file_at(dir->fd, "block/sdb/device/timeout", 16, &timeout, NULL, NULL), 0);
    assert_true(str_starts_with(timeout, "600"));
}

static void a_disk_of_another_identity_is_refused(void **state)
{
    static const char *const wrong[][2] = {
        {OTHER, "MOORING " OTHER},       {VOLUME, "MOORING " OTHER},
        {OTHER, "MOORING " VOLUME},      {VOLUME, "MOORING "},
        {VOLUME, "MOORING " VOLUME "0"}, {"", "MOORING " VOLUME},
        {VOLUME "0", "MOORING " VOLUME}, {VOLUME, "SOMEONE " VOLUME},
    };
    const struct test_dir *dir = *state;
    struct iscsi_disk disk;

    put_session(dir, 3, CHAP_NAME "\n", "LOGGED_IN\n");
    struct iscsi_session session = find(dir);
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        put_disk(dir, 0, wrong[i][0], wrong[i][1]);
        assert_int_equal(iscsi_sysfs_disk(dir->path, &session, 0, VOLUME, &disk, NULL), E_PRECONDITION);
    }
    put_disk(dir, 0, VOLUME, "MOORING " VOLUME);
    assert_int_equal(iscsi_sysfs_disk(dir->path, &session, 0, VOLUME, &disk, NULL), 0);
    assert_int_equal(unlinkat(dir->fd, "devices/platform/host5/session3/target5:0:0/5:0:0:0/vpd_pg83", 0), 0);
    assert_int_equal(iscsi_sysfs_disk(dir->path, &session, 0, VOLUME, &disk, NULL), E_PRECONDITION);
}

/* The sanitizers' build sees what is read behind its end. */
static void a_page_that_ends_early_is_refused(void **state)
{
    static const char path[] = "devices/platform/host5/session3/target5:0:0/5:0:0:0/vpd_pg83";
    const struct test_dir *dir = *state;
    _cleanup_free_ char *page = NULL;
    struct iscsi_disk disk;
    size_t whole = 0;

    put_session(dir, 3, CHAP_NAME "\n", "LOGGED_IN\n");
    put_disk(dir, 0, VOLUME, "MOORING " VOLUME);
    struct iscsi_session session = find(dir);
    assert_int_equal(io_read_file_at(dir->fd, path, 4096, &page, &whole, NULL), 0);
    for (size_t length = 0; length < whole; length++) {
        put(dir, path, page, length);
        assert_int_equal(iscsi_sysfs_disk(dir->path, &session, 0, VOLUME, &disk, NULL), E_PRECONDITION);
    }
}

/* ---- open-iscsi's record ---- */

static const char made[] = "# BEGIN RECORD 2.1.8\n"
                           "node.name = " IQN "\n"
                           "node.startup = automatic\n"
                           "node.session.auth.authmethod = None\n"
                           "node.session.auth.password = theirs\n"
                           "node.session.auth.password_in = theirs too\n"
                           "node.session.scan = auto\n"
                           "node.conn[0].startup = automatic\n"
                           "node.conn[0].address = 10.0.0.1\n"
                           "# END RECORD\n";

static const struct iscsi_login login = {.target_name = IQN,
                                         .portal = "10.0.0.1:3260",
                                         .initiator_name = ID_IQN_PREFIX "node:n1",
                                         .chap_name = CHAP_NAME,
                                         .chap_secret = SECRET,
                                         .replacement_timeout_s = -1};

static void our_settings_replace_the_hosts(void **state)
{
    _cleanup_free_ char *text = iscsi_record_text(made, &login);

    (void)state;
    assert_non_null(strstr(text, "\nnode.name = " IQN "\n"));
    assert_non_null(strstr(text, "\nnode.conn[0].address = 10.0.0.1\n"));
    assert_non_null(strstr(text, "\nnode.startup = manual\n"));
    assert_non_null(strstr(text, "\nnode.conn[0].startup = manual\n"));
    assert_non_null(strstr(text, "\nnode.session.scan = manual\n"));
    assert_non_null(strstr(text, "\nnode.session.auth.username = " CHAP_NAME "\n"));
    assert_non_null(strstr(text, "\nnode.session.auth.password = " SECRET "\n"));
    assert_non_null(strstr(text, "\nnode.session.timeo.replacement_timeout = -1\n"));
    assert_null(strstr(text, "automatic"));
    assert_null(strstr(text, "theirs"));
    assert_null(strstr(text, "= auto\n"));
    _cleanup_free_ char *again = iscsi_record_text(text, &login);
    assert_string_equal(again, text);
}

static void the_record_is_found_in_both_layouts(void **state)
{
    static const struct {
        const char *portal, *path;
    } layouts[] = {
        {"10.0.0.1:3260", "etc/iscsi/nodes/" IQN "/10.0.0.1,3260"},
        {"[fd00::1]:3261", "etc/iscsi/nodes/" IQN "/fd00::1,3261"},
        {"10.0.0.2:3260", "etc/iscsi/nodes/" IQN "/10.0.0.2,3260,1/default"},
    };
    const struct test_dir *dir = *state;

    put_text(dir, "etc/iscsi/nodes/" IQN "/10.0.0.1,32600", made); /* not that of port 3260 */
    for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
        struct iscsi_login one = login;
        struct stat file;
        _cleanup_free_ char *text = NULL;

        one.portal = layouts[i].portal;
        assert_int_equal(iscsi_record_set(dir->path, &one, NULL),
                         E_PRECONDITION); /* iscsiadm did not make it */
        put_text(dir, layouts[i].path, made);
        assert_int_equal(fchmodat(dir->fd, layouts[i].path, 0644, 0), 0);
        assert_int_equal(iscsi_record_set(dir->path, &one, NULL), 0);
        assert_int_equal(fstatat(dir->fd, layouts[i].path, &file, 0), 0);
        assert_int_equal(file.st_mode & 0777, 0600);
        assert_int_equal(io_read_file_at(dir->fd, layouts[i].path, 8192, &text, NULL, NULL), 0);
        assert_non_null(strstr(text, SECRET));
    }
    _cleanup_free_ char *text = NULL;
    assert_int_equal(
        io_read_file_at(dir->fd, "etc/iscsi/nodes/" IQN "/10.0.0.1,32600", 8192, &text, NULL, NULL), 0);
    assert_string_equal(text, made);
}

static void what_an_interrupted_writing_left_is_removed(void **state)
{
    static const char left[] = "etc/iscsi/nodes/" IQN "/.10.0.0.1,3260.tmp",
                      inner[] = "etc/iscsi/nodes/" IQN "/10.0.0.1,3260,1/.default.tmp",
                      others[] = "etc/iscsi/nodes/" IQN "/.10.0.0.9,3260.tmp";
    const struct test_dir *dir = *state;

    put_text(dir, left, made);
    put_text(dir, inner, made);
    put_text(dir, others, made);
    iscsi_record_sweep(dir->path, IQN, "10.0.0.1:3260");
    assert_int_not_equal(faccessat(dir->fd, left, F_OK, 0), 0);
    assert_int_not_equal(faccessat(dir->fd, inner, F_OK, 0), 0);
    assert_int_equal(faccessat(dir->fd, others, F_OK, 0), 0);
}

/* ---- flushing ---- */

/* A flush that hangs (here: in opening a FIFO) outlives mooring-node, whose next start needs the lock, and
 * its other calls, which wait for the end of pipes. */
static void a_flush_that_hangs_holds_nothing_of_ours(void **state)
{
    const struct test_dir *dir = *state;
    _cleanup_free_ char *fifo = str_format("%s/fifo", dir->path), *lock = str_format("%s/lock", dir->path);
    int pipe_fds[2];

    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    int held = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(flock(held, LOCK_EX), 0);
    assert_int_equal(iscsi_detach_flush(fifo, time_now_ms() + 100, NULL), E_DEADLINE);
    close(held);
    close(pipe_fds[1]);
    _cleanup_fd_ int again = open(lock, O_RDWR | O_CLOEXEC);
    struct pollfd closed = {.fd = pipe_fds[0], .events = POLLIN};
    int locked = -1, ready = 0, release = -1;
    for (int i = 0; i < 500 && (locked < 0 || ready < 1); i++) { /* it may not have run yet */
        locked = flock(again, LOCK_EX | LOCK_NB);
        ready = poll(&closed, 1, 20);
    }
    for (int i = 0; i < 500 && release < 0; i++, poll(NULL, 0, 20))
        release = open(fifo, O_WRONLY | O_NONBLOCK | O_CLOEXEC); /* the flush ends */
    close(release);
    close(pipe_fds[0]);
    assert_true(release >= 0);
    assert_int_equal(locked, 0);
    assert_int_equal(ready, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(our_session_is_found_by_its_chap_name, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(the_session_that_serves_is_found_whatever_is_on_record,
                                        test_dir_setup, test_dir_teardown),
        cmocka_unit_test(a_record_from_a_backup_proves_no_end),
        cmocka_unit_test_setup_teardown(a_disk_is_taken_after_it_was_verified, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(a_disk_of_another_identity_is_refused, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(a_page_that_ends_early_is_refused, test_dir_setup, test_dir_teardown),
        cmocka_unit_test(our_settings_replace_the_hosts),
        cmocka_unit_test_setup_teardown(the_record_is_found_in_both_layouts, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(what_an_interrupted_writing_left_is_removed, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(a_flush_that_hangs_holds_nothing_of_ours, test_dir_setup,
                                        test_dir_teardown),
    };
    return cmocka_run_group_tests_name("node_iscsi", tests, NULL, NULL);
}
