/* What works here, as JSON; and a ublk device that nobody serves any more. Called by main.c. */
#include "datapath/device/attach_check.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/utsname.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "datapath/device/fuse_uring.h"
#include "datapath/device/ublk_attach.h"
#include "datapath/device/ublk_find.h"

#define REMOVE_WAIT_MS 60000u

static int device_usable(const char *path, const char *module, struct error *err)
{
    _cleanup_fd_ int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        return 0;
    if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
        return error_set(err, E_UNIMPLEMENTED, "there is no %s: the module %s is not loaded, or not built",
                         path, module);
    return error_errno(err, errno, "%s", path);
}

static json_t *way(bool usable, const struct error *why)
{
    return json_pack("{s:b, s:s}", "usable", usable, "why", usable ? "" : error_text(why));
}

int attach_check_print(struct error *err)
{
    struct utsname system = {0};
    _cleanup_error_ struct error no_fuse = {0}, no_ublk = {0}, no_uring = {0};
    uname(&system);
    bool fuse = device_usable("/dev/fuse", "fuse", &no_fuse) == 0 &&
                device_usable("/dev/loop-control", "loop", &no_fuse) == 0;
    bool ublk = ublk_attach_check(&no_ublk) == 0;
    bool uring = fuse_uring_check(&no_uring) == 0;
    _cleanup_json_ json_t *object =
        json_pack("{s:s, s:s, s:o, s:o, s:o, s:s, s:i, s:[i]}", "auto",
                  ublk   ? "ublk"
                  : fuse ? "fuse"
                         : "",
                  "kernel", system.release, "fuse", way(fuse, &no_fuse), "ublk", way(ublk, &no_ublk),
                  "fuse_io_uring", way(uring, &no_uring), "version", MOORING_VERSION, "state_format",
                  STATE_FORMAT, "take_over_formats", STATE_TAKE_OVER_FORMAT);
    if (!object || json_dumpf(object, stdout, JSON_INDENT(2)) < 0 || puts("") < 0)
        return error_errno(err, ENOMEM, "cannot print what works here");
    return 0;
}

int attach_check_remove(const struct device_state *state, struct error *err)
{
    return ublk_find_remove(ublk_find_mark(state->volume_id, state->dir), REMOVE_WAIT_MS, err);
}
