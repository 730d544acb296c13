/* Plays the initiator of a login for the tests of transcripts and of refusals. */
#include "tests/unit/iscsi_login_fixture.h"

int login_set_up(void **state)
{
    struct login_test *t = calloc(1, sizeof(*t));
    struct iscsi_login_random random = {.chap_id = 0x2a};
    t->config = (struct iscsi_login_config){.limits = iscsi_negotiate_limits_default,
                                            .chap_required = true,
                                            .portal_group_tag = 1,
                                            .command_window = 64};
    t->task_tag = 0x1234;
    for (unsigned i = 0; i < sizeof(random.chap_challenge); i++)
        random.chap_challenge[i] = (uint8_t)i;
    iscsi_login_init(&t->login, &t->config, &random);
    *state = t;
    return 0;
}

int login_tear_down(void **state)
{
    struct login_test *t = *state;
    iscsi_login_done(&t->login);
    free(t);
    return 0;
}

void login_again(void **state)
{
    struct iscsi_login_config config = ((struct login_test *)*state)->config;
    login_tear_down(state);
    login_set_up(state);
    ((struct login_test *)*state)->config = config;
    iscsi_negotiation_init(&((struct login_test *)*state)->login.negotiation, &config.limits);
}

union iscsi_bhs login_request_header(const struct login_test *t, uint8_t flags, size_t length)
{
    union iscsi_bhs bhs = {.any.opcode = ISCSI_OP_LOGIN_REQUEST | ISCSI_IMMEDIATE};
    bhs.login_request.flags = flags;
    bhs.login_request.data_length = iscsi_be24((uint32_t)length);
    memcpy(bhs.login_request.isid, "\x80\x01\x02\x03\x00\x05", 6);
    bhs.login_request.tsih = iscsi_be16(t->tsih);
    bhs.login_request.cid = iscsi_be16(t->cid);
    bhs.login_request.task_tag = iscsi_be32(t->task_tag);
    bhs.login_request.cmd_sn = iscsi_be32(100);
    bhs.login_request.exp_stat_sn = iscsi_be32(7);
    return bhs;
}

static void show_response(struct login_test *t)
{
    memcpy(t->text, t->login.response_text, t->login.response_size);
    for (size_t i = 0; i < t->login.response_size; i++)
        if (t->text[i] == '\0')
            t->text[i] = '\n';
    t->text[t->login.response_size] = '\0';
}

enum iscsi_login_event login_send_text(struct login_test *t, uint8_t flags, const char *text)
{
    size_t length = strlen(text);
    char *copy = malloc(length + (length == 0));
    for (size_t i = 0; i < length; i++)
        copy[i] = text[i] == '\n' ? '\0' : text[i];
    union iscsi_bhs bhs = login_request_header(t, flags, length);
    enum iscsi_login_event event = iscsi_login_feed(&t->login, &bhs, copy, length);
    free(copy);
    show_response(t);
    return event;
}

void login_check_response(const struct login_test *t, uint8_t flags, const char *text)
{
    const struct iscsi_bhs_login_response *response = &t->login.response.login_response;
    assert_string_equal(t->text, text);
    assert_int_equal(response->opcode, ISCSI_OP_LOGIN_RESPONSE);
    assert_int_equal(response->flags, flags);
    assert_int_equal(iscsi_be24_get(response->data_length), strlen(text));
    assert_int_equal(response->status_class << 8 | response->status_detail, ISCSI_LOGIN_SUCCESS);
    assert_int_equal(iscsi_be32_get(response->task_tag), t->task_tag);
    assert_int_equal(iscsi_be32_get(response->exp_cmd_sn), 100);
    assert_int_equal(iscsi_be32_get(response->max_cmd_sn), 163);
}

void login_check_refusal(const struct login_test *t, enum iscsi_login_event event, uint16_t status)
{
    const struct iscsi_bhs_login_response *response = &t->login.response.login_response;
    assert_int_equal(event, ISCSI_LOGIN_FAILED);
    if ((response->status_class << 8 | response->status_detail) != status)
        print_message("refused because: %s\n", t->login.reason);
    assert_int_equal(response->status_class << 8 | response->status_detail, status);
    assert_int_equal(t->login.status, status);
    assert_int_equal(response->opcode, ISCSI_OP_LOGIN_RESPONSE);
    assert_int_equal(response->flags & (ISCSI_LOGIN_TRANSIT | ISCSI_LOGIN_CONTINUE | 3), 0);
    assert_int_equal(t->login.response_size, 0);
    assert_non_null(t->login.reason);
}

void login_check_first_refused(void **state, uint8_t flags, const char *text, uint16_t status)
{
    login_again(state);
    struct login_test *t = *state;
    login_check_refusal(t, login_send_text(t, flags, text), status);
}

void login_challenged(struct login_test *t, const char *algorithms, enum iscsi_chap_algorithm chosen)
{
    char text[128];
    assert_int_equal(login_send_text(t, IN_S, NORMAL "AuthMethod=CHAP,None\n"), ISCSI_LOGIN_RESPOND);
    login_check_response(t, IN_S, "TargetPortalGroupTag=1\nAuthMethod=CHAP\n");
    snprintf(text, sizeof(text), "CHAP_A=%s\n", algorithms);
    assert_int_equal(login_send_text(t, IN_S, text), ISCSI_LOGIN_RESPOND);
    snprintf(text, sizeof(text), "CHAP_A=%d\nCHAP_I=42\nCHAP_C=" CHALLENGE "\n", chosen);
    login_check_response(t, IN_S, text);
}

enum iscsi_login_event login_answer(struct login_test *t, enum iscsi_chap_algorithm algorithm,
                                    const char *secret, const char *more)
{
    uint8_t challenge[32], response[ISCSI_CHAP_RESPONSE_MAX];
    char text[4096], binary[128];
    struct iscsi_text_writer writer;
    for (unsigned i = 0; i < sizeof(challenge); i++)
        challenge[i] = (uint8_t)i;
    assert_true(
        iscsi_chap_response(algorithm, 0x2a, secret, strlen(secret), challenge, sizeof(challenge), response));
    iscsi_text_writer_init(&writer, binary, sizeof(binary));
    iscsi_text_put_binary(&writer, "CHAP_R", response, iscsi_chap_response_size(algorithm));
    snprintf(text, sizeof(text), "CHAP_N=vol/3/1\n%s\n%s", binary, more);
    return login_send_text(t, S_TO_O, text);
}

const struct iscsi_login_secrets login_secrets = {.secret = SECRET, .secret_size = sizeof(SECRET) - 1};

enum iscsi_login_event login_authenticate(struct login_test *t, const struct iscsi_login_secrets *with)
{
    enum iscsi_login_event event = iscsi_login_authenticate(&t->login, with);
    show_response(t);
    return event;
}

void login_authenticated(struct login_test *t)
{
    login_challenged(t, "5", ISCSI_CHAP_MD5);
    assert_int_equal(login_answer(t, ISCSI_CHAP_MD5, SECRET, ""), ISCSI_LOGIN_AUTHENTICATE);
    assert_int_equal(login_authenticate(t, &login_secrets), ISCSI_LOGIN_RESPOND);
    login_check_response(t, S_TO_O, "");
}

void login_admitted(struct login_test *t, uint8_t flags, const char *text)
{
    assert_int_equal(iscsi_login_admit(&t->login, 0x0abc), ISCSI_LOGIN_COMPLETE);
    show_response(t);
    login_check_response(t, flags, text);
    assert_int_equal(iscsi_be16_get(t->login.response.login_response.tsih), 0x0abc);
    assert_int_equal(t->login.exp_cmd_sn, 100);
}
