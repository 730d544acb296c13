/* The rules of access modes. Owns nothing: pure functions, any thread, called for every call that carries a
 * capability. */
#include "controller/capability.h"

#include "common/strings.h"

int capability_check(const struct capability *capability, struct error *err)
{
    int mode = capability->mode;

    if (mode <= MOORING__STORAGE__V1__ACCESS_MODE__ACCESS_MODE_UNKNOWN ||
        mode > MOORING__STORAGE__V1__ACCESS_MODE__SINGLE_NODE_MULTI_WRITER)
        return error_set(err, E_INVALID_ARGUMENT, "access mode %d is missing or not known", mode);
    if (capability->block)
        return E_OK;
    if (mode == MOORING__STORAGE__V1__ACCESS_MODE__MULTI_NODE_MULTI_WRITER ||
        mode == MOORING__STORAGE__V1__ACCESS_MODE__MULTI_NODE_SINGLE_WRITER)
        return error_set(
            err, E_INVALID_ARGUMENT,
            "a mounted volume cannot be written on one node while others use it: ext4 and xfs are "
            "file systems of one host. Use a volume of volumeMode Block, or a single-node mode");
    if (*capability->fs_type != '\0' && !str_equal(capability->fs_type, "ext4") &&
        !str_equal(capability->fs_type, "xfs"))
        return error_set(err, E_INVALID_ARGUMENT, "file system type \"%s\" is not served; use ext4 or xfs",
                         capability->fs_type);
    return E_OK;
}

bool capability_readonly(const struct capability *capability)
{
    return capability->mode == MOORING__STORAGE__V1__ACCESS_MODE__SINGLE_NODE_READER_ONLY ||
           capability->mode == MOORING__STORAGE__V1__ACCESS_MODE__MULTI_NODE_READER_ONLY;
}
