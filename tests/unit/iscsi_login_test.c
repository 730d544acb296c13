/* Transcripts of logins that succeed: the key sets of libiscsi and of Linux's open-iscsi, in one request and
 * several. */
#include "tests/unit/iscsi_login_fixture.h"

#define OPEN_ISCSI_KEYS                                                                                      \
    "HeaderDigest=None\nDataDigest=None\nDefaultTime2Wait=2\nDefaultTime2Retain=0\nIFMarker=No\n"            \
    "OFMarker=No\nErrorRecoveryLevel=0\nInitialR2T=No\nImmediateData=Yes\nMaxBurstLength=16776192\n"         \
    "FirstBurstLength=262144\nMaxOutstandingR2T=1\nMaxConnections=1\nDataPDUInOrder=Yes\n"                   \
    "DataSequenceInOrder=Yes\nMaxRecvDataSegmentLength=262144\n"
#define OPEN_ISCSI_ANSWERS                                                                                   \
    "HeaderDigest=None\nDataDigest=None\nDefaultTime2Wait=2\nDefaultTime2Retain=0\nIFMarker=No\n"            \
    "OFMarker=No\nErrorRecoveryLevel=0\nInitialR2T=No\nImmediateData=Yes\nMaxBurstLength=1048576\n"          \
    "FirstBurstLength=262144\nMaxOutstandingR2T=1\nMaxConnections=1\nDataPDUInOrder=Yes\n"                   \
    "DataSequenceInOrder=Yes\nMaxRecvDataSegmentLength=262144\n"

static void test_open_iscsi_with_chap(void **state)
{
    struct login_test *t = *state;
    login_authenticated(t);
    assert_string_equal(t->login.initiator_name, "iqn.1993-08.org.debian:01:host");
    assert_string_equal(t->login.target_name, "iqn.2026-11.storage.mooring:store-1.9f86d081884c7d65");
    assert_string_equal(t->login.chap_name, "vol/3/1");
    assert_true(t->login.authenticated);
    assert_int_equal(login_send_text(t, O_TO_F, OPEN_ISCSI_KEYS), ISCSI_LOGIN_ADMIT);
    login_admitted(t, O_TO_F, OPEN_ISCSI_ANSWERS);
    /* StatSN goes on from what the initiator expected, one for each response. */
    assert_int_equal(t->login.stat_sn, 7 + 4);
    assert_false(t->login.parameters.initial_r2t);
    assert_int_equal(t->login.parameters.max_burst_length, 1048576);
    assert_int_equal(t->login.parameters.max_send_data_segment_length, 262144);
}

/* The keys over several requests of the stage, and cut in the middle of a key by the C bit. */
static void test_operational_in_pieces(void **state)
{
    struct login_test *t = *state;
    login_authenticated(t);
    assert_int_equal(login_send_text(t, IN_O, "HeaderDigest=CRC32C\n"), ISCSI_LOGIN_RESPOND);
    login_check_response(t, IN_O, "HeaderDigest=CRC32C\nMaxRecvDataSegmentLength=262144\n");
    assert_int_equal(login_send_text(t, IN_O | ISCSI_LOGIN_CONTINUE, "MaxRecvData"), ISCSI_LOGIN_RESPOND);
    login_check_response(t, IN_O, "");
    assert_int_equal(login_send_text(t, IN_O | ISCSI_LOGIN_CONTINUE, "SegmentLength=65536\nInit"),
                     ISCSI_LOGIN_RESPOND);
    login_check_response(t, IN_O, "");
    assert_int_equal(login_send_text(t, O_TO_F, "ialR2T=No\n"), ISCSI_LOGIN_ADMIT);
    login_admitted(t, O_TO_F, "InitialR2T=No\n");
    assert_true(t->login.parameters.header_digest);
    assert_int_equal(t->login.parameters.max_send_data_segment_length, 65536);
}

/* Names cut by the C bit: they belong to the first request all the same. */
static void test_names_in_pieces(void **state)
{
    struct login_test *t = *state;
    assert_int_equal(login_send_text(t, IN_S | ISCSI_LOGIN_CONTINUE, "InitiatorName=iqn.1993-08.org.deb"),
                     ISCSI_LOGIN_RESPOND);
    login_check_response(t, IN_S, "");
    assert_int_equal(login_send_text(t, IN_S, "ian:01:HOST\n" TARGET "SessionType=Normal\nAuthMethod=CHAP\n"),
                     ISCSI_LOGIN_RESPOND);
    login_check_response(t, IN_S, "TargetPortalGroupTag=1\nAuthMethod=CHAP\n");
    assert_string_equal(t->login.initiator_name, "iqn.1993-08.org.debian:01:host");
}

static void test_sha256(void **state)
{
    struct login_test *t = *state;
    login_challenged(t, "8,7,5", ISCSI_CHAP_SHA256);
    assert_int_equal(login_answer(t, ISCSI_CHAP_SHA256, SECRET, ""), ISCSI_LOGIN_AUTHENTICATE);
    assert_int_equal(login_authenticate(t, &login_secrets), ISCSI_LOGIN_RESPOND);
    login_check_response(t, S_TO_O, "");
}

/* RFC 1994 with MD5 over 01 "secret" and a challenge, computed by another implementation (Python's hashlib).
 */
static void test_chap_golden(void **state)
{
    (void)state;
    uint8_t response[ISCSI_CHAP_RESPONSE_MAX], expected[ISCSI_CHAP_RESPONSE_MAX];
    assert_true(iscsi_chap_response(ISCSI_CHAP_MD5, 1, "secret", 6, "challenge", 9, response));
    assert_int_equal(iscsi_test_hex("46e47770030e2b4e26a0db72a7efec00", expected), 16);
    assert_memory_equal(response, expected, 16);
    assert_true(iscsi_chap_response(ISCSI_CHAP_SHA256, 1, "secret", 6, "challenge", 9, response));
    assert_int_equal(
        iscsi_test_hex("2dfa0526f4764864b7c3c5bc6596bcead3d8dbd984f4fc1d9f330299f0beced4", expected), 32);
    assert_memory_equal(response, expected, 32);
    assert_true(iscsi_chap_verify(ISCSI_CHAP_SHA256, 1, "secret", 6, "challenge", 9, response, 32));
    assert_false(iscsi_chap_verify(ISCSI_CHAP_SHA256, 1, "secret", 6, "challenge", 9, response, 31));
    assert_false(iscsi_chap_verify(ISCSI_CHAP_SHA256, 2, "secret", 6, "challenge", 9, response, 32));
    assert_false(iscsi_chap_verify(ISCSI_CHAP_MD5, 1, "secret", 6, "challenge", 9, response, 32));
    assert_false(iscsi_chap_verify(ISCSI_CHAP_NONE, 1, "secret", 6, "challenge", 9, response, 0));
    assert_false(iscsi_chap_response(ISCSI_CHAP_NONE, 1, "secret", 6, "challenge", 9, response));
}

/* The target proves itself: an initiator's challenge in base64. */
static void test_mutual(void **state)
{
    struct login_test *t = *state;
    struct iscsi_login_secrets both = login_secrets;
    uint8_t response[ISCSI_CHAP_RESPONSE_MAX];
    char text[128], expected[256];
    struct iscsi_text_writer writer;
    both.target_name = "target";
    both.target_secret = TARGET_SECRET;
    both.target_secret_size = sizeof(TARGET_SECRET) - 1;
    login_challenged(t, "5,7", ISCSI_CHAP_MD5);
    assert_int_equal(
        login_answer(t, ISCSI_CHAP_MD5, SECRET, "CHAP_I=0x09\nCHAP_C=0bMTIzNDU2Nzg5MDEyMzQ1Ng==\n"),
        ISCSI_LOGIN_AUTHENTICATE);
    assert_int_equal(login_authenticate(t, &both), ISCSI_LOGIN_RESPOND);
    iscsi_chap_response(ISCSI_CHAP_MD5, 9, TARGET_SECRET, sizeof(TARGET_SECRET) - 1, "1234567890123456", 16,
                        response);
    iscsi_text_writer_init(&writer, text, sizeof(text));
    iscsi_text_put_binary(&writer, "CHAP_R", response, 16);
    snprintf(expected, sizeof(expected), "CHAP_N=target\n%s\n", text);
    login_check_response(t, S_TO_O, expected);
}

static void test_discovery(void **state)
{
    struct login_test *t = *state;
    assert_int_equal(login_send_text(t, S_TO_O, DISCOVERY "AuthMethod=None\n"), ISCSI_LOGIN_RESPOND);
    login_check_response(t, S_TO_O, "AuthMethod=None\n");
    assert_int_equal(login_send_text(t, O_TO_F, "MaxRecvDataSegmentLength=32768\nInitialR2T=No\n"),
                     ISCSI_LOGIN_ADMIT);
    assert_true(t->login.discovery);
    assert_false(t->login.authenticated);
    login_admitted(t, O_TO_F, "MaxRecvDataSegmentLength=262144\nInitialR2T=Irrelevant\n");

    /* Straight to the full feature phase, from either stage. Without a declaration of ours, its default
     * holds. */
    login_again(state);
    t = *state;
    assert_int_equal(login_send_text(t, S_TO_F, DISCOVERY), ISCSI_LOGIN_ADMIT);
    login_admitted(t, S_TO_F, "");
    assert_int_equal(t->login.parameters.max_recv_data_segment_length, 8192);
    login_again(state);
    t = *state;
    assert_int_equal(login_send_text(t, O_TO_F, DISCOVERY "HeaderDigest=CRC32C,None\n"), ISCSI_LOGIN_ADMIT);
    login_admitted(t, O_TO_F, "HeaderDigest=CRC32C\nMaxRecvDataSegmentLength=262144\n");
    assert_true(t->login.parameters.header_digest);
}

/* SessionType behind a key whose meaning it changes; its default. */
static void test_session_type(void **state)
{
    struct login_test *t = *state;
    assert_int_equal(login_send_text(t, O_TO_F, "MaxConnections=4\n" DISCOVERY), ISCSI_LOGIN_ADMIT);
    login_admitted(t, O_TO_F, "MaxConnections=Irrelevant\nMaxRecvDataSegmentLength=262144\n");
    login_again(state);
    t = *state;
    t->config.chap_required = false;
    assert_int_equal(login_send_text(t, O_TO_F, INITIATOR TARGET), ISCSI_LOGIN_ADMIT);
    assert_false(t->login.discovery);
    login_check_first_refused(state, S_TO_O, INITIATOR TARGET "SessionType=Boot\n",
                              ISCSI_LOGIN_SESSION_TYPE_UNSUPPORTED);
}

/* As many unknown keys as the parser takes, as long as they may be: the answer still fits one response. */
static void test_longest_answer_fits(void **state)
{
    struct login_test *t = *state;
    char text[8192] = "";
    login_authenticated(t);
    for (unsigned i = 0; i < ISCSI_TEXT_PAIRS_MAX; i++)
        sprintf(text + strlen(text), "X-%061u=\n", i);
    assert_int_equal(login_send_text(t, IN_O, text), ISCSI_LOGIN_RESPOND);
    assert_true(t->login.response_size > ISCSI_TEXT_PAIRS_MAX * 64);
    assert_non_null(strstr(t->text, "63=NotUnderstood\nMaxRecvDataSegmentLength=262144\n"));
}

/* The secret's traces are gone once they are not needed. */
static void test_wiped(void **state)
{
    static const struct iscsi_login_chap wiped;
    struct login_test *t = *state;
    login_authenticated(t);
    assert_memory_equal(&t->login.chap, &wiped, sizeof(wiped));
    for (size_t i = 0; i < sizeof(t->login.gather_buffer); i++)
        assert_int_equal(t->login.gather_buffer[i], 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, login_set_up, login_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_open_iscsi_with_chap),
        TEST(test_operational_in_pieces),
        TEST(test_names_in_pieces),
        TEST(test_sha256),
        TEST(test_chap_golden),
        TEST(test_mutual),
        TEST(test_discovery),
        TEST(test_session_type),
        TEST(test_longest_answer_fits),
        TEST(test_wiped),
    };
    return cmocka_run_group_tests_name("iscsi_login", tests, NULL, NULL);
}
