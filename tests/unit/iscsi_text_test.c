/* Tests of text keys: parsing, writing, numbers, binary values, and the answer to each operational key. */
#include "tests/unit/iscsi_test.h"

#include "datapath/iscsi/negotiate.h"
#include "datapath/iscsi/text.h"

/* Parse a copy of exactly this size; the first result that is not a pair, and the pairs as "key|value;…". */
static int parse(const char *text, size_t length, char ret_pairs[4096])
{
    char *copy = malloc(length + (length == 0));
    struct iscsi_text_parser parser;
    struct iscsi_text_pair pair;
    size_t at = 0;
    int r;
    if (length > 0)
        memcpy(copy, text, length);
    iscsi_text_parser_init(&parser, copy, length);
    ret_pairs[0] = '\0';
    while ((r = iscsi_text_parser_next(&parser, &pair)) == 0)
        at += (size_t)snprintf(ret_pairs + at, 4096 - at, "%s|%s;", pair.key, pair.value);
    free(copy);
    return r;
}

static void test_pairs(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t length;
        int result;
        const char *pairs;
    } cases[] = {
#define TEXT(literal) literal, sizeof(literal) - 1
        {TEXT(""), E_NOT_FOUND, ""},
        {TEXT("A=\0"), E_NOT_FOUND, "A|;"},
        {TEXT("InitiatorName=iqn.a:b\0SessionType=Normal\0"), E_NOT_FOUND,
         "InitiatorName|iqn.a:b;SessionType|Normal;"},
        {TEXT("CHAP_R=0bYWJjZA==\0iSCSIProtocolLevel=1\0"), E_NOT_FOUND,
         "CHAP_R|0bYWJjZA==;iSCSIProtocolLevel|1;"},
        {TEXT("X-com.example.a=b\0X#1=c\0"), E_NOT_FOUND, "X-com.example.a|b;X#1|c;"},
        {TEXT("A=b\0\0\0"), E_NOT_FOUND, "A|b;"},
        {TEXT("\0\0\0"), E_NOT_FOUND, ""},
        {TEXT("A=b\0\0C=d\0"), E_INVALID_ARGUMENT, "A|b;"},
        {TEXT("A=b"), E_INVALID_ARGUMENT, ""},
        {TEXT("A=b\0C"), E_INVALID_ARGUMENT, "A|b;"},
        {TEXT("A\0"), E_INVALID_ARGUMENT, ""},
        {TEXT("=b\0"), E_INVALID_ARGUMENT, ""},
        {TEXT("1A=b\0"), E_INVALID_ARGUMENT, ""},
        {TEXT("A b=c\0"), E_INVALID_ARGUMENT, ""},
        {TEXT("A=b\nc\0"), E_INVALID_ARGUMENT, ""},
        {TEXT("A=b\x7f\0"), E_INVALID_ARGUMENT, ""},
        {TEXT("A=\xc3\xa4\0"), E_NOT_FOUND, "A|\xc3\xa4;"},
#undef TEXT
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char pairs[4096];
        assert_int_equal(parse(cases[i].text, cases[i].length, pairs), cases[i].result);
        assert_string_equal(pairs, cases[i].pairs);
    }
}

static void test_pair_limits(void **state)
{
    (void)state;
    char text[8192], pairs[4096];
    memset(text, 'A', sizeof(text));
    text[ISCSI_TEXT_KEY_MAX] = '=';
    text[ISCSI_TEXT_KEY_MAX + 1] = '\0';
    assert_int_equal(parse(text, ISCSI_TEXT_KEY_MAX + 2, pairs), E_NOT_FOUND);
    text[ISCSI_TEXT_KEY_MAX] = 'A';
    text[ISCSI_TEXT_KEY_MAX + 1] = '=';
    text[ISCSI_TEXT_KEY_MAX + 2] = '\0';
    assert_int_equal(parse(text, ISCSI_TEXT_KEY_MAX + 3, pairs), E_EXHAUSTED);

    memset(text, 'v', sizeof(text));
    memcpy(text, "A=", 2);
    text[2 + ISCSI_TEXT_LONG_VALUE_MAX] = '\0';
    assert_int_equal(parse(text, 3 + ISCSI_TEXT_LONG_VALUE_MAX, pairs), E_NOT_FOUND);
    text[2 + ISCSI_TEXT_LONG_VALUE_MAX] = 'v';
    text[3 + ISCSI_TEXT_LONG_VALUE_MAX] = '\0';
    assert_int_equal(parse(text, 4 + ISCSI_TEXT_LONG_VALUE_MAX, pairs), E_EXHAUSTED);

    for (unsigned i = 0; i <= ISCSI_TEXT_PAIRS_MAX; i++)
        memcpy(text + i * 4, "A=b", 4);
    assert_int_equal(parse(text, ISCSI_TEXT_PAIRS_MAX * 4, pairs), E_NOT_FOUND);
    assert_int_equal(parse(text, (ISCSI_TEXT_PAIRS_MAX + 1) * 4, pairs), E_EXHAUSTED);
}

static void test_writer(void **state)
{
    (void)state;
    static const char expected[] = "A=b\0N=4294967295\0B=0x00ff1a\0";
    char buffer[sizeof(expected) - 1];
    struct iscsi_text_writer writer;
    iscsi_text_writer_init(&writer, buffer, sizeof(buffer));
    iscsi_text_put(&writer, "A", "b");
    iscsi_text_put_number(&writer, "N", UINT32_MAX);
    iscsi_text_put_binary(&writer, "B", "\0\xff\x1a", 3);
    assert_false(writer.full);
    assert_int_equal(writer.length, sizeof(expected) - 1);
    assert_memory_equal(buffer, expected, sizeof(expected) - 1);
    iscsi_text_put(&writer, "", "");
    assert_true(writer.full);
    assert_int_equal(writer.length, sizeof(expected) - 1);
    /* Once full, a pair that would fit is not written either: the answer lacks one before it. */
    iscsi_text_writer_init(&writer, buffer, sizeof(buffer));
    iscsi_text_put(&writer, "A", "a value that is far too long for the buffer");
    iscsi_text_put(&writer, "A", "b");
    assert_true(writer.full);
    assert_int_equal(writer.length, 0);
}

static void test_gather(void **state)
{
    (void)state;
    char *buffer = malloc(8);
    struct iscsi_text_gather gather;
    iscsi_text_gather_init(&gather, buffer, 8);
    assert_int_equal(iscsi_text_gather_add(&gather, "A=bcd", 5), 0);
    assert_int_equal(iscsi_text_gather_add(&gather, "efg\0", 4), E_EXHAUSTED);
    assert_int_equal(gather.length, 5);
    assert_int_equal(iscsi_text_gather_add(&gather, "ef\0", 3), 0);
    assert_memory_equal(buffer, "A=bcdef\0", 8);
    free(buffer);
}

static void test_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool good;
        uint32_t number;
    } cases[] = {
        {"0", true, 0},
        {"4294967295", true, UINT32_MAX},
        {"0x1F", true, 31},
        {"0Xffffffff", true, UINT32_MAX},
        {"007", true, 7},
        {"4294967296", false, 0},
        {"", false, 0},
        {"0x", false, 0},
        {"-1", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1 ", false, 0},
        {"0x1g", false, 0},
        {"12a", false, 0},
        {"0x100000000", false, 0},
        {"99999999999999999999999999", false, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t number = 12345;
        assert_int_equal(iscsi_text_number(cases[i].text, &number), cases[i].good);
        assert_int_equal(number, cases[i].good ? cases[i].number : 12345);
    }
}

static void test_binary(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int result;
        const char *bytes;
        size_t length;
    } cases[] = {
        {"0x00fF1a", 0, "\x00\xff\x1a", 3},
        {"0Xabc", 0, "\x0a\xbc", 2},
        {"0x7", 0, "\x07", 1},
        {"0bTWFu", 0, "Man", 3},
        {"0BTWE=", 0, "Ma", 2},
        {"0bTQ==", 0, "M", 1},
        {"0b+/+/", 0, "\xfb\xff\xbf", 3},
        {"0x", E_INVALID_ARGUMENT, "", 0},
        {"0b", E_INVALID_ARGUMENT, "", 0},
        {"0bTQ=", E_INVALID_ARGUMENT, "", 0},
        {"0bT===", E_INVALID_ARGUMENT, "", 0},
        {"0bTQ=A", E_INVALID_ARGUMENT, "", 0},
        {"0b====", E_INVALID_ARGUMENT, "", 0},
        {"0b=TQ=", E_INVALID_ARGUMENT, "", 0},
        {"0bT!Fu", E_INVALID_ARGUMENT, "", 0},
        {"0x0g", E_INVALID_ARGUMENT, "", 0},
        {"abc", E_INVALID_ARGUMENT, "", 0},
        {"", E_INVALID_ARGUMENT, "", 0},
        {"0", E_INVALID_ARGUMENT, "", 0},
        {"0x01020304", E_EXHAUSTED, "", 0},
        {"0bTWFuTQ==", E_EXHAUSTED, "", 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t *bytes = malloc(3);
        size_t length = 99;
        assert_int_equal(iscsi_text_binary(cases[i].text, bytes, 3, &length), cases[i].result);
        if (cases[i].result == 0) {
            assert_int_equal(length, cases[i].length);
            assert_memory_equal(bytes, cases[i].bytes, length);
        } else {
            assert_int_equal(length, 99);
        }
        free(bytes);
    }
}

static void test_binary_round_trip(void **state)
{
    (void)state;
    uint64_t seed = iscsi_test_seed();
    for (unsigned run = 0; run < 500; run++) {
        uint8_t bytes[64], back[64];
        char text[256], pairs[4096];
        struct iscsi_text_writer writer;
        size_t size = 1 + iscsi_test_random(&seed) % sizeof(bytes), length;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)iscsi_test_random(&seed);
        iscsi_text_writer_init(&writer, text, sizeof(text));
        iscsi_text_put_binary(&writer, "K", bytes, size);
        assert_int_equal(parse(text, writer.length, pairs), E_NOT_FOUND);
        assert_int_equal(iscsi_text_binary(text + 2, back, sizeof(back), &length), 0);
        assert_int_equal(length, size);
        assert_memory_equal(back, bytes, size);
    }
}

static void test_lists(void **state)
{
    (void)state;
    assert_true(iscsi_text_list_has("CHAP,None", "None"));
    assert_true(iscsi_text_list_has("CHAP", "CHAP"));
    assert_false(iscsi_text_list_has("CHAP,Nonesuch", "None"));
    assert_false(iscsi_text_list_has("xNone", "None"));
    assert_false(iscsi_text_list_has("", "None"));
    assert_true(iscsi_text_list_has("a,,b", ""));
}

struct answer {
    const char *key, *value;
    enum iscsi_key_result result;
    const char *text; /* what is answered, without its last NUL; NULL for nothing */
};

static void check_answer(struct iscsi_negotiation *negotiation, enum iscsi_stage stage,
                         const struct answer *answer)
{
    char text[256] = "";
    struct iscsi_text_writer writer;
    iscsi_text_writer_init(&writer, text, sizeof(text));
    enum iscsi_key_result result =
        iscsi_negotiate_key(negotiation, stage, answer->key, answer->value, &writer);
    if (result != answer->result || strcmp(text, answer->text == NULL ? "" : answer->text) != 0)
        print_message("%s=%s: result %d, answer \"%s\"\n", answer->key, answer->value, result, text);
    assert_int_equal(result, answer->result);
    assert_string_equal(text, answer->text == NULL ? "" : answer->text);
    assert_int_equal(writer.length, answer->text == NULL ? 0 : strlen(answer->text) + 1);
}

#define ANSWERED ISCSI_KEY_ANSWERED
#define REFUSED ISCSI_KEY_REFUSED
#define ERROR ISCSI_KEY_PROTOCOL_ERROR

static void test_each_key_alone(void **state)
{
    (void)state;
    static const struct answer answers[] = {
        {"HeaderDigest", "CRC32C,None", ANSWERED, "HeaderDigest=CRC32C"},
        {"HeaderDigest", "None,CRC32C", ANSWERED, "HeaderDigest=None"},
        {"DataDigest", "X-md5,CRC32C", ANSWERED, "DataDigest=CRC32C"},
        {"DataDigest", "X-md5", REFUSED, "DataDigest=Reject"},
        {"DataDigest", "", REFUSED, "DataDigest=Reject"},
        {"MaxConnections", "8", ANSWERED, "MaxConnections=1"},
        {"MaxConnections", "0", REFUSED, "MaxConnections=Reject"},
        {"MaxConnections", "65536", REFUSED, "MaxConnections=Reject"},
        {"InitialR2T", "No", ANSWERED, "InitialR2T=No"},
        {"InitialR2T", "Yes", ANSWERED, "InitialR2T=Yes"},
        {"InitialR2T", "yes", REFUSED, "InitialR2T=Reject"},
        {"ImmediateData", "Yes", ANSWERED, "ImmediateData=Yes"},
        {"ImmediateData", "No", ANSWERED, "ImmediateData=No"},
        {"MaxRecvDataSegmentLength", "512", ANSWERED, "MaxRecvDataSegmentLength=262144"},
        {"MaxRecvDataSegmentLength", "16777215", ANSWERED, "MaxRecvDataSegmentLength=262144"},
        {"MaxRecvDataSegmentLength", "511", ERROR, NULL},
        {"MaxRecvDataSegmentLength", "16777216", ERROR, NULL},
        {"MaxRecvDataSegmentLength", "many", ERROR, NULL},
        {"MaxBurstLength", "16776192", ANSWERED, "MaxBurstLength=1048576"},
        {"MaxBurstLength", "512", ANSWERED, "MaxBurstLength=512"},
        {"MaxBurstLength", "0x1000", ANSWERED, "MaxBurstLength=4096"},
        {"MaxBurstLength", "511", REFUSED, "MaxBurstLength=Reject"},
        {"FirstBurstLength", "65536", ANSWERED, "FirstBurstLength=65536"},
        {"FirstBurstLength", "524288", ANSWERED, "FirstBurstLength=262144"},
        {"DefaultTime2Wait", "2", ANSWERED, "DefaultTime2Wait=2"},
        {"DefaultTime2Wait", "3601", REFUSED, "DefaultTime2Wait=Reject"},
        {"DefaultTime2Retain", "20", ANSWERED, "DefaultTime2Retain=0"},
        {"MaxOutstandingR2T", "16", ANSWERED, "MaxOutstandingR2T=1"},
        {"MaxOutstandingR2T", "0", REFUSED, "MaxOutstandingR2T=Reject"},
        {"DataPDUInOrder", "No", ANSWERED, "DataPDUInOrder=Yes"},
        {"DataSequenceInOrder", "No", ANSWERED, "DataSequenceInOrder=Yes"},
        {"ErrorRecoveryLevel", "2", ANSWERED, "ErrorRecoveryLevel=0"},
        {"ErrorRecoveryLevel", "3", REFUSED, "ErrorRecoveryLevel=Reject"},
        {"TaskReporting", "FastAbort,ResponseFence,RFC3720", ANSWERED, "TaskReporting=RFC3720"},
        {"TaskReporting", "FastAbort", REFUSED, "TaskReporting=Reject"},
        {"iSCSIProtocolLevel", "2", ANSWERED, "iSCSIProtocolLevel=1"},
        {"iSCSIProtocolLevel", "32", REFUSED, "iSCSIProtocolLevel=Reject"},
        {"InitiatorAlias", "a host", ANSWERED, NULL},
        {"IFMarker", "No", REFUSED, "IFMarker=No"},
        {"OFMarker", "Yes", REFUSED, "OFMarker=No"},
        {"IFMarkInt", "1~2", REFUSED, "IFMarkInt=Irrelevant"},
        {"X-com.example.key", "1", REFUSED, "X-com.example.key=NotUnderstood"},
        {"X#NodeArchitecture", "1", REFUSED, "X#NodeArchitecture=NotUnderstood"},
        {"maxburstlength", "512", REFUSED, "maxburstlength=NotUnderstood"},
        {"TargetAlias", "x", ERROR, NULL},
        {"SendTargets", "All", ERROR, NULL},
        {"AuthMethod", "None", ERROR, NULL},
    };
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        struct iscsi_negotiation negotiation;
        iscsi_negotiation_init(&negotiation, &iscsi_negotiate_limits_default);
        check_answer(&negotiation, ISCSI_STAGE_OPERATIONAL, &answers[i]);
        /* Twice is a protocol error for what is known, and the same again for what is not. */
        char text[256];
        struct iscsi_text_writer writer;
        iscsi_text_writer_init(&writer, text, sizeof(text));
        bool unknown = answers[i].text != NULL && strstr(answers[i].text, "NotUnderstood") != NULL;
        assert_int_equal(iscsi_negotiate_key(&negotiation, ISCSI_STAGE_OPERATIONAL, answers[i].key,
                                             answers[i].value, &writer),
                         unknown ? REFUSED : ERROR);
    }
}

static void test_outcome(void **state)
{
    (void)state;
    static const struct answer answers[] = {
        {"HeaderDigest", "CRC32C", ANSWERED, "HeaderDigest=CRC32C"},
        {"DataDigest", "X-md5", REFUSED, "DataDigest=Reject"},
        {"InitialR2T", "No", ANSWERED, "InitialR2T=No"},
        {"ImmediateData", "No", ANSWERED, "ImmediateData=No"},
        {"MaxRecvDataSegmentLength", "131072", ANSWERED, "MaxRecvDataSegmentLength=262144"},
        {"MaxBurstLength", "524288", ANSWERED, "MaxBurstLength=524288"},
        {"FirstBurstLength", "131072", ANSWERED, "FirstBurstLength=131072"},
        {"DefaultTime2Wait", "5", ANSWERED, "DefaultTime2Wait=5"},
    };
    struct iscsi_negotiation negotiation;
    const struct iscsi_parameters *parameters = &negotiation.parameters;
    iscsi_negotiation_init(&negotiation, &iscsi_negotiate_limits_default);
    assert_true(parameters->initial_r2t && parameters->immediate_data && !parameters->header_digest);
    assert_int_equal(parameters->max_recv_data_segment_length, 8192);
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
        check_answer(&negotiation, ISCSI_STAGE_OPERATIONAL, &answers[i]);
    assert_true(iscsi_negotiate_finish(&negotiation));
    assert_true(parameters->header_digest);
    assert_false(parameters->data_digest);
    assert_false(parameters->initial_r2t);
    assert_false(parameters->immediate_data);
    assert_int_equal(parameters->max_recv_data_segment_length, 262144);
    assert_int_equal(parameters->max_send_data_segment_length, 131072);
    assert_int_equal(parameters->max_burst_length, 524288);
    assert_int_equal(parameters->first_burst_length, 131072);
    assert_int_equal(parameters->default_time2wait_seconds, 5);
    assert_int_equal(parameters->max_outstanding_r2t, 1);
    assert_true(parameters->data_pdu_in_order && parameters->data_sequence_in_order);
}

static void test_limits_that_refuse(void **state)
{
    (void)state;
    static const struct answer answers[] = {
        {"HeaderDigest", "CRC32C,None", ANSWERED, "HeaderDigest=None"},
        {"DataDigest", "CRC32C", REFUSED, "DataDigest=Reject"},
        {"InitialR2T", "No", ANSWERED, "InitialR2T=Yes"},
        {"ImmediateData", "Yes", ANSWERED, "ImmediateData=No"},
        {"MaxOutstandingR2T", "16", ANSWERED, "MaxOutstandingR2T=4"},
    };
    struct iscsi_negotiate_limits limits = iscsi_negotiate_limits_default;
    struct iscsi_negotiation negotiation;
    limits.digests = false;
    limits.initial_r2t = true;
    limits.immediate_data = false;
    limits.max_outstanding_r2t = 4;
    iscsi_negotiation_init(&negotiation, &limits);
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
        check_answer(&negotiation, ISCSI_STAGE_OPERATIONAL, &answers[i]);
    assert_int_equal(negotiation.parameters.max_outstanding_r2t, 4);
}

static void test_discovery_makes_keys_irrelevant(void **state)
{
    (void)state;
    static const struct answer answers[] = {
        {"InitialR2T", "No", REFUSED, "InitialR2T=Irrelevant"},
        {"MaxBurstLength", "512", REFUSED, "MaxBurstLength=Irrelevant"},
        {"MaxConnections", "2", REFUSED, "MaxConnections=Irrelevant"},
        {"TaskReporting", "RFC3720", REFUSED, "TaskReporting=Irrelevant"},
        {"HeaderDigest", "None", ANSWERED, "HeaderDigest=None"},
        {"MaxRecvDataSegmentLength", "4096", ANSWERED, "MaxRecvDataSegmentLength=262144"},
    };
    struct iscsi_negotiation negotiation;
    iscsi_negotiation_init(&negotiation, &iscsi_negotiate_limits_default);
    negotiation.discovery = true;
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
        check_answer(&negotiation, ISCSI_STAGE_OPERATIONAL, &answers[i]);
    assert_true(negotiation.parameters.initial_r2t);
    assert_int_equal(negotiation.parameters.max_burst_length, 262144);
}

static void test_stages(void **state)
{
    (void)state;
    static const struct answer security[] = {
        {"HeaderDigest", "None", ERROR, NULL},
        {"X-a", "b", REFUSED, "X-a=NotUnderstood"},
    };
    static const struct answer full_feature[] = {
        {"MaxRecvDataSegmentLength", "65536", ANSWERED, "MaxRecvDataSegmentLength=262144"},
        {"HeaderDigest", "CRC32C", REFUSED, "HeaderDigest=Reject"},
        {"MaxBurstLength", "512", REFUSED, "MaxBurstLength=Reject"},
        {"InitiatorAlias", "b", ANSWERED, NULL},
        {"InitiatorName", "iqn.a:b", ERROR, NULL},
    };
    struct iscsi_negotiation negotiation;
    iscsi_negotiation_init(&negotiation, &iscsi_negotiate_limits_default);
    for (size_t i = 0; i < sizeof(security) / sizeof(security[0]); i++)
        check_answer(&negotiation, ISCSI_STAGE_SECURITY, &security[i]);
    for (unsigned exchange = 0; exchange < 2; exchange++) {
        iscsi_negotiate_restart(&negotiation);
        for (size_t i = 0; i < sizeof(full_feature) / sizeof(full_feature[0]); i++)
            check_answer(&negotiation, ISCSI_STAGE_FULL_FEATURE, &full_feature[i]);
        assert_false(negotiation.parameters.header_digest);
        assert_int_equal(negotiation.parameters.max_send_data_segment_length, 65536);
    }
}

static void test_first_burst_above_max_burst(void **state)
{
    (void)state;
    static const struct answer max = {"MaxBurstLength", "4096", ANSWERED, "MaxBurstLength=4096"};
    static const struct answer first = {"FirstBurstLength", "8192", ANSWERED, "FirstBurstLength=8192"};
    struct iscsi_negotiation negotiation;
    iscsi_negotiation_init(&negotiation, &iscsi_negotiate_limits_default);
    check_answer(&negotiation, ISCSI_STAGE_OPERATIONAL, &max);
    assert_true(iscsi_negotiate_finish(&negotiation));
    assert_int_equal(negotiation.parameters.first_burst_length, 4096);

    iscsi_negotiation_init(&negotiation, &iscsi_negotiate_limits_default);
    check_answer(&negotiation, ISCSI_STAGE_OPERATIONAL, &max);
    check_answer(&negotiation, ISCSI_STAGE_OPERATIONAL, &first);
    assert_false(iscsi_negotiate_finish(&negotiation));
}

static void test_long_value_of_a_known_key(void **state)
{
    (void)state;
    char value[ISCSI_TEXT_VALUE_MAX + 2];
    struct iscsi_negotiation negotiation;
    memset(value, '0', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    struct answer answer = {"ErrorRecoveryLevel", value, ERROR, NULL};
    iscsi_negotiation_init(&negotiation, &iscsi_negotiate_limits_default);
    check_answer(&negotiation, ISCSI_STAGE_OPERATIONAL, &answer);
    value[sizeof(value) - 2] = '\0';
    answer = (struct answer){"ErrorRecoveryLevel", value, ANSWERED, "ErrorRecoveryLevel=0"};
    check_answer(&negotiation, ISCSI_STAGE_OPERATIONAL, &answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_pair_limits),
        cmocka_unit_test(test_writer),
        cmocka_unit_test(test_gather),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_binary),
        cmocka_unit_test(test_binary_round_trip),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_each_key_alone),
        cmocka_unit_test(test_outcome),
        cmocka_unit_test(test_limits_that_refuse),
        cmocka_unit_test(test_discovery_makes_keys_irrelevant),
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_first_burst_above_max_burst),
        cmocka_unit_test(test_long_value_of_a_known_key),
    };
    return cmocka_run_group_tests_name("iscsi_text", tests, NULL, NULL);
}
