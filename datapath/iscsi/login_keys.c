/*
 * Reads the keys of a login request: who logs in to what, the choice of authentication, CHAP's values; the
 * rest goes to negotiate. Owns nothing; runs on the connection's loop. Called by login.
 */
#include "datapath/iscsi/login_keys.h"

#include <string.h>

#include "common/strings.h"

#define bad iscsi_login_keys_bad

struct login_key {
    const char *name;
    enum iscsi_login_status (*read)(struct iscsi_login *login, const char *value);
    bool leading;     /* legal in the first request only */
    bool long_binary; /* may exceed ISCSI_TEXT_VALUE_MAX */
};

/* An iSCSI name: its type's prefix, no blank or control character. ASCII letters become lower case, as names
 * compare without regard to it. */
static bool copy_name(char ret_name[ISCSI_NAME_MAX + 1], const char *value)
{
    if (!str_copy(ret_name, ISCSI_NAME_MAX + 1, value))
        return false;
    for (char *at = ret_name; *at != '\0'; at++) {
        if (*at >= 'A' && *at <= 'Z')
            *at = (char)(*at - 'A' + 'a');
        else if ((unsigned char)*at <= ' ' || *at == ',')
            return false;
    }
    return str_starts_with(ret_name, "iqn.") || str_starts_with(ret_name, "eui.") ||
           str_starts_with(ret_name, "naa.");
}

static enum iscsi_login_status read_initiator_name(struct iscsi_login *login, const char *value)
{
    if (!copy_name(login->initiator_name, value))
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "InitiatorName is not an iSCSI name");
    return ISCSI_LOGIN_SUCCESS;
}

static enum iscsi_login_status read_initiator_alias(struct iscsi_login *login, const char *value)
{
    if (!str_copy(login->initiator_alias, sizeof(login->initiator_alias), value))
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "InitiatorAlias is too long");
    return ISCSI_LOGIN_SUCCESS;
}

static enum iscsi_login_status read_target_name(struct iscsi_login *login, const char *value)
{
    if (!copy_name(login->target_name, value))
        return bad(login, ISCSI_LOGIN_NOT_FOUND, "TargetName is not an iSCSI name");
    return ISCSI_LOGIN_SUCCESS;
}

static enum iscsi_login_status read_session_type(struct iscsi_login *login, const char *value)
{
    login->discovery = str_equal(value, "Discovery");
    if (!login->discovery && !str_equal(value, "Normal"))
        return bad(login, ISCSI_LOGIN_SESSION_TYPE_UNSUPPORTED,
                   "SessionType is neither Normal nor Discovery");
    login->negotiation.discovery = login->discovery;
    return ISCSI_LOGIN_SUCCESS;
}

/* The initiator's order is its preference, within what is allowed. */
static enum iscsi_login_status read_auth_method(struct iscsi_login *login, const char *value)
{
    bool none_allowed = !iscsi_login_keys_chap_required(login);
    if (login->step != ISCSI_LOGIN_STEP_AUTH_METHOD)
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "AuthMethod outside its place");
    login->method = ISCSI_LOGIN_METHOD_NOT_ACCEPTED;
    const char *item;
    size_t length;
    while (iscsi_text_list_next(&value, &item, &length)) {
        if (length != 4)
            continue;
        if (memcmp(item, "CHAP", 4) == 0)
            login->method = ISCSI_LOGIN_METHOD_CHAP;
        else if (memcmp(item, "None", 4) == 0 && none_allowed)
            login->method = ISCSI_LOGIN_METHOD_NONE;
        if (login->method != ISCSI_LOGIN_METHOD_NOT_ACCEPTED)
            break;
    }
    return ISCSI_LOGIN_SUCCESS;
}

static enum iscsi_login_status read_chap_algorithm(struct iscsi_login *login, const char *value)
{
    if (login->step != ISCSI_LOGIN_STEP_CHAP_ALGORITHM)
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "CHAP_A outside its place");
    const char *item;
    size_t length;
    while (iscsi_text_list_next(&value, &item, &length)) {
        if (length != 1 || (*item != '0' + ISCSI_CHAP_MD5 && *item != '0' + ISCSI_CHAP_SHA256))
            continue;
        login->chap.algorithm = (enum iscsi_chap_algorithm)(*item - '0');
        return ISCSI_LOGIN_SUCCESS;
    }
    return bad(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, "CHAP_A offers no algorithm of ours (5, 7)");
}

static bool chap_is_due(const struct iscsi_login *login)
{
    return login->step == ISCSI_LOGIN_STEP_CHAP_RESPONSE;
}

static enum iscsi_login_status read_chap_name(struct iscsi_login *login, const char *value)
{
    if (!chap_is_due(login))
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "CHAP_N outside its place");
    if (*value == '\0' || !str_copy(login->chap_name, sizeof(login->chap_name), value))
        return bad(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, "CHAP_N is empty or too long");
    return ISCSI_LOGIN_SUCCESS;
}

static enum iscsi_login_status read_chap_response(struct iscsi_login *login, const char *value)
{
    struct iscsi_login_chap *chap = &login->chap;
    if (!chap_is_due(login))
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "CHAP_R outside its place");
    if (iscsi_text_binary(value, chap->response, sizeof(chap->response), &chap->response_size) != 0)
        return bad(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, "CHAP_R is not a response");
    return ISCSI_LOGIN_SUCCESS;
}

static enum iscsi_login_status read_chap_identifier(struct iscsi_login *login, const char *value)
{
    uint32_t number;
    if (!chap_is_due(login))
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "CHAP_I outside its place");
    if (!iscsi_text_number(value, &number) || number > UINT8_MAX)
        return bad(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, "CHAP_I is not a byte");
    login->chap.mutual_id = (uint8_t)number;
    login->chap.mutual_id_known = true;
    return ISCSI_LOGIN_SUCCESS;
}

/* Whoever sends back our own challenge wants us to answer it for them. */
static enum iscsi_login_status read_chap_challenge(struct iscsi_login *login, const char *value)
{
    struct iscsi_login_chap *chap = &login->chap;
    if (!chap_is_due(login))
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "CHAP_C outside its place");
    if (iscsi_text_binary(value, chap->mutual_challenge, sizeof(chap->mutual_challenge),
                          &chap->mutual_challenge_size) != 0)
        return bad(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, "CHAP_C is not a challenge");
    if (chap->mutual_challenge_size == sizeof(chap->challenge) &&
        memcmp(chap->mutual_challenge, chap->challenge, sizeof(chap->challenge)) == 0)
        return bad(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, "CHAP_C is our own challenge, reflected");
    chap->mutual = true;
    return ISCSI_LOGIN_SUCCESS;
}

static const struct login_key keys[] = {
    {"InitiatorName", read_initiator_name, true, false},
    {"InitiatorAlias", read_initiator_alias, false, false},
    {"TargetName", read_target_name, true, false},
    {"SessionType", read_session_type, true, false},
    {"AuthMethod", read_auth_method, false, false},
    {"CHAP_A", read_chap_algorithm, false, false},
    {"CHAP_N", read_chap_name, false, false},
    {"CHAP_R", read_chap_response, false, true},
    {"CHAP_I", read_chap_identifier, false, false},
    {"CHAP_C", read_chap_challenge, false, true},
};

#define KEYS_COUNT (sizeof(keys) / sizeof(keys[0]))
static_assert(KEYS_COUNT <= 32, "one bit per key in iscsi_login.keys_seen");

static const struct login_key *find_key(const char *name)
{
    for (size_t i = 0; i < KEYS_COUNT; i++)
        if (str_equal(keys[i].name, name))
            return &keys[i];
    return NULL;
}

/* How far a walk over the request's text came: SUCCESS with *ret_more false at its end. */
static enum iscsi_login_status next_pair(struct iscsi_login *login, struct iscsi_text_parser *parser,
                                         struct iscsi_text_pair *pair, bool *ret_more)
{
    int r = iscsi_text_parser_next(parser, pair);
    *ret_more = r == 0;
    if (r == E_EXHAUSTED)
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "too many or too long text keys");
    if (r != 0 && r != E_NOT_FOUND)
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "text keys are malformed");
    return ISCSI_LOGIN_SUCCESS;
}

static enum iscsi_login_status read_key(struct iscsi_login *login, const struct login_key *key,
                                        const struct iscsi_text_pair *pair)
{
    uint32_t bit = UINT32_C(1) << (key - keys);
    if ((login->keys_seen & bit) != 0)
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "a text key came twice");
    login->keys_seen |= bit;
    if (pair->value_length > ISCSI_TEXT_VALUE_MAX && !key->long_binary)
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "a text value is too long");
    return key->read(login, pair->value);
}

/* Every pair that came, until one is not in order. */
static enum iscsi_login_status each_pair(struct iscsi_login *login,
                                         enum iscsi_login_status (*read)(struct iscsi_login *login,
                                                                         const struct iscsi_text_pair *pair))
{
    struct iscsi_text_parser parser;
    struct iscsi_text_pair pair;
    bool more;
    iscsi_text_parser_init(&parser, login->gather.buffer, login->gather.length);
    for (;;) {
        enum iscsi_login_status status = next_pair(login, &parser, &pair, &more);
        if (status != ISCSI_LOGIN_SUCCESS || !more)
            return status;
        status = read(login, &pair);
        if (status != ISCSI_LOGIN_SUCCESS)
            return status;
    }
}

static enum iscsi_login_status read_name(struct iscsi_login *login, const struct iscsi_text_pair *pair)
{
    const struct login_key *key = find_key(pair->key);
    return key && key->leading ? read_key(login, key, pair) : ISCSI_LOGIN_SUCCESS;
}

enum iscsi_login_status iscsi_login_keys_read_names(struct iscsi_login *login)
{
    return each_pair(login, read_name);
}

static enum iscsi_login_status read_other_key(struct iscsi_login *login, const struct iscsi_text_pair *pair)
{
    const struct login_key *key = find_key(pair->key);
    if (key != NULL && key->leading)
        return login->names_read
                   ? bad(login, ISCSI_LOGIN_INITIATOR_ERROR, "a name came after the first request")
                   : ISCSI_LOGIN_SUCCESS;
    if (key != NULL)
        return read_key(login, key, pair);
    if (iscsi_negotiate_key(&login->negotiation, login->stage, pair->key, pair->value, &login->writer) ==
        ISCSI_KEY_PROTOCOL_ERROR)
        return bad(login, ISCSI_LOGIN_INITIATOR_ERROR,
                   "an operational key came twice, in the wrong stage, or out of range");
    return ISCSI_LOGIN_SUCCESS;
}

enum iscsi_login_status iscsi_login_keys_read(struct iscsi_login *login)
{
    return each_pair(login, read_other_key);
}
