/* Classes of login failures. Pure; called by initiator.c. */
#include "datapath/device/login_status.h"

#include <stdlib.h>
#include <string.h>

#define STATUS_AUTHORIZATION_FAILURE 0x0202
#define STATUS_TARGET_REMOVED 0x0204

static long status_number(const char *text)
{
    const char *status = strstr(text, "Status: ");
    const char *number = status ? strrchr(status, '(') : NULL;
    return number ? strtol(number + 1, NULL, 10) : -1;
}

enum login_outcome login_status_classify(const char *text)
{
    long status = text ? status_number(text) : -1;
    if (status == STATUS_AUTHORIZATION_FAILURE || status == STATUS_TARGET_REMOVED)
        return LOGIN_FATAL;
    if (status > 0 || !text)
        return LOGIN_WAIT;
    if (strstr(text, "Authorization failure") || strstr(text, "Target removed"))
        return LOGIN_FATAL;
    return LOGIN_WAIT;
}
