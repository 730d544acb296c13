/*
 * A volume of "iscsi" that has grown: the kernel looks at its disk again. The look sends commands, which wait
 * while the storage server is away: it is made in a program that nobody waits for longer than he may. Called
 * by attach.c.
 */
#include "node/iscsi_resize.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/bounded.h"
#include "node/iscsi_attach.h"

#define LOOK_MS 2000
#define PAUSE_MS 200

static uint64_t iscsi_size_bytes(dev_t number)
{
    _cleanup_free_ char *path = str_format("/sys/dev/block/%u:%u/size", major(number), minor(number));
    _cleanup_free_ char *text = NULL;

    if (!path || io_read_file(path, 64, &text, NULL, NULL))
        return 0;
    return strtoull(text, NULL, 10) * 512;
}

static int iscsi_rescan(dev_t number, const char *volume_id, uint64_t deadline_ms, struct error *err)
{
    _cleanup_free_ char *path =
        str_format("/sys/dev/block/%u:%u/device/rescan", major(number), minor(number));
    const char *argv[] = {"sh", "-c", "echo 1 >\"$0\"", path, NULL};
    uint64_t now_ms = time_now_ms(), left_ms = deadline_ms > now_ms ? deadline_ms - now_ms : 1;
    _cleanup_free_ char *output = NULL;
    int status;

    if (!path)
        return error_errno(err, ENOMEM, "cannot look at a disk again");
    int r =
        bounded_run(volume_id, argv, left_ms < LOOK_MS ? (unsigned)left_ms : LOOK_MS, &status, &output, err);
    if (!r && status)
        r = error_set(err, E_UNAVAILABLE, "the kernel cannot look at the disk again: %s", output);
    return r;
}

int iscsi_resize(const struct node_config *config, const char *volume_id, uint64_t size_bytes,
                 uint64_t deadline_ms, struct error *err)
{
    for (;;) {
        _cleanup_attach_device_ struct attach_device device = {0};
        _cleanup_error_ struct error why = {0};
        struct stat status;

        int r = iscsi_attach_way.look(config, volume_id, &device, &why);
        if (!r && stat(device.path, &status) < 0)
            r = error_errno(&why, errno, "cannot look at %s", device.path);
        if (!r && iscsi_size_bytes(status.st_rdev) >= size_bytes)
            return 0;
        if (!r)
            r = iscsi_rescan(status.st_rdev, volume_id, deadline_ms, &why);
        if (!r && iscsi_size_bytes(status.st_rdev) >= size_bytes)
            return 0;
        if (!r)
            r = error_set(&why, E_UNAVAILABLE, "%s has %llu of %llu bytes", device.path,
                          (unsigned long long)iscsi_size_bytes(status.st_rdev),
                          (unsigned long long)size_bytes);
        if ((r != E_UNAVAILABLE && r != E_DEADLINE) || time_now_ms() >= deadline_ms) {
            error_move(err, &why);
            return error_wrap(err, "volume %s", volume_id);
        }
        poll(NULL, 0, PAUSE_MS);
    }
}
