/* Sizes as people write and read them. Without state: any thread, any caller. */
#include "common/size.h"

#include <stdio.h>

#include "common/cleanup.h"
#include "common/strings.h"

static const struct {
    const char *name;
    uint64_t bytes;
} units[] = {{"", 1}, {"KiB", KIB}, {"MiB", MIB}, {"GiB", GIB}, {"TiB", TIB}};

int size_parse(const char *text, uint64_t *ret_bytes, struct error *err)
{
    uint64_t number, bytes;
    const char *rest;

    if (str_parse_uint64(text, &number, &rest)) {
        for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
            if (str_equal(rest, units[i].name) && !__builtin_mul_overflow(number, units[i].bytes, &bytes)) {
                *ret_bytes = bytes;
                return E_OK;
            }
        }
    }
    return error_set(
        err, E_INVALID_ARGUMENT,
        "\"%s\" is not a size: give a whole number below 2^64 bytes, bare or with KiB, MiB, GiB or "
        "TiB, such as 10GiB",
        text);
}

void size_format(uint64_t bytes, char ret_text[16])
{
    size_t unit = 0;

    while (unit + 1 < ARRAY_SIZE(units) && bytes >= units[unit + 1].bytes)
        unit++;
    if (unit == 0)
        snprintf(ret_text, 16, "%u B", (unsigned)bytes);
    else
        snprintf(ret_text, 16, "%.1f %s", (double)bytes / (double)units[unit].bytes, units[unit].name);
}
