/*
 * The table of StorageClass parameters and their checks. Owns nothing: pure functions, any thread. Called by
 * request.c and volume_create.c.
 */
#include "controller/parameters.h"

#include <ctype.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "common/time.h"
#include "proto/context.h"
#include "proto/mount_options.h"

#define FS_TYPE_ALIAS "csi.storage.k8s.io/fstype"
#define WORDS_MAX 1024
#define ZONE_MAX 63
#define TIME_LENGTH_MAX 16

static const char *const text_keys[PARAMETER_TEXT_COUNT] = {
    [PARAMETER_ATTACH] = CONTEXT_ATTACH,
    [PARAMETER_FS_TYPE] = CONTEXT_FS_TYPE,
    [PARAMETER_LEASE] = CONTEXT_LEASE,
    [PARAMETER_MKFS_OPTIONS] = CONTEXT_MKFS_OPTIONS,
    [PARAMETER_MOUNT_OPTIONS] = CONTEXT_MOUNT_OPTIONS,
    [PARAMETER_PATH_TIMEOUT] = CONTEXT_PATH_TIMEOUT,
    [PARAMETER_SESSIONS] = CONTEXT_SESSIONS,
    [PARAMETER_ZONE] = "zone",
};

const char *parameter_key(enum parameter_text which)
{
    return text_keys[which];
}

bool parameter_for_node(const char *key)
{
    for (size_t i = 0; i < PARAMETER_TEXT_COUNT; i++) {
        if (str_equal(key, text_keys[i]))
            return i != PARAMETER_ZONE;
    }
    return false;
}

/* ---- checks of values: true when good ---- */

static bool one_of(const char *value, const char *const *words)
{
    for (; *words; words++) {
        if (str_equal(value, *words))
            return true;
    }
    return false;
}

static bool valid_attach(const char *value)
{
    return one_of(value, (const char *const[]){"auto", "ublk", "fuse", "iscsi", NULL});
}

static bool valid_fs_type(const char *value)
{
    return one_of(value, (const char *const[]){"ext4", "xfs", NULL});
}

static bool valid_provisioning(const char *value)
{
    return one_of(value, (const char *const[]){"thin", "thick", NULL});
}

static bool valid_block_size(const char *value)
{
    return one_of(value, (const char *const[]){"512", "4096", NULL});
}

/* No slash: an option that names a file would have the node's mkfs or mount read that file of the host. */
static bool valid_words(const char *value, const char *extra)
{
    size_t length = strnlen(value, WORDS_MAX + 1);

    if (length == 0 || length > WORDS_MAX)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)value[i]) && !strchr(extra, value[i]))
            return false;
    }
    return true;
}

static bool valid_mkfs_options(const char *value)
{
    return valid_words(value, " -_=,.:^+");
}

static bool valid_mount_options(const char *value)
{
    return valid_words(value, "-_=,.:+");
}

static bool valid_time(const char *value, uint64_t min_ms)
{
    uint64_t ms;

    return strlen(value) <= TIME_LENGTH_MAX && time_parse_ms(value, &ms) && (ms == 0 || ms >= min_ms);
}

static bool valid_path_timeout(const char *value)
{
    return valid_time(value, CONTEXT_PATH_TIMEOUT_MIN_MS);
}

static bool valid_lease(const char *value)
{
    return valid_time(value, CONTEXT_LEASE_MIN_MS);
}

/* What a node does not do yet is refused, not stored and forgotten. */
static bool valid_sessions(const char *value)
{
    return str_equal(value, "1");
}

/* CSI, Topology: the shape of a topological segment. */
static bool valid_zone(const char *value)
{
    size_t length = strnlen(value, ZONE_MAX + 1);

    return length > 0 && length <= ZONE_MAX && isalnum((unsigned char)value[0]) &&
           isalnum((unsigned char)value[length - 1]) && valid_words(value, "-_.");
}

struct parameter_rule {
    const char *key;
    bool (*valid)(const char *value);
    const char *allowed; /* for the error's text */
};

static const struct parameter_rule rules[] = {
    {CONTEXT_ATTACH, valid_attach, "auto, ublk, fuse or iscsi"},
    {CONTEXT_BLOCK_SIZE, valid_block_size, "512 or 4096"},
    {CONTEXT_FS_TYPE, valid_fs_type, "ext4 or xfs"},
    {CONTEXT_LEASE, valid_lease, "0 (none), or a time of at least 5s, with ms, s, m or h after the number"},
    {CONTEXT_MKFS_OPTIONS, valid_mkfs_options, "words of letters, digits and - _ = , . : ^ +, no file names"},
    {CONTEXT_MOUNT_OPTIONS, valid_mount_options, "mount options separated by commas, no file names"},
    {CONTEXT_PATH_TIMEOUT, valid_path_timeout,
     "0 (I/O waits, however long), or a time of at least 1s, with ms, s, m or h after the number"},
    {"provisioning", valid_provisioning, "thin or thick"},
    {CONTEXT_SESSIONS, valid_sessions, "1: a node opens one data session, and no more yet"},
    {"zone", valid_zone, "up to 63 letters, digits and - _ ., a letter or digit at both ends"},
};

static const struct parameter_rule *find_rule(const char *key)
{
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        if (str_equal(rules[i].key, key))
            return &rules[i];
    }
    return NULL;
}

static int unknown_key(const char *key, struct error *err)
{
    char known[256] = "";
    size_t used = 0;

    for (size_t i = 0; i < ARRAY_SIZE(rules) && used < sizeof(known); i++)
        used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "", rules[i].key);
    return error_set(err, E_INVALID_ARGUMENT, "unknown parameter \"%s\"; the parameters are: %s, " LIMIT_KEYS,
                     key, known);
}

static bool tolerated(const char *key)
{
    return str_starts_with(key, "csi.storage.k8s.io/pvc/") || str_starts_with(key, "csi.storage.k8s.io/pv/");
}

static int take(struct parameters *parameters, const char *key, const char *value, struct error *err)
{
    int r = str_equal(key, CONTEXT_MOUNT_OPTIONS) ? mount_options_check(value, err) : E_OK;

    if (r != E_OK) {
        error_wrap(err, "parameter \"%s\"", key);
        return r;
    }
    if (str_equal(key, FS_TYPE_ALIAS) || str_equal(key, CONTEXT_FS_TYPE))
        return parameters_set_fs_type(parameters, value, err);
    if (str_equal(key, "provisioning"))
        parameters->thick = str_equal(value, "thick");
    else if (str_equal(key, CONTEXT_BLOCK_SIZE))
        parameters->block_size_bytes = (uint32_t)strtoul(value, NULL, 10);
    for (size_t i = 0; i < PARAMETER_TEXT_COUNT; i++) {
        if (str_equal(key, text_keys[i]))
            parameters->text[i] = value;
    }
    return E_OK;
}

int parameters_parse(const void *entries, size_t count, struct parameters *ret, struct error *err)
{
    struct map_entry *const *list = entries;
    struct parameters parameters = {0};

    for (size_t i = 0; i < count; i++) {
        const char *key = list[i]->key;
        const struct parameter_rule *rule = find_rule(str_equal(key, FS_TYPE_ALIAS) ? CONTEXT_FS_TYPE : key);
        int r;

        if (tolerated(key))
            continue;
        if (!rule && limits_is_key(key)) {
            r = limits_take(&parameters.limits, key, list[i]->value, err);
            if (r != E_OK)
                return r;
            continue;
        }
        if (!rule)
            return unknown_key(key, err);
        if (!rule->valid(list[i]->value))
            return error_set(err, E_INVALID_ARGUMENT, "parameter \"%s\" is \"%s\"; allowed: %s", key,
                             list[i]->value, rule->allowed);
        r = take(&parameters, key, list[i]->value, err);
        if (r != E_OK)
            return r;
    }
    *ret = parameters;
    return E_OK;
}

int parameters_set_fs_type(struct parameters *parameters, const char *fs_type, struct error *err)
{
    const char *current = parameters->text[PARAMETER_FS_TYPE];

    if (*fs_type == '\0')
        return E_OK;
    if (!valid_fs_type(fs_type))
        return error_set(err, E_INVALID_ARGUMENT, "file system type \"%s\" is not served; use ext4 or xfs",
                         fs_type);
    if (current && !str_equal(current, fs_type))
        return error_set(err, E_INVALID_ARGUMENT, "file system type is given as both \"%s\" and \"%s\"",
                         current, fs_type);
    parameters->text[PARAMETER_FS_TYPE] = fs_type;
    return E_OK;
}

int parameters_compare(const struct parameters *parameters, const void *entries, size_t count, bool thick,
                       uint32_t block_size_bytes, struct error *err)
{
    for (size_t i = 0; i < PARAMETER_TEXT_COUNT; i++) {
        const char *stored = map_get(entries, count, text_keys[i]);
        const char *wanted = parameters->text[i];

        if (!stored != !wanted || (stored && !str_equal(stored, wanted)))
            return error_set(err, E_EXISTS, "it was made with parameter %s %s, not %s", text_keys[i],
                             stored ? stored : "unset", wanted ? wanted : "unset");
    }
    if (parameters->thick != thick)
        return error_set(err, E_EXISTS, "it was made with provisioning %s", thick ? "thick" : "thin");
    if (parameters->block_size_bytes != 0 && parameters->block_size_bytes != block_size_bytes)
        return error_set(err, E_EXISTS, "it was made with a block size of %u bytes, not %u", block_size_bytes,
                         parameters->block_size_bytes);
    return E_OK;
}
