/* What CSI itself says of a plugin's configuration. Pure but for the environment; called by main() before
 * threads start. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/config.h"
#include "common/strings.h"

#define SEGMENT_MAX 63

const char *config_csi_endpoint(const char *configured)
{
    const char *endpoint = getenv("CSI_ENDPOINT");

    return endpoint && *endpoint != '\0' ? endpoint : configured;
}

/* A letter or digit at both ends, and extra within. */
static bool topology_word(const char *text, size_t length, const char *extra, bool lower)
{
    if (length == 0 || length > SEGMENT_MAX || !isalnum((unsigned char)text[0]) ||
        !isalnum((unsigned char)text[length - 1]))
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];

        if ((!isalnum(c) && !strchr(extra, c)) || c > 0x7f || (lower && isupper(c)))
            return false;
    }
    return true;
}

/* [prefix/]name: the prefix is a domain name in lower case. */
static bool topology_key(const char *key)
{
    const char *slash = strchr(key, '/');
    const char *name = slash ? slash + 1 : key;

    if (slash && !topology_word(key, (size_t)(slash - key), "-.", true))
        return false;
    return topology_word(name, strlen(name), "-_.", false);
}

static bool topology_twice(json_t *topology, const char *key)
{
    const char *other;
    json_t *value;

    json_object_foreach(topology, other, value)
    {
        if (!str_equal(key, other) && strcasecmp(key, other) == 0)
            return true;
    }
    return false;
}

int config_check_topology(json_t *topology, const char *where, struct error *err)
{
    const char *key;
    json_t *value;

    json_object_foreach(topology, key, value)
    {
        const char *segment = json_string_value(value);

        if (!topology_key(key))
            return error_set(
                err, E_INVALID_ARGUMENT,
                "%s: topology: \"%s\" is no key: it must be a name, or prefix/name, each of up to 63 "
                "letters, digits and - . (in the name _ too), a letter or digit at both ends",
                where, key);
        if (topology_twice(topology, key))
            return error_set(err, E_INVALID_ARGUMENT,
                             "%s: topology: \"%s\" is there twice: letter case makes no difference", where,
                             key);
        if (!segment || !topology_word(segment, strlen(segment), "-_.", false))
            return error_set(
                err, E_INVALID_ARGUMENT,
                "%s: topology: \"%s\" must be a string of up to 63 letters, digits and - _ ., a letter or "
                "digit at both ends",
                where, key);
    }
    return E_OK;
}
