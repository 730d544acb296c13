/* Wall time for people. Without state: any thread, any caller. */
#include "common/time.h"

#include "common/strings.h"

void time_format_utc(time_t when, char ret_text[24])
{
    struct tm parts;

    /* A year of more than four digits does not fit, and no clock of ours shows one. */
    if (!gmtime_r(&when, &parts) || strftime(ret_text, 24, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        str_copy(ret_text, 24, "invalid");
}
