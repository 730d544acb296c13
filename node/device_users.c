/* Looking through /proc for the users of a block device. No state; called by attach_device_end.c, on RPC
 * threads. */
#include "node/device_users.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"

#define USERS_NAMED_MAX 4
#define USERS_NAMESPACES_MAX 16
#define USERS_COMM_MAX 64

struct users {
    unsigned major_number, minor_number;
    char mount[32];                         /* " 7:3 ", as mountinfo has it */
    ino_t namespaces[USERS_NAMESPACES_MAX]; /* whose mounts were looked at */
    size_t namespaces_count;
    char *words;
    size_t named;
};

static void users_name(struct users *users, const char *what, const char *pid)
{
    char path[64];
    _cleanup_free_ char *comm = NULL;

    snprintf(path, sizeof(path), "/proc/%.16s/comm", pid);
    if (users->named == USERS_NAMED_MAX || io_read_file(path, USERS_COMM_MAX, &comm, NULL, NULL))
        return;
    comm[strcspn(comm, "\n")] = '\0';
    char *words = str_format("%s%s%s%s (pid %s)", users->words ? users->words : "", users->named ? ", " : "",
                             what, comm, pid);
    if (!words)
        return;
    free(users->words);
    users->words = words;
    users->named++;
}

/* By what the kernel has at hand (AT_STATX_DONT_SYNC): a file of a FUSE mount that hangs must not keep us. */
static bool users_has_open(const struct users *users, const char *pid)
{
    char path[64];
    struct dirent *entry;

    snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
    _cleanup_dir_ DIR *dir = opendir(path);
    while (dir && (entry = readdir(dir))) {
        struct statx status;

        if (statx(dirfd(dir), entry->d_name, AT_STATX_DONT_SYNC, STATX_TYPE, &status) == 0 &&
            S_ISBLK(status.stx_mode) && status.stx_rdev_major == users->major_number &&
            status.stx_rdev_minor == users->minor_number)
            return true;
    }
    return false;
}

/* A mount namespace is looked at once, by one of its processes. */
static bool users_is_new_namespace(struct users *users, const char *pid)
{
    char path[64];
    struct stat status;

    snprintf(path, sizeof(path), "/proc/%.16s/ns/mnt", pid);
    if (stat(path, &status) < 0 || users->namespaces_count == USERS_NAMESPACES_MAX)
        return false;
    for (size_t i = 0; i < users->namespaces_count; i++) {
        if (users->namespaces[i] == status.st_ino)
            return false;
    }
    users->namespaces[users->namespaces_count++] = status.st_ino;
    return true;
}

static bool users_has_mounted(const struct users *users, const char *pid)
{
    char path[64];
    _cleanup_free_ char *line = NULL;
    size_t size = 0;
    bool found = false;

    snprintf(path, sizeof(path), "/proc/%.16s/mountinfo", pid);
    _cleanup_file_ FILE *file = fopen(path, "re");
    while (file && !found && getline(&line, &size, file) > 0)
        found = strstr(line, users->mount) != NULL;
    return found;
}

char *device_users(const char *device)
{
    _cleanup_dir_ DIR *dir = opendir("/proc");
    struct users users = {0};
    struct dirent *entry;
    struct stat status;

    if (!dir || stat(device, &status) < 0 || !S_ISBLK(status.st_mode))
        return strdup("");
    users.major_number = major(status.st_rdev);
    users.minor_number = minor(status.st_rdev);
    snprintf(users.mount, sizeof(users.mount), " %u:%u ", users.major_number, users.minor_number);
    while (users.named < USERS_NAMED_MAX && (entry = readdir(dir))) {
        const char *pid = entry->d_name;

        if (pid[0] < '0' || pid[0] > '9')
            continue;
        if (users_has_open(&users, pid))
            users_name(&users, "", pid);
        if (users_is_new_namespace(&users, pid) && users_has_mounted(&users, pid))
            users_name(&users, "a mount of ", pid);
    }
    return users.words ? users.words : strdup("");
}
