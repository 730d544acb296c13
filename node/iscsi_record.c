/* Writing open-iscsi's record files. RPC threads; called by iscsi_admin.c. */
#include "node/iscsi_record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/secret.h"
#include "common/strings.h"

#define RECORD_BYTES_MAX (64 * 1024)
#define RECORD_SETTINGS_BYTES_MAX 4096

/* Where open-iscsi keeps its database: fixed when it is built. */
static const char *const record_databases[] = {"/etc/iscsi/nodes", "/var/lib/iscsi/nodes"};

/* ---- text ---- */

/*
 * The record's lifetime is our attachment's: nobody else logs in by it (manual). The scan is ours: of one
 * LUN. A first login that fails ends within seconds, for the call is repeated; one after a lost connection is
 * tried for ever (reopen_max).
 */
static int record_settings(char *ret, size_t size, const struct iscsi_login *login)
{
    return snprintf(ret, size,
                    "node.startup = manual\n"
                    "node.leading_login = No\n"
                    "iface.initiatorname = %s\n"
                    "node.session.nr_sessions = 1\n"
                    "node.session.scan = manual\n"
                    "node.session.reopen_max = 0\n"
                    "node.session.initial_login_retry_max = 1\n"
                    "node.session.auth.authmethod = CHAP\n"
                    "node.session.auth.chap_algs = MD5\n"
                    "node.session.auth.username = %s\n"
                    "node.session.auth.password = %s\n"
                    "node.session.timeo.replacement_timeout = %" PRId64 "\n"
                    "node.conn[0].startup = manual\n"
                    "node.conn[0].timeo.login_timeout = 10\n"
                    "node.conn[0].timeo.noop_out_interval = 5\n"
                    "node.conn[0].timeo.noop_out_timeout = 10\n",
                    login->initiator_name, login->chap_name, login->chap_secret,
                    login->replacement_timeout_s);
}

/* Whether the line sets what one of the settings sets, or is not a setting. */
static bool record_line_is_ours(const char *line, size_t length, const char *settings)
{
    const char *equals = memchr(line, '=', length);
    size_t key_length = equals ? (size_t)(equals - line) : 0;

    if (!key_length)
        return true;
    for (const char *at = settings; *at; at = strchr(at, '\n') + 1) {
        if (strncmp(at, line, key_length) == 0 && at[key_length] == '=')
            return true;
    }
    return str_starts_with(line, "node.session.auth."); /* of the host's iscsid.conf: not this volume's */
}

char *iscsi_record_text(const char *old, const struct iscsi_login *login)
{
    char settings[RECORD_SETTINGS_BYTES_MAX];
    char *text = malloc(strlen(old) + sizeof(settings) + 64);

    if (!text || record_settings(settings, sizeof(settings), login) >= (int)sizeof(settings)) {
        free(text);
        return NULL;
    }
    char *end = stpcpy(text, "# BEGIN RECORD\n");
    for (const char *line = old; *line;) {
        size_t length = strcspn(line, "\n");
        if (!record_line_is_ours(line, length, settings)) {
            end = mempcpy(end, line, length);
            *end++ = '\n';
        }
        line += length + (line[length] == '\n');
    }
    stpcpy(stpcpy(end, settings), "# END RECORD\n");
    secret_wipe(settings, sizeof(settings));
    return text;
}

/* ---- file ---- */

/* "<address>,<port>", as open-iscsi names a portal: an IPv6 address without its brackets. */
static bool record_portal_name(const char *portal, char *ret, size_t size)
{
    const char *colon = strrchr(portal, ':');
    bool bracketed = portal[0] == '[' && colon && colon > portal + 1 && colon[-1] == ']';

    if (!colon)
        return false;
    return snprintf(ret, size, "%.*s,%s", (int)(colon - portal) - (bracketed ? 2 : 0), portal + bracketed,
                    colon + 1) < (int)size;
}

/* The folder of the target's records. */
static int record_open_target(const char *root, const char *target_name)
{
    char path[PATH_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(record_databases); i++) {
        snprintf(path, sizeof(path), "%s%s/%s", root, record_databases[i], target_name);
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0)
            return fd;
    }
    return -1;
}

/* With a portal group, the portal is a folder "<address>,<port>,<tag>" that holds a file for each interface;
 * else it is a file. ret_fd is the folder, ret_name the file in it. */
static int record_locate(int target_fd, const char *portal_name, int *ret_fd, char ret_name[NAME_MAX + 1],
                         struct error *err)
{
    size_t length = strlen(portal_name);
    _cleanup_dir_ DIR *dir = fdopendir(dup(target_fd));
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        if (!str_starts_with(entry->d_name, portal_name) ||
            (entry->d_name[length] != '\0' && entry->d_name[length] != ','))
            continue;
        *ret_fd = openat(target_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (*ret_fd < 0 && errno == ENOTDIR)
            *ret_fd = dup(target_fd);
        else
            entry = NULL;
        str_copy(ret_name, NAME_MAX + 1, entry ? entry->d_name : "default");
        return *ret_fd < 0 ? error_errno(err, errno, "cannot open open-iscsi's record of %s", portal_name)
                           : 0;
    }
    return error_set(
        err, E_PRECONDITION,
        "iscsiadm made a record of portal %s, but it is not in %s or %s: this build does not know "
        "where this open-iscsi keeps its records",
        portal_name, record_databases[0], record_databases[1]);
}

int iscsi_record_set(const char *root, const struct iscsi_login *login, struct error *err)
{
    _cleanup_fd_ int target_fd = record_open_target(root, login->target_name);
    _cleanup_fd_ int dir_fd = -1;
    _cleanup_free_ char *old = NULL;
    char portal_name[NAME_MAX + 1], name[NAME_MAX + 1];

    if (!record_portal_name(login->portal, portal_name, sizeof(portal_name)))
        return error_set(err, E_INVALID_ARGUMENT, "portal \"%s\" is not an address with a port",
                         login->portal);
    int r = record_locate(target_fd, portal_name, &dir_fd, name, err);
    if (!r)
        r = io_read_file_at(dir_fd, name, RECORD_BYTES_MAX, &old, NULL, err);
    if (r)
        return r;
    char *text = iscsi_record_text(old, login);
    if (!text)
        return error_errno(err, ENOMEM, "cannot write open-iscsi's record");
    r = io_replace_file(dir_fd, name, text, strlen(text), 0600, err);
    secret_wipe(text, strlen(text));
    free(text);
    return r;
}

void iscsi_record_sweep(const char *root, const char *target_name, const char *portal)
{
    char portal_name[NAME_MAX + 1], name[NAME_MAX + 1];
    _cleanup_error_ struct error ignored = {0};
    _cleanup_fd_ int target_fd = record_open_target(root, target_name);
    _cleanup_fd_ int dir_fd = -1;

    if (target_fd < 0 || !record_portal_name(portal, portal_name, sizeof(portal_name)))
        return;
    if (snprintf(name, sizeof(name), ".%s.tmp", portal_name) < (int)sizeof(name))
        unlinkat(target_fd, name, 0);
    if (record_locate(target_fd, portal_name, &dir_fd, name, &ignored) == 0)
        unlinkat(dir_fd, ".default.tmp", 0);
}
