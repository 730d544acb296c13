/*
 * Fuzzes the login: the first byte chooses the configuration and how the caller answers; then PDUs: a byte of
 * flags, two of length, the text. "@R" in a text stands for a right CHAP_R, so that mutations get past
 * authentication. Whatever comes, without the secret nobody gets in where CHAP is required.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "datapath/iscsi/login.h"

#define SECRET "fuzzer's secret"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz {
    struct iscsi_login_config config;
    struct iscsi_login login;
    bool knows_secret; /* a right response was put in */
    bool refuse, mutual;
};

static const char right_response[] = "CHAP_R=@R";

/* Put the right response where a text asks for it. The new length. */
static size_t put_response(struct fuzz *fuzz, char *text, size_t length, size_t size)
{
    char *at = memmem(text, length, right_response, sizeof(right_response) - 1);
    size_t hash = iscsi_chap_response_size(fuzz->login.chap.algorithm);
    if (at == NULL || hash == 0 || length + 2 * hash > size)
        return length;
    uint8_t response[ISCSI_CHAP_RESPONSE_MAX];
    char written[2 * ISCSI_CHAP_RESPONSE_MAX + 16];
    struct iscsi_text_writer writer;
    iscsi_text_writer_init(&writer, written, sizeof(written));
    if (!iscsi_chap_response(fuzz->login.chap.algorithm, fuzz->login.chap.id, SECRET, strlen(SECRET),
                             fuzz->login.chap.challenge, ISCSI_CHAP_CHALLENGE_SIZE, response))
        return length;
    iscsi_text_put_binary(&writer, "CHAP_R", response, hash);
    size_t old = sizeof(right_response) - 1, added = writer.length - 1;
    memmove(at + added, at + old, length - (size_t)(at - text) - old);
    memcpy(at, written, added);
    fuzz->knows_secret = true;
    return length - old + added;
}

static enum iscsi_login_event feed(struct fuzz *fuzz, uint8_t flags, const uint8_t *text, size_t length)
{
    size_t size = length + 2 * ISCSI_CHAP_RESPONSE_MAX + 16;
    char *copy = malloc(size);
    assert(copy != NULL);
    memcpy(copy, text, length);
    length = put_response(fuzz, copy, length, size);
    char *exact = malloc(length + 1);
    assert(exact != NULL);
    memcpy(exact, copy, length);
    union iscsi_bhs bhs = {.any.opcode = ISCSI_OP_LOGIN_REQUEST | ISCSI_IMMEDIATE};
    /* Bits 4 and 5 are reserved in a request: here they change the opcode and the version. */
    bhs.any.opcode ^= flags >> 4 & 1;
    bhs.login_request.version_min = flags >> 5 & 1;
    bhs.login_request.flags = flags & 0xcf;
    enum iscsi_login_event event = iscsi_login_feed(&fuzz->login, &bhs, exact, length);
    free(exact);
    free(copy);
    return event;
}

/* Play the caller until the login waits for the initiator, or ended. */
static enum iscsi_login_event settle(struct fuzz *fuzz, enum iscsi_login_event event)
{
    struct iscsi_login_secrets secrets = {.secret = SECRET, .secret_size = strlen(SECRET)};
    if (fuzz->mutual) {
        secrets.target_name = "target";
        secrets.target_secret = "another";
        secrets.target_secret_size = 7;
    }
    if (event == ISCSI_LOGIN_AUTHENTICATE)
        event = fuzz->refuse ? iscsi_login_refuse(&fuzz->login, ISCSI_LOGIN_AUTHORIZATION_FAILURE,
                                                  "the fuzzer says no")
                             : iscsi_login_authenticate(&fuzz->login, &secrets);
    if (event == ISCSI_LOGIN_ADMIT) {
        bool required =
            fuzz->login.discovery ? fuzz->config.chap_required_discovery : fuzz->config.chap_required;
        assert(!fuzz->login.authenticated || fuzz->knows_secret);
        assert(!required || fuzz->login.authenticated);
        assert(fuzz->login.initiator_name[0] != '\0');
        assert(fuzz->login.discovery || fuzz->login.target_name[0] != '\0');
        event = iscsi_login_admit(&fuzz->login, 1);
    }
    return event;
}

static void check_response(const struct fuzz *fuzz, enum iscsi_login_event event)
{
    const struct iscsi_bhs_login_response *response = &fuzz->login.response.login_response;
    struct iscsi_text_parser parser;
    struct iscsi_text_pair pair;
    int r;
    assert(event != ISCSI_LOGIN_AUTHENTICATE && event != ISCSI_LOGIN_ADMIT);
    if (event == ISCSI_LOGIN_DROP)
        return;
    assert(response->opcode == ISCSI_OP_LOGIN_RESPONSE);
    assert(iscsi_be24_get(response->data_length) == fuzz->login.response_size);
    assert((event == ISCSI_LOGIN_FAILED) == (response->status_class != 0));
    iscsi_text_parser_init(&parser, fuzz->login.response_text, fuzz->login.response_size);
    while ((r = iscsi_text_parser_next(&parser, &pair)) == 0)
        ;
    assert(r == E_NOT_FOUND || parser.pairs == ISCSI_TEXT_PAIRS_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct iscsi_login_random random = {.chap_id = 7, .chap_challenge = {1, 2, 3}};
    if (size < 1)
        return 0;
    struct fuzz *fuzz = calloc(1, sizeof(*fuzz));
    assert(fuzz != NULL);
    fuzz->config = (struct iscsi_login_config){.limits = iscsi_negotiate_limits_default,
                                               .chap_required = (data[0] & 1) != 0,
                                               .chap_required_discovery = (data[0] & 2) != 0,
                                               .portal_group_tag = 1,
                                               .command_window = 32};
    fuzz->refuse = (data[0] & 4) != 0;
    fuzz->mutual = (data[0] & 8) != 0;
    iscsi_login_init(&fuzz->login, &fuzz->config, &random);
    enum iscsi_login_event event = ISCSI_LOGIN_RESPOND;
    for (size_t at = 1; event == ISCSI_LOGIN_RESPOND && size - at >= 3;) {
        uint8_t flags = data[at];
        size_t length = (size_t)data[at + 1] << 8 | data[at + 2];
        at += 3;
        length = length < size - at ? length : size - at;
        event = settle(fuzz, feed(fuzz, flags, data + at, length));
        check_response(fuzz, event);
        at += length;
    }
    iscsi_login_done(&fuzz->login);
    free(fuzz);
    return 0;
}
