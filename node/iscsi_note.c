/* Reading and writing iscsi.json. RPC threads and the supervisor; called by iscsi_attach.c and
 * iscsi_detach.c. */
#include "node/iscsi_note.h"

#include <errno.h>
#include <fcntl.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "common/strings.h"
#include "node/stage_record.h"

#define NOTE_FORMAT 1
#define NOTE_NAME "iscsi.json"

static int note_open_dir(const struct node_config *config, const char *volume_id, int *ret_fd,
                         struct error *err)
{
    _cleanup_free_ char *path = stage_record_path(config->state_dir, volume_id, NULL);

    if (!path)
        return error_errno(err, ENOMEM, "cannot name the files of volume %s", volume_id);
    *ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*ret_fd < 0 && errno == ENOENT)
        return error_set(err, E_NOT_FOUND, "%s is not there", path);
    return *ret_fd < 0 ? error_errno(err, errno, "cannot open %s", path) : 0;
}

static int note_text(json_t *object, const char *member, char *ret, size_t size, struct error *err)
{
    const char *text;
    int r = record_get_string(object, member, &text, err);

    if (r)
        return r;
    return str_copy(ret, size, text) ? 0 : error_set(err, E_CORRUPT, "\"%s\" is too long", member);
}

int iscsi_note_load(const struct node_config *config, const char *volume_id, struct iscsi_note *ret,
                    struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    _cleanup_fd_ int dir_fd = -1;
    struct iscsi_note note = {0};

    int r = note_open_dir(config, volume_id, &dir_fd, err);
    if (!r)
        r = record_load(dir_fd, NOTE_NAME, NOTE_FORMAT, &object, err);
    if (r)
        return r;
    if ((r = note_text(object, "target_name", note.target_name, sizeof(note.target_name), err)) ||
        (r = note_text(object, "portal", note.portal, sizeof(note.portal), err)) ||
        (r = note_text(object, "chap_name", note.chap_name, sizeof(note.chap_name), err)) ||
        (r = record_get_uint64(object, "epoch", &note.epoch, err)) ||
        (r = record_get_uint64(object, "generation", &note.generation, err)) ||
        (r = record_get_uint64(object, "lun", &note.lun, err)) ||
        (r = record_get_uint64(object, "device", &note.device, err)))
        return error_wrap(err, NOTE_NAME " of volume %s", volume_id);
    *ret = note;
    return 0;
}

int iscsi_note_save(const struct node_config *config, const char *volume_id, const struct iscsi_note *note,
                    struct error *err)
{
    _cleanup_json_ json_t *object = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I}", "target_name", note->target_name, "portal", note->portal,
        "chap_name", note->chap_name, "epoch", (json_int_t)note->epoch, "generation",
        (json_int_t)note->generation, "lun", (json_int_t)note->lun, "device", (json_int_t)note->device);
    _cleanup_fd_ int dir_fd = -1;

    if (!object)
        return error_errno(err, ENOMEM, "cannot write " NOTE_NAME " of volume %s", volume_id);
    int r = note_open_dir(config, volume_id, &dir_fd, err);
    return r ? r : record_save(dir_fd, NOTE_NAME, NOTE_FORMAT, object, 0600, err);
}

int iscsi_note_remove(const struct node_config *config, const char *volume_id, struct error *err)
{
    _cleanup_fd_ int dir_fd = -1;
    int r = note_open_dir(config, volume_id, &dir_fd, err);

    if (r == E_NOT_FOUND) {
        error_done(err);
        return 0;
    }
    return r ? r : io_remove_file(dir_fd, NOTE_NAME, err);
}
