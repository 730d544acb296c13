/*
 * Finding ublk devices and their users, by sysfs, /proc and the driver's own word. Called by ublk_attach.c
 * (jobs) and by main.c.
 */
#include "datapath/device/ublk_find.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"

#define CLASS_DIR "/sys/class/ublk-char"
#define MARK_OF_MOORING (UINT64_C(0x4d6f) << 48)
#define MARK_HASH_MASK ((UINT64_C(1) << 48) - 1)
#define PAUSE_MS 50

/* FNV-1a, 64 bits. */
static uint64_t hash_add(uint64_t hash, const char *text)
{
    for (const unsigned char *at = (const unsigned char *)text;; at++) {
        hash = (hash ^ *at) * UINT64_C(0x100000001b3);
        if (*at == '\0')
            return hash;
    }
}

uint64_t ublk_find_mark(const char *volume_id, const char *dir)
{
    uint64_t hash = hash_add(UINT64_C(0xcbf29ce484222325), volume_id);
    hash = hash_add(hash, dir);
    return MARK_OF_MOORING | ((hash ^ hash >> 48) & MARK_HASH_MASK);
}

/* The N of "ublkcN"; UBLK_CONTROL_ANY for another name. */
static uint32_t device_number(const char *name)
{
    uint64_t number;
    const char *rest;
    if (!str_starts_with(name, "ublkc") || !isdigit((unsigned char)name[5]) ||
        !str_parse_uint64(name + 5, &number, &rest) || *rest || number >= UBLK_CONTROL_ANY)
        return UBLK_CONTROL_ANY;
    return (uint32_t)number;
}

int ublk_find(uint64_t mark, struct ublksrv_ctrl_dev_info *ret_info, struct error *err)
{
    _cleanup_dir_ DIR *directory = opendir(CLASS_DIR);
    if (!directory && errno != ENOENT)
        return error_errno(err, errno, CLASS_DIR);
    if (!directory)
        return error_set(err, E_UNIMPLEMENTED, "there is no ublk driver (%s)", CLASS_DIR);
    for (struct dirent *entry; (entry = readdir(directory));) {
        uint32_t id = device_number(entry->d_name);
        struct ublksrv_ctrl_dev_info info;
        if (id == UBLK_CONTROL_ANY)
            continue;
        int r = ublk_control_info(id, &info, err);
        if (r && r != E_NOT_FOUND)
            return r;
        error_done(err);
        if (r == 0 && info.ublksrv_flags == mark) {
            *ret_info = info;
            return 0;
        }
    }
    return error_set(err, E_NOT_FOUND, "no ublk device of this volume");
}

/* Until the driver has put a dead server away, which it says to a successor only, a stop would cancel its
 * commands a second time: before Linux 7.1, a use after free. */
static void wait_until_put_away(uint32_t id, unsigned wait_ms)
{
    _cleanup_error_ struct error err = {0};
    if (ublk_control_recover_begin(id, wait_ms, &err))
        log_warning("%s: it is stopped all the same", error_text(&err));
}

/* A server that is dead, but not yet seen to be, would hold up who stops its device; one that is not dead
 * serves its users. */
static int wait_for_death(uint32_t id, unsigned wait_ms, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + wait_ms;
    struct ublksrv_ctrl_dev_info info;
    int r;
    while ((r = ublk_control_info(id, &info, NULL)) == 0 && info.state == UBLK_S_DEV_LIVE) {
        if (time_now_ms() >= deadline_ms)
            return error_set(err, E_BUSY, "/dev/ublkb%u is still served by process %d", id, info.ublksrv_pid);
        poll(NULL, 0, PAUSE_MS);
    }
    if (r == 0 && info.state == UBLK_S_DEV_QUIESCED)
        wait_until_put_away(id, wait_ms);
    return 0;
}

int ublk_find_remove(uint64_t mark, unsigned wait_ms, struct error *err)
{
    struct ublksrv_ctrl_dev_info info;
    uint32_t last = UBLK_CONTROL_ANY;
    int r;
    while ((r = ublk_find(mark, &info, err)) == 0) {
        if (info.dev_id == last) { /* its number is taken until the last user has closed it */
            poll(NULL, 0, PAUSE_MS);
        } else {
            log_warning("/dev/ublkb%u, left by an earlier mooring-device, is removed", info.dev_id);
            r = wait_for_death(info.dev_id, wait_ms, err);
        }
        last = info.dev_id;
        r = r ? r : ublk_control_stop(info.dev_id, err);
        r = r ? r : ublk_control_delete(info.dev_id, err);
        if (r)
            return r;
    }
    if (r == E_NOT_FOUND || r == E_UNIMPLEMENTED)
        error_done(err);
    return r == E_NOT_FOUND || r == E_UNIMPLEMENTED ? 0 : r;
}

/* ---- users ---- */

static bool process_has_open(const char *pid, dev_t number)
{
    char path[300];
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    _cleanup_dir_ DIR *directory = opendir(path);
    struct stat status;
    if (!directory)
        return false;
    for (struct dirent *entry; (entry = readdir(directory));)
        if (fstatat(dirfd(directory), entry->d_name, &status, 0) == 0 && S_ISBLK(status.st_mode) &&
            status.st_rdev == number)
            return true;
    return false;
}

bool ublk_find_in_use(uint32_t id)
{
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, "/dev/ublkb%u", id);
    if (stat(path, &status) < 0)
        return false;
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC); /* mounted, swap, device mapper */
    if (fd < 0)
        return errno == EBUSY;
    fd = fd_close(fd);
    _cleanup_dir_ DIR *processes = opendir("/proc");
    if (!processes)
        return true;
    for (struct dirent *entry; (entry = readdir(processes));)
        if (isdigit((unsigned char)entry->d_name[0]) && process_has_open(entry->d_name, status.st_rdev))
            return true;
    return false;
}
