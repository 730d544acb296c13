/* A directory of the test's own, removed with all that is in it. For the tests of common/. */
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct test_dir {
    char path[64];
    int fd;
};

/* cmocka's setup: *state becomes a new struct test_dir. */
static inline int test_dir_setup(void **state)
{
    struct test_dir *dir = calloc(1, sizeof(*dir));

    if (!dir)
        return -1;
    snprintf(dir->path, sizeof(dir->path), "/tmp/mooring-common-XXXXXX");
    if (!mkdtemp(dir->path))
        return -1;
    dir->fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *state = dir;
    return dir->fd < 0 ? -1 : 0;
}

/* Remove all that is in a directory. */
static inline void test_dir_clear(int fd)
{
    DIR *entries = fdopendir(dup(fd));
    struct dirent *entry;

    if (!entries)
        return;
    rewinddir(entries);
    while ((entry = readdir(entries))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, entry->d_name, 0) < 0) {
            int inner = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

            if (inner >= 0) {
                test_dir_clear(inner);
                close(inner);
            }
            unlinkat(fd, entry->d_name, AT_REMOVEDIR);
        }
    }
    closedir(entries);
}

static inline int test_dir_teardown(void **state)
{
    struct test_dir *dir = *state;

    test_dir_clear(dir->fd);
    close(dir->fd);
    rmdir(dir->path);
    free(dir);
    return 0;
}

static inline void test_dir_write(const struct test_dir *dir, const char *name, const char *text)
{
    int fd = openat(dir->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t length = strlen(text);

    if (fd < 0 || write(fd, text, length) != (ssize_t)length)
        abort();
    close(fd);
}

/* How many entries there are, but for . and .. */
static inline int test_dir_count(const struct test_dir *dir)
{
    DIR *entries = fdopendir(dup(dir->fd));
    int count = 0;

    if (!entries)
        return -1;
    rewinddir(entries);
    while (readdir(entries))
        count++;
    closedir(entries);
    return count - 2;
}
