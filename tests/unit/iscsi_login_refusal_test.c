/* Each way a login is refused, with its status. */
#include "tests/unit/iscsi_login_fixture.h"

static void test_mutual_refused(void **state)
{
    static const char challenge[] = "CHAP_I=9\nCHAP_C=0x31323334\n";
    static const char *const partial[] = {"CHAP_I=9\n", "CHAP_C=0x31323334\n",
                                          "CHAP_I=9\nCHAP_C=" CHALLENGE "\n", "CHAP_I=256\nCHAP_C=0x31\n",
                                          "CHAP_I=9\nCHAP_C=1234\n"};
    for (size_t i = 0; i < sizeof(partial) / sizeof(partial[0]); i++) {
        login_again(state);
        struct login_test *t = *state;
        login_challenged(t, "5", ISCSI_CHAP_MD5);
        login_check_refusal(t, login_answer(t, ISCSI_CHAP_MD5, SECRET, partial[i]),
                            ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    }
    for (unsigned same = 0; same < 2; same++) {
        login_again(state);
        struct login_test *t = *state;
        struct iscsi_login_secrets with = login_secrets;
        if (same) {
            with.target_name = "target";
            with.target_secret = with.secret;
            with.target_secret_size = with.secret_size;
        }
        login_challenged(t, "5", ISCSI_CHAP_MD5);
        assert_int_equal(login_answer(t, ISCSI_CHAP_MD5, SECRET, challenge), ISCSI_LOGIN_AUTHENTICATE);
        login_check_refusal(t, login_authenticate(t, &with), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    }
}

static void test_chap_refused(void **state)
{
    struct login_test *t = *state;
    login_challenged(t, "5", ISCSI_CHAP_MD5);
    assert_int_equal(login_answer(t, ISCSI_CHAP_MD5, "another secret", ""), ISCSI_LOGIN_AUTHENTICATE);
    login_check_refusal(t, login_authenticate(t, &login_secrets), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    assert_false(t->login.authenticated);

    /* A response of another length than the hash has, though its first bytes are right. */
    login_again(state);
    t = *state;
    login_challenged(t, "5", ISCSI_CHAP_MD5);
    assert_int_equal(login_answer(t, ISCSI_CHAP_SHA256, SECRET, ""), ISCSI_LOGIN_AUTHENTICATE);
    login_check_refusal(t, login_authenticate(t, &login_secrets), ISCSI_LOGIN_AUTHENTICATION_FAILURE);

    static const char *const texts[] = {
        "CHAP_N=vol/3/1\n",         "CHAP_R=0x00\n",        "", "CHAP_N=\nCHAP_R=0x00\n",
        "CHAP_N=a\nCHAP_R=12345\n", "CHAP_N=a\nCHAP_R=0x\n"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        login_again(state);
        t = *state;
        login_challenged(t, "5", ISCSI_CHAP_MD5);
        login_check_refusal(t, login_send_text(t, S_TO_O, texts[i]), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    }
    static const char *const algorithms[] = {"CHAP_A=6\n", "CHAP_A=8,6\n", "CHAP_A=\n", "CHAP_A=57\n", ""};
    for (size_t i = 0; i < sizeof(algorithms) / sizeof(algorithms[0]); i++) {
        login_again(state);
        t = *state;
        assert_int_equal(login_send_text(t, IN_S, NORMAL "AuthMethod=CHAP\n"), ISCSI_LOGIN_RESPOND);
        login_check_refusal(t, login_send_text(t, IN_S, algorithms[i]), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    }
}

static void test_chap_out_of_order(void **state)
{
    login_check_first_refused(state, IN_S, NORMAL "AuthMethod=CHAP\nCHAP_A=5\n", ISCSI_LOGIN_INITIATOR_ERROR);
    login_check_first_refused(state, IN_S, NORMAL "CHAP_N=a\nCHAP_R=0x00\n", ISCSI_LOGIN_INITIATOR_ERROR);
    login_again(state);
    struct login_test *t = *state;
    login_challenged(t, "5", ISCSI_CHAP_MD5);
    login_check_refusal(t, login_send_text(t, IN_S, "CHAP_A=5\n"), ISCSI_LOGIN_INITIATOR_ERROR);
    login_again(state);
    t = *state;
    login_challenged(t, "5", ISCSI_CHAP_MD5);
    login_check_refusal(t, login_send_text(t, IN_S, "AuthMethod=None\n"), ISCSI_LOGIN_INITIATOR_ERROR);
    /* After AuthMethod=CHAP was agreed on, leaving the stage is no way around it. */
    login_again(state);
    t = *state;
    assert_int_equal(login_send_text(t, S_TO_O, NORMAL "AuthMethod=CHAP\n"), ISCSI_LOGIN_RESPOND);
    login_check_response(t, IN_S, "TargetPortalGroupTag=1\nAuthMethod=CHAP\n");
    login_check_refusal(t, login_send_text(t, S_TO_F, ""), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    login_again(state);
    t = *state;
    login_challenged(t, "5", ISCSI_CHAP_MD5);
    login_check_refusal(t, login_send_text(t, O_TO_F, ""), ISCSI_LOGIN_INITIATOR_ERROR);
}

static void test_chap_required(void **state)
{
    login_check_first_refused(state, S_TO_O, NORMAL "AuthMethod=None\n", ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    login_check_first_refused(state, S_TO_O, NORMAL "AuthMethod=KRB5,SRP\n",
                              ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    login_check_first_refused(state, S_TO_O, NORMAL, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    login_check_first_refused(state, S_TO_F, NORMAL, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    login_check_first_refused(state, O_TO_F, NORMAL, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    login_check_first_refused(state, IN_O, NORMAL, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    struct login_test *t = *state;
    t->config.chap_required_discovery = true;
    login_check_first_refused(state, O_TO_F, DISCOVERY, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    login_check_first_refused(state, S_TO_F, DISCOVERY "AuthMethod=None\n",
                              ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    /* None before CHAP is no choice of the initiator's. */
    login_again(state);
    t = *state;
    assert_int_equal(login_send_text(t, S_TO_O, NORMAL "AuthMethod=None,CHAP\n"), ISCSI_LOGIN_RESPOND);
    login_check_response(t, IN_S, "TargetPortalGroupTag=1\nAuthMethod=CHAP\n");
}

static void test_names(void **state)
{
    login_check_first_refused(state, S_TO_O, TARGET "SessionType=Normal\n", ISCSI_LOGIN_MISSING_PARAMETER);
    login_check_first_refused(state, S_TO_O, INITIATOR "SessionType=Normal\n", ISCSI_LOGIN_MISSING_PARAMETER);
    login_check_first_refused(state, S_TO_O, INITIATOR, ISCSI_LOGIN_MISSING_PARAMETER);
    login_check_first_refused(state, S_TO_O, "", ISCSI_LOGIN_MISSING_PARAMETER);
    login_check_first_refused(state, S_TO_O, "InitiatorName=\n" TARGET, ISCSI_LOGIN_INITIATOR_ERROR);
    login_check_first_refused(state, S_TO_O, "InitiatorName=host\n" TARGET, ISCSI_LOGIN_INITIATOR_ERROR);
    login_check_first_refused(state, S_TO_O, "InitiatorName=iqn.a b\n" TARGET, ISCSI_LOGIN_INITIATOR_ERROR);
    login_check_first_refused(state, S_TO_O, INITIATOR "TargetName=../x\n", ISCSI_LOGIN_NOT_FOUND);
    login_check_first_refused(state, S_TO_O, NORMAL INITIATOR, ISCSI_LOGIN_INITIATOR_ERROR);

    char text[512] = "InitiatorName=iqn.";
    memset(text + strlen(text), 'a', ISCSI_NAME_MAX - 4 + 1);
    strcat(text, "\n" TARGET);
    login_check_first_refused(state, S_TO_O, text, ISCSI_LOGIN_INITIATOR_ERROR);
    memmove(text + 18, text + 19, strlen(text + 18));
    login_again(state);
    struct login_test *t = *state;
    assert_int_equal(login_send_text(t, IN_S, text), ISCSI_LOGIN_RESPOND);
    assert_int_equal(strlen(t->login.initiator_name), ISCSI_NAME_MAX);
    login_check_refusal(t, login_send_text(t, IN_S, TARGET), ISCSI_LOGIN_INITIATOR_ERROR);
}

static void test_keys_refused(void **state)
{
    static const char *const texts[] = {
        "HeaderDigest=None\nHeaderDigest=None\n",
        "MaxRecvDataSegmentLength=1\n",
        "SendTargets=All\n",
        "AuthMethod=CHAP\n",
        "CHAP_A=5\n",
        TARGET,
        "FirstBurstLength=8192\nMaxBurstLength=4096\n",
        "=\n",
        "A\n",
        "A=b",
        "InitiatorAlias=a\nInitiatorAlias=a\n",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        login_again(state);
        struct login_test *t = *state;
        login_authenticated(t);
        login_check_refusal(t, login_send_text(t, O_TO_F, texts[i]), ISCSI_LOGIN_INITIATOR_ERROR);
    }
    login_check_first_refused(state, S_TO_O, NORMAL "HeaderDigest=None\n", ISCSI_LOGIN_INITIATOR_ERROR);
    login_check_first_refused(state, IN_S, NORMAL "AuthMethod=CHAP\nAuthMethod=CHAP\n",
                              ISCSI_LOGIN_INITIATOR_ERROR);
    /* Across requests too. */
    login_again(state);
    struct login_test *t = *state;
    login_authenticated(t);
    assert_int_equal(login_send_text(t, IN_O, "InitialR2T=No\n"), ISCSI_LOGIN_RESPOND);
    login_check_refusal(t, login_send_text(t, IN_O, "InitialR2T=No\n"), ISCSI_LOGIN_INITIATOR_ERROR);
}

/* AuthMethod once security was skipped, or is over: it would be answered by nothing. */
static void test_late_auth_method(void **state)
{
    struct login_test *t = *state;
    t->config.chap_required = false;
    login_check_first_refused(state, IN_O, NORMAL "AuthMethod=CHAP\n", ISCSI_LOGIN_INITIATOR_ERROR);
    login_again(state);
    t = *state;
    assert_int_equal(login_send_text(t, S_TO_O, NORMAL), ISCSI_LOGIN_RESPOND);
    login_check_refusal(t, login_send_text(t, O_TO_F, "AuthMethod=CHAP\n"), ISCSI_LOGIN_INITIATOR_ERROR);
}

static void test_stages_refused(void **state)
{
    login_check_first_refused(state, 0x08, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    login_check_first_refused(state, 0x0c, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    login_check_first_refused(state, ISCSI_LOGIN_TRANSIT | 0x00, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    login_check_first_refused(state, ISCSI_LOGIN_TRANSIT | 0x02, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    login_check_first_refused(state, ISCSI_LOGIN_TRANSIT | 0x05, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    login_check_first_refused(state, S_TO_O | ISCSI_LOGIN_CONTINUE, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    login_again(state);
    struct login_test *t = *state;
    login_authenticated(t);
    login_check_refusal(t, login_send_text(t, IN_S, ""), ISCSI_LOGIN_INITIATOR_ERROR);
}

static void test_header_refused(void **state)
{
    struct login_test *t = *state;
    union iscsi_bhs bhs = login_request_header(t, IN_S, 0);
    bhs.login_request.version_min = 1;
    bhs.login_request.version_max = 1;
    login_check_refusal(t, iscsi_login_feed(&t->login, &bhs, "", 0), ISCSI_LOGIN_UNSUPPORTED_VERSION);

    for (unsigned change = 0; change < 4; change++) {
        login_again(state);
        t = *state;
        assert_int_equal(login_send_text(t, IN_S, NORMAL "AuthMethod=CHAP\n"), ISCSI_LOGIN_RESPOND);
        bhs = login_request_header(t, IN_S, 0);
        uint8_t *const changed[] = {&bhs.login_request.isid[5], &bhs.login_request.tsih.bytes[1],
                                    &bhs.login_request.cid.bytes[1], &bhs.login_request.task_tag.bytes[0]};
        *changed[change] ^= 1;
        login_check_refusal(t, iscsi_login_feed(&t->login, &bhs, "", 0), ISCSI_LOGIN_INITIATOR_ERROR);
    }

    login_again(state);
    t = *state;
    assert_int_equal(login_send_text(t, IN_S, NORMAL "AuthMethod=CHAP\n"), ISCSI_LOGIN_RESPOND);
    bhs = login_request_header(t, IN_S, 0);
    bhs.any.opcode = ISCSI_OP_SCSI_COMMAND;
    login_check_refusal(t, iscsi_login_feed(&t->login, &bhs, "", 0), ISCSI_LOGIN_INVALID_DURING_LOGIN);

    login_again(state);
    t = *state;
    assert_int_equal(iscsi_login_feed(&t->login, &bhs, "", 0), ISCSI_LOGIN_DROP);
}

static void test_too_much(void **state)
{
    struct login_test *t = *state;
    enum iscsi_login_event event = ISCSI_LOGIN_RESPOND;
    unsigned pdus = 0;
    assert_int_equal(login_send_text(t, IN_S, NORMAL), ISCSI_LOGIN_RESPOND);
    for (pdus = 1; event == ISCSI_LOGIN_RESPOND && pdus < 1000; pdus++)
        event = login_send_text(t, IN_S, "");
    login_check_refusal(t, event, ISCSI_LOGIN_INITIATOR_ERROR);
    assert_int_equal(pdus, ISCSI_LOGIN_PDUS_MAX + 1);

    /* Text without end under the C bit. */
    login_again(state);
    t = *state;
    char text[4097];
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (unsigned i = 0; i < ISCSI_TEXT_REQUEST_MAX / 4096; i++)
        assert_int_equal(login_send_text(t, IN_S | ISCSI_LOGIN_CONTINUE, text), ISCSI_LOGIN_RESPOND);
    login_check_refusal(t, login_send_text(t, IN_S | ISCSI_LOGIN_CONTINUE, "a"), ISCSI_LOGIN_INITIATOR_ERROR);

    login_again(state);
    t = *state;
    char many[4096] = NORMAL;
    for (unsigned i = 0; i < ISCSI_TEXT_PAIRS_MAX; i++)
        strcat(many, "X-a=b\n");
    login_check_refusal(t, login_send_text(t, S_TO_O, many), ISCSI_LOGIN_INITIATOR_ERROR);
}

static void test_callers_refusals(void **state)
{
    struct login_test *t = *state;
    assert_int_equal(iscsi_login_refuse(&t->login, ISCSI_LOGIN_SERVICE_UNAVAILABLE, "not yet"),
                     ISCSI_LOGIN_DROP);
    login_again(state);
    t = *state;
    login_challenged(t, "5", ISCSI_CHAP_MD5);
    assert_int_equal(login_answer(t, ISCSI_CHAP_MD5, SECRET, ""), ISCSI_LOGIN_AUTHENTICATE);
    login_check_refusal(t, iscsi_login_refuse(&t->login, ISCSI_LOGIN_AUTHORIZATION_FAILURE, "an older epoch"),
                        ISCSI_LOGIN_AUTHORIZATION_FAILURE);
    assert_string_equal(t->login.reason, "an older epoch");
    login_again(state);
    t = *state;
    login_authenticated(t);
    assert_int_equal(login_send_text(t, O_TO_F, "InitialR2T=No\n"), ISCSI_LOGIN_ADMIT);
    login_check_refusal(t, iscsi_login_refuse(&t->login, ISCSI_LOGIN_NO_SESSION, "no such session"),
                        ISCSI_LOGIN_NO_SESSION);
    assert_int_equal(iscsi_be32_get(t->login.response.login_response.stat_sn), 7 + 3);
}

static void test_requests_while_waiting(void **state)
{
    struct login_test *t = *state;
    login_challenged(t, "5", ISCSI_CHAP_MD5);
    assert_int_equal(login_answer(t, ISCSI_CHAP_MD5, SECRET, ""), ISCSI_LOGIN_AUTHENTICATE);
    login_check_refusal(t, login_send_text(t, S_TO_O, ""), ISCSI_LOGIN_INITIATOR_ERROR);
    login_again(state);
    t = *state;
    login_authenticated(t);
    assert_int_equal(login_send_text(t, O_TO_F, ""), ISCSI_LOGIN_ADMIT);
    login_check_refusal(t, login_send_text(t, O_TO_F, ""), ISCSI_LOGIN_INITIATOR_ERROR);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, login_set_up, login_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_mutual_refused),
        TEST(test_chap_refused),
        TEST(test_chap_out_of_order),
        TEST(test_chap_required),
        TEST(test_names),
        TEST(test_keys_refused),
        TEST(test_late_auth_method),
        TEST(test_stages_refused),
        TEST(test_header_refused),
        TEST(test_too_much),
        TEST(test_callers_refusals),
        TEST(test_requests_while_waiting),
    };
    return cmocka_run_group_tests_name("iscsi_login_refusal", tests, NULL, NULL);
}
