/*
 * The command that makes a file system, with every feature said: whatever mkfs of this host takes for its
 * default, what it makes is mounted by Linux 5.15 and newer (ext4: 4.4), and repaired by tools of that age.
 * The volume's own options win where they name the same feature.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

#define MKFS_WORDS_MAX 32
#define MKFS_LIST_SIZE 512

struct mkfs_command {
    const char *argv[MKFS_WORDS_MAX + 16]; /* ends with NULL */
    size_t count;
    char *words;                   /* the volume's options, cut up */
    char lists[3][MKFS_LIST_SIZE]; /* that argv refers to */
};

/*
 * options: words separated by blanks, may be "". new_xfs: of xfsprogs 6.10 or newer, which has features that
 * must be switched off by name. E_INVALID_ARGUMENT when options are too many, too long, or such as
 * proto/mkfs_options.h refuses. device is borrowed.
 */
int mkfs_command_init(struct mkfs_command *command, const char *device, const char *fs_type,
                      const char *options, bool new_xfs, struct error *err);
void mkfs_command_done(struct mkfs_command *command);
#define _cleanup_mkfs_command_ __attribute__((cleanup(mkfs_command_done)))

/* Whether the text of `mkfs.xfs -V` is of such a one. */
bool mkfs_command_is_new_xfs(const char *version);
