/* Reading the kernel's iSCSI sessions and disks. Any thread; called by iscsi_attach.c. */
#include "node/iscsi_sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"

#define SYSFS_VALUE_MAX 4096
#define SYSFS_SECTOR_BYTES 512
#define SYSFS_VENDOR "MOORING "

/* ---- values ---- */

/* One attribute without its newline. False when it is not there or too long: a session may go at any moment.
 */
static bool sysfs_read(char *ret, size_t size, const char *folder, const char *name)
{
    char path[PATH_MAX];
    _cleanup_free_ char *text = NULL;

    if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path) ||
        io_read_file(path, SYSFS_VALUE_MAX, &text, NULL, NULL))
        return false;
    text[strcspn(text, "\n")] = '\0';
    return str_copy(ret, size, text);
}

static int sysfs_write(const char *folder, const char *name, const char *value, struct error *err)
{
    char path[PATH_MAX];

    if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
        return error_errno(err, ENAMETOOLONG, "cannot write %s", name);
    _cleanup_fd_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        return error_errno(err, errno, "cannot write \"%s\" to %s", value, path);
    return 0;
}

/* The numbers after prefix, with colons between them, as in "target3:0:0". */
static bool sysfs_numbers(const char *text, const char *prefix, uint64_t *ret, size_t count)
{
    if (!str_starts_with(text, prefix))
        return false;
    text += strlen(prefix);
    for (size_t i = 0; i < count; i++) {
        if ((i && *text++ != ':') || !str_parse_uint64(text, &ret[i], &text))
            return false;
    }
    return *text == '\0';
}

/* ---- sessions ---- */

/* sessionN's device is …/hostH/sessionN. */
static bool sysfs_session_host(const char *folder, unsigned *ret_host)
{
    char link[PATH_MAX], path[PATH_MAX];
    uint64_t number;

    if (snprintf(link, sizeof(link), "%s/device", folder) >= (int)sizeof(link) || !realpath(link, path))
        return false;
    char *session = strrchr(path, '/');
    if (!session)
        return false;
    *session = '\0';
    const char *host = strrchr(path, '/');
    if (!host || !sysfs_numbers(host, "/host", &number, 1))
        return false;
    *ret_host = (unsigned)number;
    return true;
}

static bool sysfs_session_load(const char *root, const char *name, struct iscsi_session *ret)
{
    char folder[PATH_MAX], state[32] = "", chap_name[256];
    uint64_t sid;

    *ret = (struct iscsi_session){0};
    if (!sysfs_numbers(name, "session", &sid, 1) ||
        snprintf(folder, sizeof(folder), "%s/class/iscsi_session/%s", root, name) >= (int)sizeof(folder) ||
        !sysfs_read(ret->target_name, sizeof(ret->target_name), folder, "targetname") ||
        !sysfs_session_host(folder, &ret->host))
        return false;
    ret->sid = (unsigned)sid;
    sysfs_read(ret->initiator_name, sizeof(ret->initiator_name), folder, "initiatorname");
    sysfs_read(state, sizeof(state), folder, "state");
    ret->logged_in = str_equal(state, "LOGGED_IN");
    if (sysfs_read(chap_name, sizeof(chap_name), folder, "username"))
        str_copy(ret->chap_name, sizeof(ret->chap_name), chap_name);
    return true;
}

int iscsi_sysfs_each(const char *root, const char *target_name,
                     bool (*visit)(const struct iscsi_session *session, void *context), void *context,
                     struct error *err)
{
    char path[PATH_MAX];
    struct dirent *entry;

    snprintf(path, sizeof(path), "%s/class/iscsi_session", root);
    _cleanup_dir_ DIR *dir = opendir(path);
    if (!dir && errno == ENOENT) /* the kernel has no iSCSI loaded */
        return 0;
    if (!dir)
        return error_errno(err, errno, "cannot list %s", path);
    while ((entry = readdir(dir))) {
        struct iscsi_session session;
        if (sysfs_session_load(root, entry->d_name, &session) &&
            str_equal(session.target_name, target_name) && !visit(&session, context))
            break;
    }
    return 0;
}

struct sysfs_search {
    const char *chap_name;
    struct iscsi_session session;
    bool found;
};

static bool sysfs_find_one(const struct iscsi_session *session, void *context)
{
    struct sysfs_search *search = context;

    if (!str_equal(session->chap_name, search->chap_name))
        return true;
    search->session = *session;
    search->found = true;
    return false;
}

int iscsi_sysfs_find(const char *root, const char *target_name, const char *chap_name,
                     struct iscsi_session *ret, struct error *err)
{
    struct sysfs_search search = {.chap_name = chap_name};

    int r = iscsi_sysfs_each(root, target_name, sysfs_find_one, &search, err);
    if (r)
        return r;
    if (!search.found)
        return error_set(err, E_NOT_FOUND, "the kernel has no session to %s as %s", target_name, chap_name);
    *ret = search.session;
    return 0;
}

bool iscsi_sysfs_portal(const char *root, const struct iscsi_session *session, char *ret, size_t size)
{
    char folder[PATH_MAX], address[256], port[8];

    if (snprintf(folder, sizeof(folder), "%s/class/iscsi_connection/connection%u:0", root, session->sid) >=
            (int)sizeof(folder) ||
        !sysfs_read(address, sizeof(address), folder, "persistent_address") ||
        !sysfs_read(port, sizeof(port), folder, "persistent_port"))
        return false;
    return snprintf(ret, size, strchr(address, ':') ? "[%s]:%s" : "%s:%s", address, port) < (int)size;
}

/* ---- disks ---- */

/* Whether one of the page's designators (SPC-5, section 7.7.6) is T10's, of the unit, with our vendor and
 * this volume. */
static bool sysfs_identification_is(const unsigned char *page, size_t length, const char *volume_id)
{
    size_t id_length = strlen(volume_id), vendor_length = strlen(SYSFS_VENDOR);

    for (size_t at = 4; at + 4 <= length && at + 4 + page[at + 3] <= length; at += 4 + page[at + 3]) {
        const unsigned char *body = &page[at + 4];
        if ((page[at + 1] & 0x3f) == 0x01 && page[at + 3] == vendor_length + id_length &&
            memcmp(body, SYSFS_VENDOR, vendor_length) == 0 &&
            memcmp(body + vendor_length, volume_id, id_length) == 0)
            return true;
    }
    return false;
}

/* A page as the kernel read it when it found the disk. */
static int sysfs_page(const char *unit, const char *name, char **ret, size_t *ret_length, struct error *err)
{
    char path[PATH_MAX];

    if (snprintf(path, sizeof(path), "%s/%s", unit, name) >= (int)sizeof(path))
        return error_errno(err, ENAMETOOLONG, "cannot read %s", name);
    int r = io_read_file(path, SYSFS_VALUE_MAX, ret, ret_length, err);
    return r == E_NOT_FOUND
               ? error_set(err, E_PRECONDITION,
                           "%s is not there: a disk whose identity cannot be told is not used", path)
               : r;
}

static int sysfs_verify(const char *unit, const char *volume_id, struct error *err)
{
    _cleanup_free_ char *serial = NULL;
    _cleanup_free_ char *identification = NULL;
    size_t serial_length = 0, length = 0, id_length = strlen(volume_id);

    int r = sysfs_page(unit, "vpd_pg80", &serial, &serial_length, err);
    if (!r)
        r = sysfs_page(unit, "vpd_pg83", &identification, &length, err);
    if (r)
        return r;
    if (serial_length != 4 + id_length || memcmp(serial + 4, volume_id, id_length) != 0)
        return error_set(err, E_PRECONDITION, "%s has the serial number \"%.*s\": it is not volume %s", unit,
                         serial_length > 4 ? (int)(serial_length - 4) : 0,
                         serial + (serial_length > 4 ? 4 : 0), volume_id);
    if (!sysfs_identification_is((const unsigned char *)identification, length, volume_id))
        return error_set(err, E_PRECONDITION, "%s does not identify itself (VPD 83h) as volume %s", unit,
                         volume_id);
    return 0;
}

/* The session's folder of the unit, in …/targetH:C:T/H:C:T:L. */
static bool sysfs_unit(const char *root, const struct iscsi_session *session, uint32_t lun,
                       char ret[PATH_MAX])
{
    char folder[PATH_MAX];
    uint64_t at[3]; /* host, channel, target */
    struct dirent *entry;

    if (snprintf(folder, sizeof(folder), "%s/class/iscsi_session/session%u/device", root, session->sid) >=
        (int)sizeof(folder))
        return false;
    _cleanup_dir_ DIR *dir = opendir(folder);
    while (dir && (entry = readdir(dir))) {
        if (sysfs_numbers(entry->d_name, "target", at, ARRAY_SIZE(at)) && at[0] == session->host)
            return snprintf(ret, PATH_MAX, "%s/%s/%s:%u", folder, entry->d_name,
                            entry->d_name + strlen("target"), lun) < PATH_MAX &&
                   access(ret, F_OK) == 0;
    }
    return false;
}

static int sysfs_disk_load(const char *root, const char *name, struct iscsi_disk *ret, struct error *err)
{
    char folder[PATH_MAX], text[64];
    uint64_t number[2], sectors;

    if (!str_copy(ret->name, sizeof(ret->name), name) ||
        snprintf(ret->path, sizeof(ret->path), "block/%s", name) >= (int)sizeof(ret->path) ||
        snprintf(folder, sizeof(folder), "%s/%s", root, ret->path) >= (int)sizeof(folder))
        return error_errno(err, ENAMETOOLONG, "cannot keep the name of disk %s", name);
    if (!sysfs_read(text, sizeof(text), folder, "dev") ||
        !sysfs_numbers(text, "", number, ARRAY_SIZE(number)) ||
        !sysfs_read(text, sizeof(text), folder, "size") || !sysfs_numbers(text, "", &sectors, 1))
        return error_set(err, E_NOT_FOUND, "disk %s is on its way", name);
    ret->number = makedev((unsigned)number[0], (unsigned)number[1]);
    ret->size_bytes = sectors * SYSFS_SECTOR_BYTES;
    return 0;
}

int iscsi_sysfs_disk(const char *root, const struct iscsi_session *session, uint32_t lun,
                     const char *volume_id, struct iscsi_disk *ret, struct error *err)
{
    char unit[PATH_MAX], folder[PATH_MAX];
    struct iscsi_disk disk = {0};
    struct dirent *entry;

    if (!sysfs_unit(root, session, lun, unit) ||
        snprintf(folder, sizeof(folder), "%s/block", unit) >= (int)sizeof(folder))
        return error_set(err, E_NOT_FOUND, "session %u has no LUN %u yet", session->sid, lun);
    int r = sysfs_verify(unit, volume_id, err);
    if (r)
        return r;
    _cleanup_dir_ DIR *dir = opendir(folder);
    do
        entry = dir ? readdir(dir) : NULL;
    while (entry && entry->d_name[0] == '.');
    if (!entry)
        return error_set(err, E_NOT_FOUND, "session %u, LUN %u has no disk yet", session->sid, lun);
    r = sysfs_disk_load(root, entry->d_name, &disk, err);
    if (!r)
        *ret = disk;
    return r;
}

int iscsi_sysfs_scan(const char *root, const struct iscsi_session *session, uint32_t lun, struct error *err)
{
    char folder[PATH_MAX], value[32];

    snprintf(folder, sizeof(folder), "%s/class/scsi_host/host%u", root, session->host);
    snprintf(value, sizeof(value), "- - %u",
             lun); /* any channel and target: the host is this session's alone */
    return sysfs_write(folder, "scan", value, err);
}

int iscsi_sysfs_set_timeout(const char *root, const struct iscsi_disk *disk, unsigned timeout_s,
                            struct error *err)
{
    char folder[PATH_MAX], value[16];

    snprintf(folder, sizeof(folder), "%s/%s/device", root, disk->path);
    snprintf(value, sizeof(value), "%u", timeout_s);
    return sysfs_write(folder, "timeout", value, err);
}
