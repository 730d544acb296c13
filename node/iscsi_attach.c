/*
 * Attaching by the kernel's initiator: login, and finding the disk that is this volume's and no other. Called
 * by attach.c, on RPC threads and the supervisor's.
 */
#include "node/iscsi_attach.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/iscsi_admin.h"
#include "node/iscsi_note.h"
#include "node/iscsi_resize.h"
#include "node/iscsi_sysfs.h"
#include "node/stage_record.h"

#define ATTACH_POLL_MS 20
#define ATTACH_SCAN_MS 2000
#define ATTACH_TEND_CALL_MS 1000

/*
 * The SCSI layer gives a command up, and every retry of it, when it is older than six times this (its own
 * default makes that three minutes, of which an absent storage server can use all). iSCSI finds a dead
 * connection by its NOP-Outs; nothing else needs this clock.
 */
#define ATTACH_COMMAND_TIMEOUT_S 86400

/* ---- whose is it ---- */

bool iscsi_attach_is_ours(const struct node_config *config, const char *volume_id,
                          const struct iscsi_session *session)
{
    char chap_volume_id[ID_VOLUME_MAX + 1], initiator_name[ID_IQN_MAX + 1];
    uint64_t epoch, generation;

    id_node_iqn(config->node_id, initiator_name);
    return str_equal(session->initiator_name, initiator_name) &&
           id_chap_name_parse(session->chap_name, chap_volume_id, &epoch, &generation) && generation &&
           str_equal(chap_volume_id, volume_id);
}

int iscsi_attach_compare(const struct storage_attachment *attachment, const struct iscsi_note *note,
                         struct error *err)
{
    bool older = attachment->epoch < note->epoch ||
                 (attachment->epoch == note->epoch && attachment->generation < note->generation);

    if (older)
        return error_set(
            err, E_STALE,
            "volume %s: its storage server knows epoch %llu, generation %llu, which is before this session's "
            "(%llu, %llu): was its record restored? detach the volume to give up what was not written",
            attachment->volume_id, (unsigned long long)attachment->epoch,
            (unsigned long long)attachment->generation, (unsigned long long)note->epoch,
            (unsigned long long)note->generation);
    if (attachment->epoch != note->epoch || attachment->generation != note->generation ||
        attachment->removing)
        return error_set(err, E_NOT_FOUND, "volume %s: the attachment of epoch %llu, generation %llu is gone",
                         attachment->volume_id, (unsigned long long)note->epoch,
                         (unsigned long long)note->generation);
    return 0;
}

int iscsi_attach_stands(struct storage *storage, const char *volume_id, const struct iscsi_note *note,
                        unsigned timeout_ms, struct error *err)
{
    _cleanup_attachment_ struct storage_attachment attachment = {0};

    int r = storage_attachment_get(storage, volume_id, timeout_ms, &attachment, err);
    return r ? r : iscsi_attach_compare(&attachment, note, err);
}

struct live_search {
    const struct node_config *config;
    const struct storage_attachment *attachment;
    struct iscsi_session session;
    bool found;
};

static bool live_look(const struct iscsi_session *session, void *context)
{
    struct live_search *search = context;
    const struct storage_attachment *attachment = search->attachment;
    char volume_id[ID_VOLUME_MAX + 1];
    uint64_t epoch = 0, generation = 0;

    if (iscsi_attach_is_ours(search->config, attachment->volume_id, session) &&
        id_chap_name_parse(session->chap_name, volume_id, &epoch, &generation) &&
        epoch == attachment->epoch && (session->logged_in || generation == attachment->generation)) {
        search->session = *session;
        search->found = true;
    }
    return !search->found || !search->session.logged_in;
}

int iscsi_attach_find_live(const char *root, const struct node_config *config,
                           const struct storage_attachment *attachment, struct iscsi_session *ret,
                           struct error *err)
{
    struct live_search search = {.config = config, .attachment = attachment};

    int r = iscsi_sysfs_each(root, attachment->target_name, live_look, &search, err);
    if (r)
        return r;
    if (!search.found)
        return error_set(err, E_NOT_FOUND, "the kernel has no session of epoch %llu to %s",
                         (unsigned long long)attachment->epoch, attachment->target_name);
    *ret = search.session;
    return 0;
}

/* ---- starting ---- */

static int iscsi_check_wanted(const struct node_config *config, const char *volume_id,
                              int64_t *ret_replacement_timeout_s, struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};

    int r = stage_record_load(config->state_dir, volume_id, &record, err);
    if (r)
        return r;
    if (record.lease_ms)
        return error_set(err, E_PRECONDITION,
                         "volume %s has a lease, which attach=iscsi cannot keep: use ublk or fuse",
                         volume_id);
    *ret_replacement_timeout_s = record.path_timeout_ms ? (int64_t)(record.path_timeout_ms + 999) / 1000 : -1;
    return 0;
}

/* E_NOT_FOUND: the session of the note, if there ever was one, is not there (any more). */
static int iscsi_find(const struct iscsi_note *note, struct iscsi_session *ret, struct error *err)
{
    return iscsi_sysfs_find(ISCSI_SYSFS, note->target_name, note->chap_name, ret, err);
}

static int iscsi_try_portals(const struct node_config *config, const struct storage_attachment *attachment,
                             struct iscsi_note *note, struct iscsi_login *login, uint64_t deadline_ms,
                             struct error *err)
{
    int r = E_UNAVAILABLE;

    for (size_t i = 0; i < attachment->portals_count && (r == E_UNAVAILABLE || r == E_EXISTS); i++) {
        error_done(err);
        login->portal = attachment->portals[i];
        if (!str_copy(note->portal, sizeof(note->portal), login->portal))
            return error_set(err, E_INVALID_ARGUMENT, "portal \"%s\" is too long", login->portal);
        r = iscsi_note_save(config, attachment->volume_id, note,
                            err); /* before there is anything to forget */
        if (!r)
            r = iscsi_admin_login(login, deadline_ms, err);
        if (r && r != E_DEADLINE)
            iscsi_admin_forget(login->target_name, login->portal, deadline_ms, NULL);
    }
    return r;
}

/* In the words of attach_way.h. */
static int iscsi_explain_login(const char *volume_id, int r, struct error *err)
{
    _cleanup_free_ char *words = strdup(error_text(err));

    if (r != E_EXISTS && r != E_PERMISSION)
        return error_wrap(err, "volume %s", volume_id);
    error_done(err);
    if (r == E_PERMISSION)
        return error_set(err, E_PRECONDITION, "volume %s: %s", volume_id, words ? words : "refused");
    return error_set(err, E_PRECONDITION,
                     "volume %s: this host has a session to it already, of another mooring-node: two cannot "
                     "share a portal (iscsiadm -m session shows it)",
                     volume_id);
}

/* A session that is no mooring-node's: the grant would end it at the server, and it would not let us log in.
 */
static bool iscsi_is_granted(const struct iscsi_session *session, void *context)
{
    char volume_id[ID_VOLUME_MAX + 1];
    uint64_t epoch, generation;

    if (id_chap_name_parse(session->chap_name, volume_id, &epoch, &generation) && generation)
        return true;
    *(int *)context = (int)session->sid;
    return false;
}

static int iscsi_check_alone(const struct storage_attachment *attachment, struct error *err)
{
    int sid = -1;

    int r = iscsi_sysfs_each(ISCSI_SYSFS, attachment->target_name, iscsi_is_granted, &sid, err);
    if (r || sid < 0)
        return r;
    return error_set(err, E_PRECONDITION,
                     "volume %s: this host has a session to it that mooring-node did not open: log it out "
                     "(iscsiadm -m session -r %d -u)",
                     attachment->volume_id, sid);
}

static int iscsi_log_in(const struct node_config *config, struct storage *storage,
                        const struct storage_attachment *attachment, int64_t replacement_timeout_s,
                        uint64_t deadline_ms, struct error *err)
{
    uint64_t now_ms = time_now_ms();
    char initiator_name[ID_IQN_MAX + 1];
    struct storage_grant grant;
    struct iscsi_note note = {.epoch = attachment->epoch, .lun = attachment->lun};

    id_node_iqn(config->node_id, initiator_name);
    int r = storage_generation_grant(
        storage, attachment->volume_id, attachment->epoch, attachment->generation, true,
        deadline_ms > now_ms ? (unsigned)(deadline_ms - now_ms) : 1, &grant, err);
    if (r)
        return r;
    note.generation = grant.generation;
    str_copy(note.target_name, sizeof(note.target_name), attachment->target_name);
    str_copy(note.chap_name, sizeof(note.chap_name), grant.chap_name);
    struct iscsi_login login = {.target_name = attachment->target_name,
                                .initiator_name = initiator_name,
                                .chap_name = grant.chap_name,
                                .chap_secret = grant.chap_secret,
                                .replacement_timeout_s = replacement_timeout_s};
    r = iscsi_try_portals(config, attachment, &note, &login, deadline_ms, err);
    secret_wipe(&grant, sizeof(grant));
    return r ? iscsi_explain_login(attachment->volume_id, r, err) : 0;
}

/* What is written of the session becomes what it is: iscsi.json may be gone, or an older one. */
static int iscsi_adopt(const struct node_config *config, const struct storage_attachment *attachment,
                       const struct iscsi_session *session, struct error *err)
{
    char volume_id[ID_VOLUME_MAX + 1];
    struct iscsi_note note;

    int r = iscsi_note_load(config, attachment->volume_id, &note, err);
    if (r && r != E_NOT_FOUND)
        return r;
    if (!r && str_equal(note.chap_name, session->chap_name))
        return 0;
    error_done(err);
    note = (struct iscsi_note){.lun = attachment->lun};
    str_copy(note.target_name, sizeof(note.target_name), attachment->target_name);
    str_copy(note.chap_name, sizeof(note.chap_name), session->chap_name);
    id_chap_name_parse(session->chap_name, volume_id, &note.epoch, &note.generation);
    if (!iscsi_sysfs_portal(ISCSI_SYSFS, session, note.portal, sizeof(note.portal)))
        return error_set(err, E_UNAVAILABLE, "volume %s: the portal of session %u is not known",
                         attachment->volume_id, session->sid);
    log_warning("volume %s: session %u is taken up as it is (%s, at %s)", attachment->volume_id, session->sid,
                session->chap_name, note.portal);
    return iscsi_note_save(config, attachment->volume_id, &note, err);
}

/* A session that waits for a server whose record is an older one than it was opened by: it may come back. */
static int iscsi_check_older(const struct node_config *config, const struct storage_attachment *attachment,
                             struct error *err)
{
    struct iscsi_session session;
    struct iscsi_note note;

    int r = iscsi_note_load(config, attachment->volume_id, &note, err);
    if (!r)
        r = iscsi_find(&note, &session, err);
    if (!r)
        r = iscsi_attach_compare(attachment, &note, err);
    if (r != E_NOT_FOUND)
        return r;
    error_done(err);
    return 0;
}

static int iscsi_start(const struct node_config *config, struct storage *storage,
                       const struct storage_attachment *attachment, uint64_t deadline_ms, struct error *err)
{
    struct iscsi_session session;
    int64_t replacement_timeout_s = -1;

    int r = iscsi_check_wanted(config, attachment->volume_id, &replacement_timeout_s, err);
    if (!r)
        r = iscsi_attach_find_live(ISCSI_SYSFS, config, attachment, &session, err);
    if (!r)
        return iscsi_adopt(config, attachment, &session, err);
    if (r != E_NOT_FOUND)
        return r;
    error_done(err);
    r = iscsi_check_older(config, attachment, err);
    if (!r)
        r = iscsi_admin_check(deadline_ms, err);
    if (!r) /* what a call that was cut off has left */
        r = iscsi_detach_sweep(config, attachment->volume_id, err);
    if (!r)
        r = iscsi_check_alone(attachment, err);
    return r ? r : iscsi_log_in(config, storage, attachment, replacement_timeout_s, deadline_ms, err);
}

/* ---- the disk ---- */

/* Its node in /dev is made by devtmpfs or udev: wait until it is of this disk, and not of one before it. */
static int iscsi_check_node(const struct iscsi_disk *disk, const char *path, struct error *err)
{
    struct stat node;

    if (stat(path, &node) < 0 || !S_ISBLK(node.st_mode) || node.st_rdev != disk->number)
        return error_set(err, E_UNAVAILABLE, "%s is not there yet", path);
    return 0;
}

static int iscsi_prepare(const struct node_config *config, const char *volume_id, struct iscsi_note *note,
                         const struct iscsi_disk *disk, struct error *err)
{
    if (note->device == disk->number)
        return 0;
    int r = iscsi_sysfs_set_timeout(ISCSI_SYSFS, disk, ATTACH_COMMAND_TIMEOUT_S, err);
    if (r)
        return r;
    note->device = disk->number;
    return iscsi_note_save(config, volume_id, note, err);
}

static int iscsi_look_at(const char *volume_id, const struct iscsi_note *note, struct iscsi_session *session,
                         struct iscsi_disk *disk, struct attach_device *ret, struct error *err)
{
    int r = iscsi_find(note, session, err);
    if (r == E_NOT_FOUND)
        return error_set(err, E_UNAVAILABLE, "volume %s has no iSCSI session", volume_id);
    if (!r && !session->logged_in)
        return error_set(err, E_UNAVAILABLE, "session %u waits for %s", session->sid, note->portal);
    if (!r)
        r = iscsi_sysfs_disk(ISCSI_SYSFS, session, (uint32_t)note->lun, volume_id, disk, err);
    if (r)
        return r;
    _cleanup_free_ char *path = str_format("/dev/%s", disk->name);
    if (!path)
        return error_errno(err, ENOMEM, "cannot keep the device");
    r = iscsi_check_node(disk, path, err);
    if (r)
        return r;
    *ret =
        (struct attach_device){.path = TAKE_PTR(path), .generation = note->generation, .problem = strdup("")};
    return ret->problem ? 0 : error_errno(err, ENOMEM, "cannot keep the device");
}

static int iscsi_look(const struct node_config *config, const char *volume_id, struct attach_device *ret,
                      struct error *err)
{
    _cleanup_attach_device_ struct attach_device device = {0};
    struct iscsi_session session;
    struct iscsi_disk disk;
    struct iscsi_note note;

    int r = iscsi_note_load(config, volume_id, &note, err);
    if (!r)
        r = iscsi_look_at(volume_id, &note, &session, &disk, &device, err);
    if (!r && note.device != disk.number)
        return error_set(err, E_UNAVAILABLE, "%s is not the disk that was staged", device.path);
    if (!r) {
        *ret = device;
        device = (struct attach_device){0};
    }
    if (r != E_NOT_FOUND)
        return r;
    _cleanup_free_ char *why = strdup(error_text(err));
    error_done(err);
    return error_set(err, E_UNAVAILABLE, "%s", why ? why : "the disk is not there yet");
}

static int iscsi_wait_ready(const struct node_config *config, const char *volume_id, uint64_t deadline_ms,
                            struct attach_device *ret, struct error *err)
{
    uint64_t scanned_ms = 0;
    struct iscsi_note note;

    int r = iscsi_note_load(config, volume_id, &note, err);
    while (!r) {
        struct iscsi_session session = {0};
        struct iscsi_disk disk;
        uint64_t now_ms = time_now_ms();

        r = iscsi_look_at(volume_id, &note, &session, &disk, ret, err);
        if (!r && (r = iscsi_prepare(config, volume_id, &note, &disk, err)))
            attach_device_done(ret);
        if (!r)
            return 0;
        if (r != E_NOT_FOUND && r != E_UNAVAILABLE)
            return r;
        if (now_ms >= deadline_ms) {
            error_wrap(err, "volume %s: the device is not there yet", volume_id);
            if (err)
                err->code = E_DEADLINE;
            return E_DEADLINE;
        }
        if (r == E_NOT_FOUND && (!scanned_ms || now_ms - scanned_ms >= ATTACH_SCAN_MS)) {
            scanned_ms = now_ms;
            iscsi_sysfs_scan(ISCSI_SYSFS, &session, (uint32_t)note.lun, NULL);
        }
        error_done(err);
        poll(NULL, 0, ATTACH_POLL_MS);
        r = 0;
    }
    return r;
}

/* ---- while it is attached ---- */

static bool iscsi_owns(const struct node_config *config, const char *volume_id, dev_t number)
{
    struct iscsi_note note;

    return iscsi_note_load(config, volume_id, &note, NULL) == 0 && note.device && note.device == number;
}

static int iscsi_check_kept(const struct node_config *config, const char *volume_id, bool published,
                            struct error *err)
{
    struct iscsi_session session;
    struct iscsi_note note;

    (void)published;
    int r = iscsi_note_load(config, volume_id, &note, err);
    if (!r)
        r = iscsi_find(&note, &session, err);
    if (r != E_NOT_FOUND)
        return r;
    error_done(err);
    return error_set(
        err, E_PRECONDITION,
        "volume %s has lost its iSCSI session (the node was fenced, or somebody logged it out): its "
        "I/O ends with an error; stop what uses it, unpublish it from all its paths, and unstage it",
        volume_id);
}

/*
 * iscsid logs a lost session in again for ever, whatever the storage server answers, and I/O waits for it:
 * that an attachment is gone is for us to see, and to end the session for.
 */
static int iscsi_tend(const struct node_config *config, struct storage *storage, const char *volume_id,
                      struct error *err)
{
    _cleanup_error_ struct error why = {0};
    struct iscsi_session session;
    struct iscsi_note note;

    int r = iscsi_check_kept(config, volume_id, true, err);
    if (!r)
        r = iscsi_note_load(config, volume_id, &note, err);
    if (r || iscsi_find(&note, &session, NULL) || session.logged_in)
        return r;
    if (iscsi_attach_stands(storage, volume_id, &note, ATTACH_TEND_CALL_MS, &why) != E_NOT_FOUND)
        return 0;
    log_warning("volume %s: its iSCSI session is ended, and with it all I/O that waits: %s", volume_id,
                error_text(&why));
    return iscsi_detach_kill(config, volume_id, err);
}

static bool iscsi_has_served(const struct node_config *config, const char *volume_id)
{
    (void)config;
    (void)volume_id;
    return true; /* tending it is never put off */
}

const struct attach_way iscsi_attach_way = {
    .start = iscsi_start,
    .wait_ready = iscsi_wait_ready,
    .look = iscsi_look,
    .end = iscsi_detach_end,
    .kill = iscsi_detach_kill,
    .sweep = iscsi_detach_sweep,
    .owns = iscsi_owns,
    .check_kept = iscsi_check_kept,
    .resize = iscsi_resize,
    .restart = iscsi_tend,
    .has_served = iscsi_has_served,
};
