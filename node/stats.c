/* NodeGetVolumeStats: statvfs(3) of a mounted volume, the size of a block one. Takes no volume lock. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"
#include "node/node.h"

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

static int stats_read_filesystem(const char *path, struct stats *ret, struct error *err)
{
    struct statvfs fs;

    if (statvfs(path, &fs) < 0)
        return error_errno(err, errno, "cannot read the usage of %s", path);
    int64_t unit = (int64_t)fs.f_frsize;
    ret->bytes = (struct stats_usage){
        .total = (int64_t)fs.f_blocks * unit,
        .used = (int64_t)(fs.f_blocks - fs.f_bfree) * unit,
        .available = (int64_t)fs.f_bavail * unit,
    };
    ret->inodes = (struct stats_usage){
        .total = (int64_t)fs.f_files,
        .used = (int64_t)(fs.f_files - fs.f_ffree),
        .available = (int64_t)fs.f_favail,
    };
    ret->has_inodes = true;
    return 0;
}

int stats_read(struct node *node, const char *volume_id, const char *path, struct stats *ret,
               struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};
    struct stats stats = {0};
    struct stat status;

    int r = stage_record_load(node->config.state_dir, volume_id, &record, err);
    if (r)
        return r;
    if (!stage_record_has_path(&record, path))
        return error_set(err, E_NOT_FOUND, "volume %s is neither staged nor published at %s", volume_id,
                         path);
    if (stat(path, &status) < 0)
        return errno == ENOENT ? error_set(err, E_NOT_FOUND, "%s is not there", path)
                               : error_errno(err, errno, "cannot look at %s", path);
    r = S_ISBLK(status.st_mode) ? stats_read_block(status.st_rdev, &stats, err)
                                : stats_read_filesystem(path, &stats, err);
    if (!r)
        *ret = stats;
    return r;
}
