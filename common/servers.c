/*
 * The part of a configuration file that names the storage servers. Owns the list, not what it points to.
 * Called by main() before threads start.
 */
#include "common/servers.h"

#include <ctype.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/config.h"
#include "common/id.h"
#include "common/strings.h"

#define UUID_LENGTH 36

static bool uuid_valid(const char *text)
{
    for (size_t i = 0; i < UUID_LENGTH; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;

        if (dash ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
            return false;
    }
    return text[UUID_LENGTH] == '\0';
}

/* "host:port"; whether the host resolves shows when it is called. */
static bool address_valid(const char *address)
{
    const char *colon = strrchr(address, ':');
    char *end;
    long port;

    if (!colon || colon == address || !isdigit((unsigned char)colon[1]))
        return false;
    port = strtol(colon + 1, &end, 10);
    return *end == '\0' && port > 0 && port < 65536;
}

static int read_server(json_t *object, const char *where, struct server_config *ret, struct error *err)
{
    struct server_config server = {0};
    const struct config_key keys[] = {
        {.name = "id", .type = CONFIG_STRING, .required = true, .value = &server.id},
        {.name = "address", .type = CONFIG_STRING, .required = true, .value = &server.address},
        {.name = "pool_uuid", .type = CONFIG_STRING, .required = true, .value = &server.pool_uuid},
        {.name = "topology", .type = CONFIG_OBJECT, .value = &server.topology},
        {.name = "gone", .type = CONFIG_BOOL, .value = &server.gone},
    };
    int r = config_read(object, where, keys, ARRAY_SIZE(keys), err);

    if (r != E_OK)
        return r;
    if (!id_server_valid(server.id))
        return error_set(err, E_INVALID_ARGUMENT,
                         "%s: \"id\" \"%s\" is not a server id: 1-%d of a-z, 0-9 and -, a letter or digit at "
                         "both ends",
                         where, server.id, ID_SERVER_MAX);
    if (!address_valid(server.address))
        return error_set(err, E_INVALID_ARGUMENT, "%s: \"address\" \"%s\" is not host:port", where,
                         server.address);
    if (!uuid_valid(server.pool_uuid))
        return error_set(
            err, E_INVALID_ARGUMENT,
            "%s: \"pool_uuid\" \"%s\" is not a UUID; `mooring pool create` printed it, and pool.json "
            "in the pool holds it",
            where, server.pool_uuid);
    r = server.topology ? config_check_topology(server.topology, where, err) : E_OK;
    if (r == E_OK)
        *ret = server;
    return r;
}

static int compare_ids(const void *a, const void *b)
{
    const struct server_config *left = a;
    const struct server_config *right = b;

    return strcmp(left->id, right->id);
}

static int check_duplicates(const struct server_list *list, const char *where, struct error *err)
{
    for (size_t i = 1; i < list->count; i++) {
        if (str_equal(list->items[i].id, list->items[i - 1].id))
            return error_set(err, E_INVALID_ARGUMENT, "%s: two servers have the id \"%s\"", where,
                             list->items[i].id);
    }
    return E_OK;
}

int server_list_read(json_t *array, const char *where, struct server_list *ret, struct error *err)
{
    struct server_list list = {0};
    int r = E_OK;

    if (json_array_size(array) > SERVERS_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "%s: more than %d servers", where, SERVERS_MAX);
    list.items = calloc(json_array_size(array) + 1, sizeof(*list.items));
    if (!list.items)
        return error_errno(err, ENOMEM, "%s", where);
    for (size_t i = 0; r == E_OK && i < json_array_size(array); i++) {
        _cleanup_free_ char *place = str_format("%s: servers[%zu]", where, i);

        r = read_server(json_array_get(array, i), place ? place : where, &list.items[list.count++], err);
    }
    if (r == E_OK) {
        qsort(list.items, list.count, sizeof(*list.items), compare_ids);
        r = check_duplicates(&list, where, err);
    }
    if (r != E_OK) {
        server_list_done(&list);
        return r;
    }
    *ret = list;
    return E_OK;
}

void server_list_done(struct server_list *list)
{
    free(list->items);
    *list = (struct server_list){0};
}

int server_tls_read(json_t *object, const char *where, const char **ret_ca, const char **ret_cert,
                    const char **ret_key, struct error *err)
{
    _cleanup_free_ char *place = str_format("%s: tls", where);
    const struct config_key keys[] = {
        {.name = "ca", .type = CONFIG_STRING, .required = true, .value = ret_ca},
        {.name = "cert", .type = CONFIG_STRING, .required = true, .value = ret_cert},
        {.name = "key", .type = CONFIG_STRING, .required = true, .value = ret_key},
    };

    return config_read(object, place ? place : where, keys, ARRAY_SIZE(keys), err);
}
