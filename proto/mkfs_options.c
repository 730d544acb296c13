/* The options of mkfs.ext4 and mkfs.xfs that are let through, by letter. Owns nothing; any thread. Called by
 * controller/request.c and node/mkfs_command.c. */
#include "proto/mkfs_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"

/*
 * Not among them, of mke2fs: -d and -l (a folder or a file that is read), -z (one that is written), -c (reads
 * all), -n and -V (make nothing), -S (a superblock alone), -t (another type), -o and -r (other systems'); of
 * mkfs.xfs: -c and -p (files), -r (another device), -N and -V.
 */
static const struct rules {
    const char *fs_type, *with_argument, *alone;
    const char *places; /* those of with_argument whose words can name a file or another device */
} rules[] = {
    {"ext4", "bCeEgGiIJLmMNOTU", "DFjqv", "J"},
    {"xfs", "bdilLmns", "fKq", "dl"},
};

static const char *const elsewhere[] = {"device", "file", "logdev", "name", "rtdev"};

static bool names_elsewhere(const char *list)
{
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        size_t length = strcspn(at, "=,");

        for (size_t i = 0; i < ARRAY_SIZE(elsewhere); i++) {
            if (length == strlen(elsewhere[i]) && strncmp(at, elsewhere[i], length) == 0)
                return true;
        }
    }
    return false;
}

static int refuse(const struct rules *rule, const char *word, const char *why, struct error *err)
{
    return error_set(
        err, E_INVALID_ARGUMENT,
        "mkfsOptions has \"%s\", which %s; for mkfs.%s there are -%s with a value and -%s without", word, why,
        rule->fs_type, rule->with_argument, rule->alone);
}

/* One option, and its value, which may be the next word. */
static int check_option(const struct rules *rule, const char *word, char **saved, struct error *err)
{
    const char *value = word[1] != '\0' ? word + 2 : "";

    if (word[0] != '-' || word[1] == '\0')
        return refuse(rule, word, "is no option", err);
    if (strchr(rule->alone, word[1]))
        return *value == '\0' ? E_OK : refuse(rule, word, "is more than one option", err);
    if (!strchr(rule->with_argument, word[1]))
        return refuse(rule, word, "is not served", err);
    if (*value == '\0')
        value = strtok_r(NULL, " ", saved);
    if (!value)
        return refuse(rule, word, "lacks its value", err);
    if (strchr(rule->places, word[1]) && names_elsewhere(value))
        return refuse(rule, value, "names a place beside the volume", err);
    return E_OK;
}

int mkfs_options_check(const char *fs_type, const char *options, struct error *err)
{
    const struct rules *rule = str_equal(fs_type, "xfs") ? &rules[1] : &rules[0];
    _cleanup_free_ char *words = strdup(options);
    char *saved = NULL;
    int r = E_OK;

    if (!words)
        return error_errno(err, ENOMEM, "mkfsOptions");
    for (char *word = strtok_r(words, " ", &saved); r == E_OK && word; word = strtok_r(NULL, " ", &saved))
        r = check_option(rule, word, &saved, err);
    return r;
}
