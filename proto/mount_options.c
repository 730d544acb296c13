/* The mount options that are not let through, by name. Owns nothing; any thread. Called by
 * controller/parameters.c, controller/request.c and node/service.c. */
#include "proto/mount_options.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#include "common/cleanup.h"

static const char *const refused[] = {"bind", "loop", "move", "offset", "rbind", "remount", "sizelimit"};

/* libmount takes blanks before a name, and a value in quotes, which may hold commas. */
static const char *end_of(const char *at)
{
    bool quoted = false;

    for (; *at != '\0' && (quoted || *at != ','); at++)
        quoted = quoted != (*at == '"');
    return at;
}

static bool is_refused(const char *name, size_t length)
{
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        if (strlen(refused[i]) == length && strncmp(refused[i], name, length) == 0)
            return true;
    }
    return false;
}

int mount_options_check(const char *options, struct error *err)
{
    for (const char *at = options; *at != '\0';) {
        const char *end = end_of(at);

        while (isspace((unsigned char)*at))
            at++;
        if (is_refused(at, strcspn(at, "=, \t\n")))
            return error_set(
                err, E_INVALID_ARGUMENT,
                "mount option \"%.*s\" is not for a volume: bind, loop, move, offset, rbind, remount and "
                "sizelimit mount something else than its device",
                (int)(end - at), at);
        at = *end == ',' ? end + 1 : end;
    }
    return E_OK;
}
