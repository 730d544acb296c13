/*
 * Options of mkfs.ext4 and mkfs.xfs, put together of ours and the volume's: mke2fs takes the last -O and -E
 * alone, and mkfs.xfs no feature twice. Pure; called by filesystem.c.
 */
#include "node/mkfs_command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "proto/mkfs_options.h"

/* Of e2fsprogs 1.45, without what came later: orphan_file (Linux 5.15) and metadata_csum_seed. */
#define EXT4_FEATURES                                                                                        \
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"           \
    "large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

/* Of mkfs.xfs's own lts_5.15.conf. */
static const struct {
    const char *name;
    char option;
    bool on, only_new;
} xfs_features[] = {
    {"crc", 'm', true, false},     {"finobt", 'm', true, false},   {"reflink", 'm', true, false},
    {"rmapbt", 'm', false, false}, {"bigtime", 'm', true, false},  {"inobtcount", 'm', true, false},
    {"sparse", 'i', true, false},  {"nrext64", 'i', false, false}, {"exchange", 'i', false, true},
    {"parent", 'n', false, true},
};

#define XFS_FEATURES (sizeof(xfs_features) / sizeof(xfs_features[0]))

bool mkfs_command_is_new_xfs(const char *version)
{
    const char *at = version + strcspn(version, "0123456789");
    char *end;
    unsigned long major = strtoul(at, &end, 10), minor = *end == '.' ? strtoul(end + 1, NULL, 10) : 0;

    return major > 6 || (major == 6 && minor >= 10);
}

static bool mkfs_append(char list[MKFS_LIST_SIZE], const char *more)
{
    size_t length = strlen(list);
    int n = snprintf(list + length, MKFS_LIST_SIZE - length, "%s%s", *list ? "," : "", more);

    return n >= 0 && (size_t)n < MKFS_LIST_SIZE - length;
}

static int mkfs_too_long(struct error *err)
{
    return error_set(err, E_INVALID_ARGUMENT, "mkfsOptions has more than %d words, or too long ones",
                     MKFS_WORDS_MAX);
}

static bool mkfs_push(struct mkfs_command *command, const char *word)
{
    if (command->count == MKFS_WORDS_MAX + 15)
        return false;
    command->argv[command->count++] = word;
    return true;
}

/* The next word's argument of option -x: "-xARGUMENT" or "-x ARGUMENT"; NULL when it is another option. */
static const char *mkfs_argument(const char *word, char option, char **saved)
{
    if (word[0] != '-' || word[1] != option)
        return NULL;
    return word[2] ? word + 2 : strtok_r(NULL, " ", saved);
}

/* ---- ext4 ---- */

static int mkfs_ext4(struct mkfs_command *command, struct error *err)
{
    char *features = command->lists[0], *extended = command->lists[1], *saved = NULL;
    bool fits = mkfs_push(command, "mkfs.ext4") && mkfs_push(command, "-q") && mkfs_push(command, "-O") &&
                mkfs_push(command, features) && mkfs_push(command, "-E") && mkfs_push(command, extended) &&
                mkfs_append(features, EXT4_FEATURES) &&
                mkfs_append(extended, "nodiscard"); /* the volume is blank */

    for (char *word = strtok_r(command->words, " ", &saved); fits && word;
         word = strtok_r(NULL, " ", &saved)) {
        const char *of_features = mkfs_argument(word, 'O', &saved);
        const char *of_extended = of_features ? NULL : mkfs_argument(word, 'E', &saved);
        if (of_features)
            fits = mkfs_append(features, of_features);
        else if (of_extended)
            fits = mkfs_append(extended, of_extended);
        else
            fits = mkfs_push(command, word);
    }
    return fits ? 0 : mkfs_too_long(err);
}

/* ---- xfs ---- */

static bool mkfs_names(const char *list, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (strncmp(at, name, length) == 0 && (at[length] == '=' || at[length] == ',' || !at[length]))
            return true;
    }
    return false;
}

/* Whether the volume's options say it: by name, or as a format that has none of them. */
static bool mkfs_xfs_says(const char *options, char option, const char *name)
{
    _cleanup_free_ char *words = strdup(options);
    char *saved = NULL;
    bool says = !words;

    for (char *word = words ? strtok_r(words, " ", &saved) : NULL; word && !says;
         word = strtok_r(NULL, " ", &saved)) {
        if (word[0] != '-' || strchr("fKq", word[1])) /* these have no list */
            continue;
        char letter = word[1];
        const char *list = mkfs_argument(word, letter, &saved);
        says = list &&
               ((letter == option && mkfs_names(list, name)) || (letter == 'm' && strstr(list, "crc=0")));
    }
    return says;
}

static bool mkfs_xfs_features(struct mkfs_command *command, char option, const char *options, bool new_xfs,
                              char list[MKFS_LIST_SIZE])
{
    static const char *const letters[] = {"-i", "-m", "-n"};
    bool fits = true;

    for (size_t i = 0; fits && i < XFS_FEATURES; i++) {
        char word[32];
        if (xfs_features[i].option != option || (xfs_features[i].only_new && !new_xfs) ||
            mkfs_xfs_says(options, option, xfs_features[i].name))
            continue;
        snprintf(word, sizeof(word), "%s=%d", xfs_features[i].name, xfs_features[i].on);
        fits = mkfs_append(list, word);
    }
    if (!fits || !*list)
        return fits;
    return mkfs_push(command, letters[option == 'i' ? 0 : option == 'm' ? 1 : 2]) && mkfs_push(command, list);
}

static int mkfs_xfs(struct mkfs_command *command, const char *options, bool new_xfs, struct error *err)
{
    char *saved = NULL;
    bool fits = mkfs_push(command, "mkfs.xfs") && mkfs_push(command, "-q") &&
                mkfs_push(command, "-K") && /* the volume is blank: nothing to discard */
                mkfs_xfs_features(command, 'm', options, new_xfs, command->lists[0]) &&
                mkfs_xfs_features(command, 'i', options, new_xfs, command->lists[1]) &&
                mkfs_xfs_features(command, 'n', options, new_xfs, command->lists[2]);

    for (char *word = strtok_r(command->words, " ", &saved); fits && word; word = strtok_r(NULL, " ", &saved))
        fits = mkfs_push(command, word);
    return fits ? 0 : mkfs_too_long(err);
}

/* ---- both ---- */

void mkfs_command_done(struct mkfs_command *command)
{
    free(command->words);
    *command = (struct mkfs_command){0};
}

int mkfs_command_init(struct mkfs_command *command, const char *device, const char *fs_type,
                      const char *options, bool new_xfs, struct error *err)
{
    *command = (struct mkfs_command){.words = strdup(options)};
    if (!command->words)
        return error_errno(err, ENOMEM, "cannot format %s", device);
    int r = mkfs_options_check(fs_type, options, err);
    if (r)
        return r;
    r = str_equal(fs_type, "xfs") ? mkfs_xfs(command, options, new_xfs, err) : mkfs_ext4(command, err);
    if (!r && !mkfs_push(command, device))
        r = mkfs_too_long(err);
    command->argv[command->count] = NULL;
    return r;
}
