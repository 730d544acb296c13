/* Access modes: a table. Called by service.c, stage.c and publish.c. */
#include "node/access_mode.h"

#include <stddef.h>

static const struct {
    const char *name;
    bool reader, one_path, shared_writer;
} modes[ACCESS_MODES] = {
    [ACCESS_MODE_UNKNOWN] = {"UNKNOWN", false, false, false},
    [ACCESS_MODE_SINGLE_NODE_WRITER] = {"SINGLE_NODE_WRITER", false, true, false},
    [ACCESS_MODE_SINGLE_NODE_READER_ONLY] = {"SINGLE_NODE_READER_ONLY", true, true, false},
    [ACCESS_MODE_MULTI_NODE_READER_ONLY] = {"MULTI_NODE_READER_ONLY", true, false, false},
    [ACCESS_MODE_MULTI_NODE_SINGLE_WRITER] = {"MULTI_NODE_SINGLE_WRITER", false, false, true},
    [ACCESS_MODE_MULTI_NODE_MULTI_WRITER] = {"MULTI_NODE_MULTI_WRITER", false, false, true},
    [ACCESS_MODE_SINGLE_NODE_SINGLE_WRITER] = {"SINGLE_NODE_SINGLE_WRITER", false, true, false},
    [ACCESS_MODE_SINGLE_NODE_MULTI_WRITER] = {"SINGLE_NODE_MULTI_WRITER", false, false, false},
};

static size_t access_mode_index(enum access_mode mode)
{
    return (unsigned)mode < ACCESS_MODES ? mode : ACCESS_MODE_UNKNOWN;
}

const char *access_mode_name(enum access_mode mode)
{
    return modes[access_mode_index(mode)].name;
}

bool access_mode_is_reader(enum access_mode mode)
{
    return modes[access_mode_index(mode)].reader;
}

bool access_mode_is_one_path(enum access_mode mode)
{
    return modes[access_mode_index(mode)].one_path;
}

bool access_mode_is_shared_writer(enum access_mode mode)
{
    return modes[access_mode_index(mode)].shared_writer;
}
