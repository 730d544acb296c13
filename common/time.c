/* Wall time for people, and lengths of time that they write. Without state: any thread, any caller. */
#include "common/time.h"

#include "common/strings.h"

#define TIME_MAX_MS (UINT64_C(366) * 24 * 3600 * 1000)

bool time_parse_ms(const char *text, uint64_t *ret_ms)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}, {"", 1000}};
    const char *rest;
    uint64_t value;

    if (!str_parse_uint64(text, &value, &rest))
        return false;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (!str_equal(rest, units[i].name))
            continue;
        if (value > TIME_MAX_MS / units[i].ms)
            return false;
        *ret_ms = value * units[i].ms;
        return true;
    }
    return false;
}

void time_format_utc(time_t when, char ret_text[24])
{
    struct tm parts;

    /* A year of more than four digits does not fit, and no clock of ours shows one. */
    if (!gmtime_r(&when, &parts) || strftime(ret_text, 24, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        str_copy(ret_text, 24, "invalid");
}
