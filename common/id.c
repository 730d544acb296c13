/*
 * Shapes of identifiers, checked here before a string of someone else becomes part of a path, an IQN or a
 * record. Without state: any thread, any caller.
 */
#include "common/id.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "common/io.h"
#include "common/strings.h"

#define OBJECT_DIGITS 16
#define SNAPSHOT_MARK "s-"
#define GROUP_MARK "g-"

static bool is_lower_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_hex(const char *text, size_t length)
{
    return strlen(text) == length && strspn(text, "0123456789abcdef") == length;
}

/* length bytes of id: letters, digits and the characters of extra, but those neither first nor last. */
static bool name_valid(const char *id, size_t length, size_t limit, const char *extra)
{
    if (length == 0 || length > limit || !is_lower_or_digit(id[0]) || !is_lower_or_digit(id[length - 1]))
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!is_lower_or_digit(id[i]) && !strchr(extra, id[i]))
            return false;
    }
    return true;
}

bool id_server_valid(const char *id)
{
    return name_valid(id, strnlen(id, ID_SERVER_MAX + 1), ID_SERVER_MAX, "-");
}

bool id_node_valid(const char *id)
{
    return name_valid(id, strnlen(id, ID_NODE_MAX + 1), ID_NODE_MAX, ".-");
}

/* <server id> "." <mark> <digits> */
static bool object_valid(const char *id, const char *mark)
{
    const char *dot = strchr(id, '.');

    return dot && name_valid(id, (size_t)(dot - id), ID_SERVER_MAX, "-") && str_starts_with(dot + 1, mark) &&
           is_hex(dot + 1 + strlen(mark), OBJECT_DIGITS);
}

bool id_volume_valid(const char *id)
{
    return object_valid(id, "");
}

bool id_snapshot_valid(const char *id)
{
    return object_valid(id, SNAPSHOT_MARK);
}

bool id_group_valid(const char *id)
{
    return str_starts_with(id, GROUP_MARK) && is_hex(id + strlen(GROUP_MARK), OBJECT_DIGITS);
}

bool id_boot_valid(const char *id)
{
    return is_hex(id, ID_BOOT_LENGTH);
}

static void object_server(const char *id, char ret_server[ID_SERVER_MAX + 1])
{
    size_t length = strcspn(id, ".");

    memcpy(ret_server, id, length);
    ret_server[length] = '\0';
}

int id_volume_server(const char *volume_id, char ret_server[ID_SERVER_MAX + 1], struct error *err)
{
    if (!id_volume_valid(volume_id))
        return error_set(err, E_INVALID_ARGUMENT,
                         "\"%.*s\" is not a volume id: a volume id is <storage server>.<16 hex digits>",
                         ID_VOLUME_MAX + 1, volume_id);
    object_server(volume_id, ret_server);
    return E_OK;
}

int id_snapshot_server(const char *snapshot_id, char ret_server[ID_SERVER_MAX + 1], struct error *err)
{
    if (!id_snapshot_valid(snapshot_id))
        return error_set(err, E_INVALID_ARGUMENT,
                         "\"%.*s\" is not a snapshot id: a snapshot id is <storage server>." SNAPSHOT_MARK
                         "<16 hex digits>",
                         ID_SNAPSHOT_MAX + 1, snapshot_id);
    object_server(snapshot_id, ret_server);
    return E_OK;
}

/* digits lower-case hex digits and a NUL; digits is even. */
static int random_hex(char *ret, size_t digits)
{
    unsigned char bytes[ID_SECRET_LENGTH / 2];
    int r;

    assert(digits / 2 <= sizeof(bytes));
    r = io_random(bytes, digits / 2);
    if (r < 0)
        return r;
    for (size_t i = 0; i < digits / 2; i++)
        snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
    explicit_bzero(bytes, sizeof(bytes));
    return 0;
}

int id_volume_new(const char *server_id, char ret_id[ID_VOLUME_MAX + 1])
{
    assert(id_server_valid(server_id));
    int length = snprintf(ret_id, ID_VOLUME_MAX + 1, "%s.", server_id);
    return random_hex(ret_id + length, OBJECT_DIGITS);
}

int id_snapshot_new(const char *server_id, char ret_id[ID_SNAPSHOT_MAX + 1])
{
    assert(id_server_valid(server_id));
    int length = snprintf(ret_id, ID_SNAPSHOT_MAX + 1, "%s." SNAPSHOT_MARK, server_id);
    return random_hex(ret_id + length, OBJECT_DIGITS);
}

int id_group_new(char ret_id[ID_GROUP_MAX + 1])
{
    int length = snprintf(ret_id, ID_GROUP_MAX + 1, GROUP_MARK);
    return random_hex(ret_id + length, OBJECT_DIGITS);
}

int id_boot_new(char ret_id[ID_BOOT_LENGTH + 1])
{
    return random_hex(ret_id, ID_BOOT_LENGTH);
}

int id_secret_new(char ret_secret[ID_SECRET_LENGTH + 1])
{
    return random_hex(ret_secret, ID_SECRET_LENGTH);
}

void id_volume_iqn(const char *volume_id, char ret_iqn[ID_IQN_MAX + 1])
{
    assert(id_volume_valid(volume_id));
    snprintf(ret_iqn, ID_IQN_MAX + 1, ID_IQN_PREFIX "%s", volume_id);
}

void id_node_iqn(const char *node_id, char ret_iqn[ID_IQN_MAX + 1])
{
    assert(id_node_valid(node_id));
    snprintf(ret_iqn, ID_IQN_MAX + 1, ID_IQN_PREFIX "node:%s", node_id);
}

const char *id_iqn_volume(const char *iqn)
{
    const char *volume_id;

    if (!str_starts_with(iqn, ID_IQN_PREFIX))
        return NULL;
    volume_id = iqn + strlen(ID_IQN_PREFIX);
    return id_volume_valid(volume_id) ? volume_id : NULL;
}

void id_chap_name(const char *volume_id, uint64_t epoch, uint64_t generation,
                  char ret_name[ID_CHAP_NAME_MAX + 1])
{
    assert(id_volume_valid(volume_id));
    snprintf(ret_name, ID_CHAP_NAME_MAX + 1, "%s/%" PRIu64 "/%" PRIu64, volume_id, epoch, generation);
}

/* One spelling per number: no leading zero. */
static bool parse_number(const char *text, uint64_t *ret, const char **ret_rest)
{
    return (text[0] != '0' || text[1] < '0' || text[1] > '9') && str_parse_uint64(text, ret, ret_rest);
}

bool id_chap_name_parse(const char *name, char ret_volume_id[ID_VOLUME_MAX + 1], uint64_t *ret_epoch,
                        uint64_t *ret_generation)
{
    size_t length = strcspn(name, "/");
    char volume_id[ID_VOLUME_MAX + 1];
    uint64_t epoch, generation;
    const char *rest;

    if (name[length] != '/' || length > ID_VOLUME_MAX)
        return false;
    memcpy(volume_id, name, length);
    volume_id[length] = '\0';
    if (!id_volume_valid(volume_id) || !parse_number(name + length + 1, &epoch, &rest) || *rest != '/' ||
        !parse_number(rest + 1, &generation, &rest) || *rest != '\0')
        return false;
    memcpy(ret_volume_id, volume_id, length + 1);
    *ret_epoch = epoch;
    *ret_generation = generation;
    return true;
}
