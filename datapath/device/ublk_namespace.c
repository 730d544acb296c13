/* unshare(CLONE_NEWNS), and taking out what is not needed. Called by ublk_attach.c, before anything else
 * runs. */
#include "datapath/device/ublk_namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/strings.h"

#define MOUNTS_MAX 8192

struct mount_entry {
    uint64_t id, parent;
    bool keep;
    char *path; /* as in mountinfo, escapes resolved */
};

struct mount_table {
    struct mount_entry *entries;
    size_t count;
};

static void table_done(struct mount_table *table)
{
    for (size_t i = 0; i < table->count; i++)
        free(table->entries[i].path);
    free(table->entries);
}

static int table_fill(struct mount_table *table, FILE *file, struct error *err)
{
    _cleanup_free_ char *line = NULL;
    size_t size = 0;
    while (table->count < MOUNTS_MAX && getline(&line, &size, file) > 0) {
        struct mount_entry *entry = &table->entries[table->count];
        char *fields[5], *rest = line;
        for (int i = 0; i < 5; i++)
            fields[i] = strsep(&rest, " ");
        if (!fields[4])
            continue;
        entry->id = strtoull(fields[0], NULL, 10);
        entry->parent = strtoull(fields[1], NULL, 10);
        str_unescape_octal(fields[4]);
        entry->path = strdup(fields[4]);
        if (!entry->path)
            break;
        table->count++;
    }
    return feof(file) ? 0 : error_set(err, E_EXHAUSTED, "there are too many mounts, or there is no memory");
}

static int table_read(struct mount_table *table, struct error *err)
{
    table->entries = calloc(MOUNTS_MAX, sizeof *table->entries);
    if (!table->entries)
        return error_errno(err, ENOMEM, "no memory for the table of mounts");
    _cleanup_file_ FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file)
        return error_errno(err, errno, "/proc/self/mountinfo");
    return table_fill(table, file, err);
}

static struct mount_entry *table_find(struct mount_table *table, uint64_t id)
{
    for (size_t i = 0; i < table->count; i++)
        if (table->entries[i].id == id)
            return &table->entries[i];
    return NULL;
}

/* The mount that path is on, and all that it is mounted on. */
static int table_keep(struct mount_table *table, const char *path, struct error *err)
{
    struct statx status;
    if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_MNT_ID, &status) < 0)
        return error_errno(err, errno, "%s", path);
    if (!(status.stx_mask & STATX_MNT_ID))
        return error_set(err, E_UNIMPLEMENTED, "this kernel does not tell mounts apart (Linux 5.8)");
    struct mount_entry *entry = table_find(table, status.stx_mnt_id);
    while (entry && !entry->keep) {
        entry->keep = true;
        entry = table_find(table, entry->parent);
    }
    return 0;
}

/* The newest first: what is on top of others. A kept one may be hidden below one that is not. */
static int table_clear(struct mount_table *table, struct error *err)
{
    for (size_t i = table->count; i-- > 0;) {
        struct mount_entry *entry = &table->entries[i];
        if (!entry->keep && umount2(entry->path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL &&
            errno != ENOENT)
            return error_errno(err, errno, "cannot take the mount of %s out of this process's namespace",
                               entry->path);
    }
    return 0;
}

int ublk_namespace_enter(const char *dir, struct error *err)
{
    const char *const needed[] = {"/", "/dev", "/proc", "/sys", dir};
    struct mount_table table = {0};
    if (unshare(CLONE_NEWNS) < 0)
        return error_errno(err, errno, "cannot get a mount namespace for ublk");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return error_errno(err, errno, "cannot make the mount namespace private");
    int r = table_read(&table, err);
    for (size_t i = 0; i < ARRAY_SIZE(needed) && r == 0; i++)
        r = table_keep(&table, needed[i], err);
    r = r ? r : table_clear(&table, err);
    table_done(&table);
    return r;
}
