/* Ending a volume's session of the kernel's initiator: in good order, or at any price. Called by attach.c and
 * iscsi_attach.c, on RPC threads and the supervisor's. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/iscsi_admin.h"
#include "node/iscsi_attach.h"
#include "node/iscsi_note.h"
#include "node/iscsi_sysfs.h"

#define DETACH_POLL_MS 20
#define DETACH_KILL_MS 15000
#define DETACH_SESSIONS_MAX 16

/* ---- at any price ---- */

struct detach_sessions {
    const struct node_config *config;
    const char *volume_id;
    struct iscsi_session list[DETACH_SESSIONS_MAX];
    size_t count;
};

static bool detach_collect(const struct iscsi_session *session, void *context)
{
    struct detach_sessions *sessions = context;

    if (iscsi_attach_is_ours(sessions->config, sessions->volume_id, session))
        sessions->list[sessions->count++] = *session;
    return sessions->count < DETACH_SESSIONS_MAX;
}

/* Its disk goes with it. */
static int detach_log_out(const struct iscsi_session *session, uint64_t deadline_ms, struct error *err)
{
    struct iscsi_session now;

    int r = iscsi_admin_logout(session->sid, deadline_ms, err);
    if (r &&
        iscsi_sysfs_find(ISCSI_SYSFS, session->target_name, session->chap_name, &now, NULL) != E_NOT_FOUND)
        return r;
    error_done(err);
    while (iscsi_sysfs_find(ISCSI_SYSFS, session->target_name, session->chap_name, &now, NULL) == 0 &&
           now.sid == session->sid) {
        if (time_now_ms() >= deadline_ms)
            return error_set(err, E_DEADLINE, "session %u is still there after its logout", session->sid);
        poll(NULL, 0, DETACH_POLL_MS);
    }
    return 0;
}

int iscsi_detach_kill(const struct node_config *config, const char *volume_id, struct error *err)
{
    struct detach_sessions sessions = {.config = config, .volume_id = volume_id};
    uint64_t deadline_ms = time_now_ms() + DETACH_KILL_MS;
    char target_name[ID_IQN_MAX + 1];

    id_volume_iqn(volume_id, target_name);
    int r = iscsi_sysfs_each(ISCSI_SYSFS, target_name, detach_collect, &sessions, err);
    for (size_t i = 0; !r && i < sessions.count; i++)
        r = detach_log_out(&sessions.list[i], deadline_ms, err);
    return r ? error_wrap(err, "volume %s", volume_id) : 0;
}

int iscsi_detach_sweep(const struct node_config *config, const char *volume_id, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + DETACH_KILL_MS;
    struct iscsi_note note;

    int r = iscsi_detach_kill(config, volume_id, err);
    if (r)
        return r;
    r = iscsi_note_load(config, volume_id, &note, err);
    if (r == E_NOT_FOUND) {
        error_done(err);
        return 0;
    }
    if (!r && note.portal[0])
        r = iscsi_admin_forget(note.target_name, note.portal, deadline_ms, err);
    if (!r)
        r = iscsi_note_remove(config, volume_id, err);
    return r ? error_wrap(err, "volume %s", volume_id) : 0;
}

/* ---- in good order ---- */

/*
 * In a process of its own, which a storage server that goes away meanwhile may keep in the kernel: nobody's
 * child, so that it leaves nothing when it ends at last. It executes nothing, so what else mooring-node has
 * open is closed here: the lock on its state directory, those on others' pid files, and pipes whose end other
 * calls wait for.
 */
static _Noreturn void detach_flush_child(const char *path, int report_fd)
{
    int report = dup2(report_fd, STDERR_FILENO + 1), problem = 0;

    if (report < 0 || close_range((unsigned)report + 1, ~0U, 0) < 0)
        problem = errno;
    int fd = problem ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (!problem && (fd < 0 || fsync(fd) < 0))
        problem = errno;
    (void)!write(report < 0 ? report_fd : report, &problem, sizeof(problem));
    _exit(0);
}

static int detach_fork_flush(const char *path, int report_fd, struct error *err)
{
    int status = 0;
    pid_t middle = fork();

    if (middle < 0)
        return error_errno(err, errno, "cannot flush %s", path);
    if (middle == 0) {
        pid_t pid = fork();
        if (pid == 0)
            detach_flush_child(path, report_fd);
        _exit(pid < 0 ? 1 : 0);
    }
    while (waitpid(middle, &status, 0) < 0 && errno == EINTR)
        continue;
    return status ? error_errno(err, EAGAIN, "cannot flush %s", path) : 0;
}

int iscsi_detach_flush(const char *path, uint64_t deadline_ms, struct error *err)
{
    uint64_t now_ms = time_now_ms();
    int fds[2], problem = EIO;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_errno(err, errno, "cannot make a pipe");
    _cleanup_fd_ int read_fd = fds[0];
    _cleanup_fd_ int write_fd = fds[1];
    int r = detach_fork_flush(path, write_fd, err);
    if (r)
        return r;
    write_fd = fd_close(write_fd);
    struct pollfd ended = {.fd = read_fd, .events = POLLIN};
    if (poll(&ended, 1, deadline_ms > now_ms ? (int)(deadline_ms - now_ms) : 0) == 0)
        return error_set(err, E_DEADLINE,
                         "%s still has writes that its storage server has not taken: try again", path);
    if (io_read_full(read_fd, &problem, sizeof(problem)) || problem)
        return error_errno(err, problem, "cannot flush %s", path);
    return 0;
}

/* What is left in the page cache reaches the storage server; E_PRECONDITION while something has the disk for
 * itself. */
static int detach_settle(const struct iscsi_session *session, const struct iscsi_note *note,
                         const char *volume_id, uint64_t deadline_ms, struct error *err)
{
    struct iscsi_disk disk;

    int r = iscsi_sysfs_disk(ISCSI_SYSFS, session, (uint32_t)note->lun, volume_id, &disk, err);
    if (r == E_NOT_FOUND || r == E_PRECONDITION) { /* no disk, or not one that we would have written to */
        error_done(err);
        return 0;
    }
    if (r)
        return r;
    _cleanup_free_ char *path = str_format("/dev/%s", disk.name);
    _cleanup_fd_ int fd = path ? open(path, O_RDONLY | O_EXCL | O_CLOEXEC) : -1;
    if (!path)
        return error_errno(err, ENOMEM, "cannot flush a disk");
    if (fd < 0 && errno == EBUSY)
        return error_set(err, E_PRECONDITION, "%s is in use: end what has it, then try again", path);
    fd = fd_close(fd);
    return iscsi_detach_flush(path, deadline_ms, err);
}

/* 0: nothing keeps the session from being ended. */
static int detach_prepare(const struct node_config *config, struct storage *storage, const char *volume_id,
                          uint64_t deadline_ms, struct error *err)
{
    struct iscsi_session session;
    struct iscsi_note note;
    uint64_t now_ms = time_now_ms();

    int r = iscsi_note_load(config, volume_id, &note, err);
    if (!r)
        r = iscsi_sysfs_find(ISCSI_SYSFS, note.target_name, note.chap_name, &session, err);
    if (r == E_NOT_FOUND) {
        error_done(err);
        return 0;
    }
    if (r || session.logged_in)
        return r ? r : detach_settle(&session, &note, volume_id, deadline_ms, err);
    r = iscsi_attach_stands(storage, volume_id, &note,
                            deadline_ms > now_ms ? (unsigned)(deadline_ms - now_ms) : 1, err);
    if (r == E_NOT_FOUND) {
        log_warning("volume %s: what was not written to its storage server is dropped: %s", volume_id,
                    error_text(err));
        error_done(err);
        return 0;
    }
    return r ? r
             : error_set(
                   err, E_UNAVAILABLE,
                   "session %u has no connection to %s: what was written may not be there yet; try again",
                   session.sid, note.portal);
}

int iscsi_detach_end(const struct node_config *config, struct storage *storage, const char *volume_id,
                     unsigned timeout_ms, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + timeout_ms;

    int r = detach_prepare(config, storage, volume_id, deadline_ms, err);
    return r ? error_wrap(err, "volume %s", volume_id) : iscsi_detach_sweep(config, volume_id, err);
}
