/* Any bytes as a record's file: it is refused with words, or its members can be read. */
#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/record.h"
#include "common/strings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_members(json_t *object)
{
    const char *member, *text;
    json_t *value, *array;
    uint64_t number;
    bool truth;

    json_object_foreach(object, member, value)
    {
        _cleanup_error_ struct error err = {0};

        if (record_get_string(object, member, &text, &err) == E_OK)
            assert(json_is_string(value) && strlen(text) == json_string_length(value));
        else
            assert(err.code == E_CORRUPT && err.text);
        record_get_uint64(object, member, &number, &err);
        record_get_bool(object, member, &truth, &err);
        record_get_array(object, member, &array, &err);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_fd_ int fd = memfd_create("record", MFD_CLOEXEC);
    _cleanup_error_ struct error err = {0};
    _cleanup_json_ json_t *object = NULL;
    char path[64];
    int r;

    if (fd < 0 || io_write_full(fd, data, size) < 0)
        return 0;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    r = record_load(AT_FDCWD, path, 3, &object, &err);
    if (r == E_OK) {
        assert(json_integer_value(json_object_get(object, "format")) <= 3);
        read_members(object);
    } else {
        assert(r == E_CORRUPT && err.text && !object);
    }
    return 0;
}
