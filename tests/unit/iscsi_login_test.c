/* Transcripts of logins: the key sets of libiscsi and of Linux's open-iscsi, and each refusal with its
 * status. */
#include "iscsi_test.h"

#include "datapath/iscsi/login.h"

#define INITIATOR "InitiatorName=iqn.1993-08.org.debian:01:host\n"
#define TARGET "TargetName=iqn.2026-11.storage.mooring:store-1.9f86d081884c7d65\n"
#define NORMAL INITIATOR TARGET "SessionType=Normal\n"
#define DISCOVERY INITIATOR "SessionType=Discovery\n"
#define SECRET "a secret of the initiator"
#define TARGET_SECRET "a secret of the target"

/* T with the stages: security to operational, security or operational to full feature. */
#define S_TO_O (ISCSI_LOGIN_TRANSIT | 0x01)
#define S_TO_F (ISCSI_LOGIN_TRANSIT | 0x03)
#define O_TO_F (ISCSI_LOGIN_TRANSIT | 0x07)
#define IN_S 0x00
#define IN_O 0x04

struct login_test {
    struct iscsi_login_config config;
    struct iscsi_login login;
    uint8_t tsih;
    uint8_t cid;
    uint32_t task_tag;
    char text[ISCSI_LOGIN_RESPONSE_MAX + 1]; /* of the last response, NUL shown as newline */
};

static int set_up(void **state)
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

static int tear_down(void **state)
{
    struct login_test *t = *state;
    iscsi_login_done(&t->login);
    free(t);
    return 0;
}

static void again(void **state)
{
    struct iscsi_login_config config = ((struct login_test *)*state)->config;
    tear_down(state);
    set_up(state);
    ((struct login_test *)*state)->config = config;
    iscsi_negotiation_init(&((struct login_test *)*state)->login.negotiation, &config.limits);
}

static union iscsi_bhs request_header(const struct login_test *t, uint8_t flags, size_t length)
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

/* Send text with newlines for NULs, from a copy of exactly its size. */
static enum iscsi_login_event send_text(struct login_test *t, uint8_t flags, const char *text)
{
    size_t length = strlen(text);
    char *copy = malloc(length + (length == 0));
    for (size_t i = 0; i < length; i++)
        copy[i] = text[i] == '\n' ? '\0' : text[i];
    union iscsi_bhs bhs = request_header(t, flags, length);
    enum iscsi_login_event event = iscsi_login_feed(&t->login, &bhs, copy, length);
    free(copy);
    show_response(t);
    return event;
}

static void check_response(const struct login_test *t, uint8_t flags, const char *text)
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

static void check_refusal(const struct login_test *t, enum iscsi_login_event event, uint16_t status)
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

/* A new login whose only request is this one, refused with status. */
static void check_first_refused(void **state, uint8_t flags, const char *text, uint16_t status)
{
    again(state);
    struct login_test *t = *state;
    check_refusal(t, send_text(t, flags, text), status);
}

#define CHALLENGE "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

static void challenged(struct login_test *t, const char *algorithms, enum iscsi_chap_algorithm chosen)
{
    char text[128];
    assert_int_equal(send_text(t, IN_S, NORMAL "AuthMethod=CHAP,None\n"), ISCSI_LOGIN_RESPOND);
    check_response(t, IN_S, "TargetPortalGroupTag=1\nAuthMethod=CHAP\n");
    snprintf(text, sizeof(text), "CHAP_A=%s\n", algorithms);
    assert_int_equal(send_text(t, IN_S, text), ISCSI_LOGIN_RESPOND);
    snprintf(text, sizeof(text), "CHAP_A=%d\nCHAP_I=42\nCHAP_C=" CHALLENGE "\n", chosen);
    check_response(t, IN_S, text);
}

/* The initiator's answer to the test's challenge, and more keys. */
static enum iscsi_login_event answer(struct login_test *t, enum iscsi_chap_algorithm algorithm,
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
    return send_text(t, S_TO_O, text);
}

static const struct iscsi_login_secrets secrets = {.secret = SECRET, .secret_size = sizeof(SECRET) - 1};

static enum iscsi_login_event authenticate(struct login_test *t, const struct iscsi_login_secrets *with)
{
    enum iscsi_login_event event = iscsi_login_authenticate(&t->login, with);
    show_response(t);
    return event;
}

static void authenticated(struct login_test *t)
{
    challenged(t, "5", ISCSI_CHAP_MD5);
    assert_int_equal(answer(t, ISCSI_CHAP_MD5, SECRET, ""), ISCSI_LOGIN_AUTHENTICATE);
    assert_int_equal(authenticate(t, &secrets), ISCSI_LOGIN_RESPOND);
    check_response(t, S_TO_O, "");
}

static void admitted(struct login_test *t, uint8_t flags, const char *text)
{
    assert_int_equal(iscsi_login_admit(&t->login, 0x0abc), ISCSI_LOGIN_COMPLETE);
    show_response(t);
    check_response(t, flags, text);
    assert_int_equal(iscsi_be16_get(t->login.response.login_response.tsih), 0x0abc);
    assert_int_equal(t->login.exp_cmd_sn, 100);
}

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
    authenticated(t);
    assert_string_equal(t->login.initiator_name, "iqn.1993-08.org.debian:01:host");
    assert_string_equal(t->login.target_name, "iqn.2026-11.storage.mooring:store-1.9f86d081884c7d65");
    assert_string_equal(t->login.chap_name, "vol/3/1");
    assert_true(t->login.authenticated);
    assert_int_equal(send_text(t, O_TO_F, OPEN_ISCSI_KEYS), ISCSI_LOGIN_ADMIT);
    admitted(t, O_TO_F, OPEN_ISCSI_ANSWERS);
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
    authenticated(t);
    assert_int_equal(send_text(t, IN_O, "HeaderDigest=CRC32C\n"), ISCSI_LOGIN_RESPOND);
    check_response(t, IN_O, "HeaderDigest=CRC32C\nMaxRecvDataSegmentLength=262144\n");
    assert_int_equal(send_text(t, IN_O | ISCSI_LOGIN_CONTINUE, "MaxRecvData"), ISCSI_LOGIN_RESPOND);
    check_response(t, IN_O, "");
    assert_int_equal(send_text(t, IN_O | ISCSI_LOGIN_CONTINUE, "SegmentLength=65536\nInit"),
                     ISCSI_LOGIN_RESPOND);
    check_response(t, IN_O, "");
    assert_int_equal(send_text(t, O_TO_F, "ialR2T=No\n"), ISCSI_LOGIN_ADMIT);
    admitted(t, O_TO_F, "InitialR2T=No\n");
    assert_true(t->login.parameters.header_digest);
    assert_int_equal(t->login.parameters.max_send_data_segment_length, 65536);
}

/* Names cut by the C bit: they belong to the first request all the same. */
static void test_names_in_pieces(void **state)
{
    struct login_test *t = *state;
    assert_int_equal(send_text(t, IN_S | ISCSI_LOGIN_CONTINUE, "InitiatorName=iqn.1993-08.org.deb"),
                     ISCSI_LOGIN_RESPOND);
    check_response(t, IN_S, "");
    assert_int_equal(send_text(t, IN_S, "ian:01:HOST\n" TARGET "SessionType=Normal\nAuthMethod=CHAP\n"),
                     ISCSI_LOGIN_RESPOND);
    check_response(t, IN_S, "TargetPortalGroupTag=1\nAuthMethod=CHAP\n");
    assert_string_equal(t->login.initiator_name, "iqn.1993-08.org.debian:01:host");
}

static void test_sha256(void **state)
{
    struct login_test *t = *state;
    challenged(t, "8,7,5", ISCSI_CHAP_SHA256);
    assert_int_equal(answer(t, ISCSI_CHAP_SHA256, SECRET, ""), ISCSI_LOGIN_AUTHENTICATE);
    assert_int_equal(authenticate(t, &secrets), ISCSI_LOGIN_RESPOND);
    check_response(t, S_TO_O, "");
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
    struct iscsi_login_secrets both = secrets;
    uint8_t response[ISCSI_CHAP_RESPONSE_MAX];
    char text[128], expected[256];
    struct iscsi_text_writer writer;
    both.target_name = "target";
    both.target_secret = TARGET_SECRET;
    both.target_secret_size = sizeof(TARGET_SECRET) - 1;
    challenged(t, "5,7", ISCSI_CHAP_MD5);
    assert_int_equal(answer(t, ISCSI_CHAP_MD5, SECRET, "CHAP_I=0x09\nCHAP_C=0bMTIzNDU2Nzg5MDEyMzQ1Ng==\n"),
                     ISCSI_LOGIN_AUTHENTICATE);
    assert_int_equal(authenticate(t, &both), ISCSI_LOGIN_RESPOND);
    iscsi_chap_response(ISCSI_CHAP_MD5, 9, TARGET_SECRET, sizeof(TARGET_SECRET) - 1, "1234567890123456", 16,
                        response);
    iscsi_text_writer_init(&writer, text, sizeof(text));
    iscsi_text_put_binary(&writer, "CHAP_R", response, 16);
    snprintf(expected, sizeof(expected), "CHAP_N=target\n%s\n", text);
    check_response(t, S_TO_O, expected);
}

static void test_mutual_refused(void **state)
{
    static const char challenge[] = "CHAP_I=9\nCHAP_C=0x31323334\n";
    static const char *const partial[] = {"CHAP_I=9\n", "CHAP_C=0x31323334\n",
                                          "CHAP_I=9\nCHAP_C=" CHALLENGE "\n", "CHAP_I=256\nCHAP_C=0x31\n",
                                          "CHAP_I=9\nCHAP_C=1234\n"};
    for (size_t i = 0; i < sizeof(partial) / sizeof(partial[0]); i++) {
        again(state);
        struct login_test *t = *state;
        challenged(t, "5", ISCSI_CHAP_MD5);
        check_refusal(t, answer(t, ISCSI_CHAP_MD5, SECRET, partial[i]), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    }
    for (unsigned same = 0; same < 2; same++) {
        again(state);
        struct login_test *t = *state;
        struct iscsi_login_secrets with = secrets;
        if (same) {
            with.target_name = "target";
            with.target_secret = with.secret;
            with.target_secret_size = with.secret_size;
        }
        challenged(t, "5", ISCSI_CHAP_MD5);
        assert_int_equal(answer(t, ISCSI_CHAP_MD5, SECRET, challenge), ISCSI_LOGIN_AUTHENTICATE);
        check_refusal(t, authenticate(t, &with), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    }
}

static void test_chap_refused(void **state)
{
    struct login_test *t = *state;
    challenged(t, "5", ISCSI_CHAP_MD5);
    assert_int_equal(answer(t, ISCSI_CHAP_MD5, "another secret", ""), ISCSI_LOGIN_AUTHENTICATE);
    check_refusal(t, authenticate(t, &secrets), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    assert_false(t->login.authenticated);

    /* A response of another length than the hash has, though its first bytes are right. */
    again(state);
    t = *state;
    challenged(t, "5", ISCSI_CHAP_MD5);
    assert_int_equal(answer(t, ISCSI_CHAP_SHA256, SECRET, ""), ISCSI_LOGIN_AUTHENTICATE);
    check_refusal(t, authenticate(t, &secrets), ISCSI_LOGIN_AUTHENTICATION_FAILURE);

    static const char *const texts[] = {
        "CHAP_N=vol/3/1\n",         "CHAP_R=0x00\n",        "", "CHAP_N=\nCHAP_R=0x00\n",
        "CHAP_N=a\nCHAP_R=12345\n", "CHAP_N=a\nCHAP_R=0x\n"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        again(state);
        t = *state;
        challenged(t, "5", ISCSI_CHAP_MD5);
        check_refusal(t, send_text(t, S_TO_O, texts[i]), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    }
    static const char *const algorithms[] = {"CHAP_A=6\n", "CHAP_A=8,6\n", "CHAP_A=\n", "CHAP_A=57\n", ""};
    for (size_t i = 0; i < sizeof(algorithms) / sizeof(algorithms[0]); i++) {
        again(state);
        t = *state;
        assert_int_equal(send_text(t, IN_S, NORMAL "AuthMethod=CHAP\n"), ISCSI_LOGIN_RESPOND);
        check_refusal(t, send_text(t, IN_S, algorithms[i]), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    }
}

static void test_chap_out_of_order(void **state)
{
    check_first_refused(state, IN_S, NORMAL "AuthMethod=CHAP\nCHAP_A=5\n", ISCSI_LOGIN_INITIATOR_ERROR);
    check_first_refused(state, IN_S, NORMAL "CHAP_N=a\nCHAP_R=0x00\n", ISCSI_LOGIN_INITIATOR_ERROR);
    again(state);
    struct login_test *t = *state;
    challenged(t, "5", ISCSI_CHAP_MD5);
    check_refusal(t, send_text(t, IN_S, "CHAP_A=5\n"), ISCSI_LOGIN_INITIATOR_ERROR);
    again(state);
    t = *state;
    challenged(t, "5", ISCSI_CHAP_MD5);
    check_refusal(t, send_text(t, IN_S, "AuthMethod=None\n"), ISCSI_LOGIN_INITIATOR_ERROR);
    /* After AuthMethod=CHAP was agreed on, leaving the stage is no way around it. */
    again(state);
    t = *state;
    assert_int_equal(send_text(t, S_TO_O, NORMAL "AuthMethod=CHAP\n"), ISCSI_LOGIN_RESPOND);
    check_response(t, IN_S, "TargetPortalGroupTag=1\nAuthMethod=CHAP\n");
    check_refusal(t, send_text(t, S_TO_F, ""), ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    again(state);
    t = *state;
    challenged(t, "5", ISCSI_CHAP_MD5);
    check_refusal(t, send_text(t, O_TO_F, ""), ISCSI_LOGIN_INITIATOR_ERROR);
}

static void test_chap_required(void **state)
{
    check_first_refused(state, S_TO_O, NORMAL "AuthMethod=None\n", ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    check_first_refused(state, S_TO_O, NORMAL "AuthMethod=KRB5,SRP\n", ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    check_first_refused(state, S_TO_O, NORMAL, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    check_first_refused(state, S_TO_F, NORMAL, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    check_first_refused(state, O_TO_F, NORMAL, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    check_first_refused(state, IN_O, NORMAL, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    struct login_test *t = *state;
    t->config.chap_required_discovery = true;
    check_first_refused(state, O_TO_F, DISCOVERY, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    check_first_refused(state, S_TO_F, DISCOVERY "AuthMethod=None\n", ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    /* None before CHAP is no choice of the initiator's. */
    again(state);
    t = *state;
    assert_int_equal(send_text(t, S_TO_O, NORMAL "AuthMethod=None,CHAP\n"), ISCSI_LOGIN_RESPOND);
    check_response(t, IN_S, "TargetPortalGroupTag=1\nAuthMethod=CHAP\n");
}

static void test_discovery(void **state)
{
    struct login_test *t = *state;
    assert_int_equal(send_text(t, S_TO_O, DISCOVERY "AuthMethod=None\n"), ISCSI_LOGIN_RESPOND);
    check_response(t, S_TO_O, "AuthMethod=None\n");
    assert_int_equal(send_text(t, O_TO_F, "MaxRecvDataSegmentLength=32768\nInitialR2T=No\n"),
                     ISCSI_LOGIN_ADMIT);
    assert_true(t->login.discovery);
    assert_false(t->login.authenticated);
    admitted(t, O_TO_F, "MaxRecvDataSegmentLength=262144\nInitialR2T=Irrelevant\n");

    /* Straight to the full feature phase, from either stage. Without a declaration of ours, its default
     * holds. */
    again(state);
    t = *state;
    assert_int_equal(send_text(t, S_TO_F, DISCOVERY), ISCSI_LOGIN_ADMIT);
    admitted(t, S_TO_F, "");
    assert_int_equal(t->login.parameters.max_recv_data_segment_length, 8192);
    again(state);
    t = *state;
    assert_int_equal(send_text(t, O_TO_F, DISCOVERY "HeaderDigest=CRC32C,None\n"), ISCSI_LOGIN_ADMIT);
    admitted(t, O_TO_F, "HeaderDigest=CRC32C\nMaxRecvDataSegmentLength=262144\n");
    assert_true(t->login.parameters.header_digest);
}

/* SessionType behind a key whose meaning it changes; its default. */
static void test_session_type(void **state)
{
    struct login_test *t = *state;
    assert_int_equal(send_text(t, O_TO_F, "MaxConnections=4\n" DISCOVERY), ISCSI_LOGIN_ADMIT);
    admitted(t, O_TO_F, "MaxConnections=Irrelevant\nMaxRecvDataSegmentLength=262144\n");
    again(state);
    t = *state;
    t->config.chap_required = false;
    assert_int_equal(send_text(t, O_TO_F, INITIATOR TARGET), ISCSI_LOGIN_ADMIT);
    assert_false(t->login.discovery);
    check_first_refused(state, S_TO_O, INITIATOR TARGET "SessionType=Boot\n",
                        ISCSI_LOGIN_SESSION_TYPE_UNSUPPORTED);
}

static void test_names(void **state)
{
    check_first_refused(state, S_TO_O, TARGET "SessionType=Normal\n", ISCSI_LOGIN_MISSING_PARAMETER);
    check_first_refused(state, S_TO_O, INITIATOR "SessionType=Normal\n", ISCSI_LOGIN_MISSING_PARAMETER);
    check_first_refused(state, S_TO_O, INITIATOR, ISCSI_LOGIN_MISSING_PARAMETER);
    check_first_refused(state, S_TO_O, "", ISCSI_LOGIN_MISSING_PARAMETER);
    check_first_refused(state, S_TO_O, "InitiatorName=\n" TARGET, ISCSI_LOGIN_INITIATOR_ERROR);
    check_first_refused(state, S_TO_O, "InitiatorName=host\n" TARGET, ISCSI_LOGIN_INITIATOR_ERROR);
    check_first_refused(state, S_TO_O, "InitiatorName=iqn.a b\n" TARGET, ISCSI_LOGIN_INITIATOR_ERROR);
    check_first_refused(state, S_TO_O, INITIATOR "TargetName=../x\n", ISCSI_LOGIN_NOT_FOUND);
    check_first_refused(state, S_TO_O, NORMAL INITIATOR, ISCSI_LOGIN_INITIATOR_ERROR);

    char text[512] = "InitiatorName=iqn.";
    memset(text + strlen(text), 'a', ISCSI_NAME_MAX - 4 + 1);
    strcat(text, "\n" TARGET);
    check_first_refused(state, S_TO_O, text, ISCSI_LOGIN_INITIATOR_ERROR);
    memmove(text + 18, text + 19, strlen(text + 18));
    again(state);
    struct login_test *t = *state;
    assert_int_equal(send_text(t, IN_S, text), ISCSI_LOGIN_RESPOND);
    assert_int_equal(strlen(t->login.initiator_name), ISCSI_NAME_MAX);
    check_refusal(t, send_text(t, IN_S, TARGET), ISCSI_LOGIN_INITIATOR_ERROR);
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
        again(state);
        struct login_test *t = *state;
        authenticated(t);
        check_refusal(t, send_text(t, O_TO_F, texts[i]), ISCSI_LOGIN_INITIATOR_ERROR);
    }
    check_first_refused(state, S_TO_O, NORMAL "HeaderDigest=None\n", ISCSI_LOGIN_INITIATOR_ERROR);
    check_first_refused(state, IN_S, NORMAL "AuthMethod=CHAP\nAuthMethod=CHAP\n",
                        ISCSI_LOGIN_INITIATOR_ERROR);
    /* Across requests too. */
    again(state);
    struct login_test *t = *state;
    authenticated(t);
    assert_int_equal(send_text(t, IN_O, "InitialR2T=No\n"), ISCSI_LOGIN_RESPOND);
    check_refusal(t, send_text(t, IN_O, "InitialR2T=No\n"), ISCSI_LOGIN_INITIATOR_ERROR);
}

static void test_stages_refused(void **state)
{
    check_first_refused(state, 0x08, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    check_first_refused(state, 0x0c, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    check_first_refused(state, ISCSI_LOGIN_TRANSIT | 0x00, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    check_first_refused(state, ISCSI_LOGIN_TRANSIT | 0x02, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    check_first_refused(state, ISCSI_LOGIN_TRANSIT | 0x05, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    check_first_refused(state, S_TO_O | ISCSI_LOGIN_CONTINUE, NORMAL, ISCSI_LOGIN_INITIATOR_ERROR);
    again(state);
    struct login_test *t = *state;
    authenticated(t);
    check_refusal(t, send_text(t, IN_S, ""), ISCSI_LOGIN_INITIATOR_ERROR);
}

static void test_header_refused(void **state)
{
    struct login_test *t = *state;
    union iscsi_bhs bhs = request_header(t, IN_S, 0);
    bhs.login_request.version_min = 1;
    bhs.login_request.version_max = 1;
    check_refusal(t, iscsi_login_feed(&t->login, &bhs, "", 0), ISCSI_LOGIN_UNSUPPORTED_VERSION);

    for (unsigned change = 0; change < 4; change++) {
        again(state);
        t = *state;
        assert_int_equal(send_text(t, IN_S, NORMAL "AuthMethod=CHAP\n"), ISCSI_LOGIN_RESPOND);
        bhs = request_header(t, IN_S, 0);
        uint8_t *const changed[] = {&bhs.login_request.isid[5], &bhs.login_request.tsih.bytes[1],
                                    &bhs.login_request.cid.bytes[1], &bhs.login_request.task_tag.bytes[0]};
        *changed[change] ^= 1;
        check_refusal(t, iscsi_login_feed(&t->login, &bhs, "", 0), ISCSI_LOGIN_INITIATOR_ERROR);
    }

    again(state);
    t = *state;
    assert_int_equal(send_text(t, IN_S, NORMAL "AuthMethod=CHAP\n"), ISCSI_LOGIN_RESPOND);
    bhs = request_header(t, IN_S, 0);
    bhs.any.opcode = ISCSI_OP_SCSI_COMMAND;
    check_refusal(t, iscsi_login_feed(&t->login, &bhs, "", 0), ISCSI_LOGIN_INVALID_DURING_LOGIN);

    again(state);
    t = *state;
    assert_int_equal(iscsi_login_feed(&t->login, &bhs, "", 0), ISCSI_LOGIN_DROP);
}

static void test_too_much(void **state)
{
    struct login_test *t = *state;
    enum iscsi_login_event event = ISCSI_LOGIN_RESPOND;
    unsigned pdus = 0;
    assert_int_equal(send_text(t, IN_S, NORMAL), ISCSI_LOGIN_RESPOND);
    for (pdus = 1; event == ISCSI_LOGIN_RESPOND; pdus++)
        event = send_text(t, IN_S, "");
    check_refusal(t, event, ISCSI_LOGIN_INITIATOR_ERROR);
    assert_int_equal(pdus, ISCSI_LOGIN_PDUS_MAX + 1);

    /* Text without end under the C bit. */
    again(state);
    t = *state;
    char text[4097];
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (unsigned i = 0; i < ISCSI_TEXT_REQUEST_MAX / 4096; i++)
        assert_int_equal(send_text(t, IN_S | ISCSI_LOGIN_CONTINUE, text), ISCSI_LOGIN_RESPOND);
    check_refusal(t, send_text(t, IN_S | ISCSI_LOGIN_CONTINUE, "a"), ISCSI_LOGIN_INITIATOR_ERROR);

    again(state);
    t = *state;
    char many[4096] = NORMAL;
    for (unsigned i = 0; i < ISCSI_TEXT_PAIRS_MAX; i++)
        strcat(many, "X-a=b\n");
    check_refusal(t, send_text(t, S_TO_O, many), ISCSI_LOGIN_INITIATOR_ERROR);
}

/* As many unknown keys as the parser takes, as long as they may be: the answer still fits one response. */
static void test_longest_answer_fits(void **state)
{
    struct login_test *t = *state;
    char text[8192] = "";
    authenticated(t);
    for (unsigned i = 0; i < ISCSI_TEXT_PAIRS_MAX; i++)
        sprintf(text + strlen(text), "X-%061u=\n", i);
    assert_int_equal(send_text(t, IN_O, text), ISCSI_LOGIN_RESPOND);
    assert_true(t->login.response_size > ISCSI_TEXT_PAIRS_MAX * 64);
    assert_non_null(strstr(t->text, "63=NotUnderstood\nMaxRecvDataSegmentLength=262144\n"));
}

static void test_callers_refusals(void **state)
{
    struct login_test *t = *state;
    assert_int_equal(iscsi_login_refuse(&t->login, ISCSI_LOGIN_SERVICE_UNAVAILABLE, "not yet"),
                     ISCSI_LOGIN_DROP);
    again(state);
    t = *state;
    challenged(t, "5", ISCSI_CHAP_MD5);
    assert_int_equal(answer(t, ISCSI_CHAP_MD5, SECRET, ""), ISCSI_LOGIN_AUTHENTICATE);
    check_refusal(t, iscsi_login_refuse(&t->login, ISCSI_LOGIN_AUTHORIZATION_FAILURE, "an older epoch"),
                  ISCSI_LOGIN_AUTHORIZATION_FAILURE);
    assert_string_equal(t->login.reason, "an older epoch");
    again(state);
    t = *state;
    authenticated(t);
    assert_int_equal(send_text(t, O_TO_F, OPEN_ISCSI_KEYS), ISCSI_LOGIN_ADMIT);
    check_refusal(t, iscsi_login_refuse(&t->login, ISCSI_LOGIN_NO_SESSION, "no such session"),
                  ISCSI_LOGIN_NO_SESSION);
    assert_int_equal(iscsi_be32_get(t->login.response.login_response.stat_sn), 7 + 3);
}

static void test_requests_while_waiting(void **state)
{
    struct login_test *t = *state;
    challenged(t, "5", ISCSI_CHAP_MD5);
    assert_int_equal(answer(t, ISCSI_CHAP_MD5, SECRET, ""), ISCSI_LOGIN_AUTHENTICATE);
    check_refusal(t, send_text(t, S_TO_O, ""), ISCSI_LOGIN_INITIATOR_ERROR);
    again(state);
    t = *state;
    authenticated(t);
    assert_int_equal(send_text(t, O_TO_F, ""), ISCSI_LOGIN_ADMIT);
    check_refusal(t, send_text(t, O_TO_F, ""), ISCSI_LOGIN_INITIATOR_ERROR);
}

/* The secret's traces are gone once they are not needed. */
static void test_wiped(void **state)
{
    static const struct iscsi_login_chap wiped;
    struct login_test *t = *state;
    authenticated(t);
    assert_memory_equal(&t->login.chap, &wiped, sizeof(wiped));
    for (size_t i = 0; i < sizeof(t->login.gather_buffer); i++)
        assert_int_equal(t->login.gather_buffer[i], 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_open_iscsi_with_chap),
        TEST(test_operational_in_pieces),
        TEST(test_names_in_pieces),
        TEST(test_sha256),
        TEST(test_chap_golden),
        TEST(test_mutual),
        TEST(test_mutual_refused),
        TEST(test_chap_refused),
        TEST(test_chap_out_of_order),
        TEST(test_chap_required),
        TEST(test_discovery),
        TEST(test_session_type),
        TEST(test_names),
        TEST(test_keys_refused),
        TEST(test_stages_refused),
        TEST(test_header_refused),
        TEST(test_too_much),
        TEST(test_longest_answer_fits),
        TEST(test_callers_refusals),
        TEST(test_requests_while_waiting),
        TEST(test_wiped),
    };
    return cmocka_run_group_tests_name("iscsi_login", tests, NULL, NULL);
}
