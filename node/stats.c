/* NodeGetVolumeStats: statfs(2) of a mounted volume, the size of a block one. Takes no volume lock, and ends
 * in time whatever the storage does. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/size.h"
#include "common/strings.h"
#include "node/attach.h"
#include "node/bounded.h"
#include "node/mount.h"
#include "node/node.h"

#define STATS_TIMEOUT_MS 3000u

/* By sysfs: opening a device may wait for its storage, and stats must not. */
static int stats_read_block(dev_t number, struct stats *ret, struct error *err)
{
    _cleanup_free_ char *path = str_format("/sys/dev/block/%u:%u/size", major(number), minor(number));
    _cleanup_free_ char *text = NULL;

    if (!path)
        return error_errno(err, ENOMEM, "cannot tell a device's size");
    int r = io_read_file(path, 64, &text, NULL, err);
    if (r)
        return r;
    ret->bytes.total = strtoll(text, NULL, 10) * 512;
    return 0;
}

/* The fields of stat(1), in its words: fragment size; blocks in all, free, for users; inodes in all, free. */
static int stats_parse(const char *text, struct stats *ret, struct error *err)
{
    uint64_t numbers[6];

    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        if (!str_parse_uint64(text + (i && *text == ' '), &numbers[i], &text))
            return error_set(err, E_UNAVAILABLE, "cannot read the usage of a file system: %s", text);
    }
    uint64_t unit = numbers[0], blocks = numbers[1], free = numbers[2], inodes = numbers[4];
    ret->bytes = (struct stats_usage){
        .total = (int64_t)(blocks * unit),
        .used = (int64_t)((blocks - free) * unit),
        .available = (int64_t)(numbers[3] * unit),
    };
    ret->inodes = (struct stats_usage){
        .total = (int64_t)inodes,
        .used = (int64_t)(inodes - numbers[5]),
        .available = (int64_t)numbers[5],
    };
    ret->has_inodes = true;
    return 0;
}

/* statfs(2) may wait for a file system whose storage hangs, and nothing ends it: so another process asks. */
static int stats_read_filesystem(const char *volume_id, const char *path, unsigned timeout_ms,
                                 struct stats *ret, struct error *err)
{
    const char *argv[] = {"stat", "--file-system", "--format=%S %b %f %a %c %d", path, NULL};
    _cleanup_free_ char *output = NULL;
    int status;

    int r = bounded_run(volume_id, argv, MIN(timeout_ms, STATS_TIMEOUT_MS), &status, &output, err);
    if (!r && status)
        return error_set(err, E_UNAVAILABLE, "cannot read the usage of %s: %s", path, output);
    return r ? r : stats_parse(output, ret, err);
}

/* What is mounted there: the directory alone would show the host's own disk. */
static int stats_check_mounted(struct node *node, const char *volume_id, const char *path, struct error *err)
{
    _cleanup_mount_info_ struct mount_info mounted = {0};

    int r = mount_find(path, &mounted, err);
    if (!r && !attach_owns(&node->config, volume_id, mounted.device))
        r = error_set(err, E_NOT_FOUND, "%s (%s) is mounted at %s, not volume %s", mounted.source,
                      mounted.fs_type, path, volume_id);
    return r;
}

/* The path is of a bind mount of the device node, on the host's own file system. */
static int stats_read_device(struct node *node, const char *volume_id, const char *path, struct stats *ret,
                             struct error *err)
{
    _cleanup_attach_device_ struct attach_device device = {0};
    struct stat status;

    int r = stat(path, &status) == 0 ? 0
            : errno == ENOENT        ? error_set(err, E_NOT_FOUND, "%s is not there", path)
                                     : error_errno(err, errno, "cannot look at %s", path);
    if (!r && !S_ISBLK(status.st_mode)) { /* its staging path has no device node */
        r = attach_find(&node->config, volume_id, &device, err);
        if (!r && stat(device.path, &status) < 0)
            r = error_errno(err, errno, "cannot look at %s", device.path);
    }
    return r ? r : stats_read_block(status.st_rdev, ret, err);
}

int stats_read(struct node *node, const char *volume_id, const char *path, unsigned timeout_ms,
               struct stats *ret, struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};
    struct stats stats = {0};

    int r = stage_record_load(node->config.state_dir, volume_id, &record, err);
    if (r)
        return r;
    if (!stage_record_has_path(&record, path))
        return error_set(err, E_NOT_FOUND, "volume %s is neither staged nor published at %s", volume_id,
                         path);
    if (record.block) {
        r = stats_read_device(node, volume_id, path, &stats, err);
    } else {
        r = stats_check_mounted(node, volume_id, path, err);
        if (!r)
            r = stats_read_filesystem(volume_id, path, timeout_ms, &stats, err);
    }
    if (!r)
        *ret = stats;
    return r;
}
