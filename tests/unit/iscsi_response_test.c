/* Golden bytes of every PDU that a target sends, against the layouts of RFC 7143, section 11. */
#include "tests/unit/iscsi_test.h"

#include "datapath/iscsi/response.h"

static const struct iscsi_numbers numbers = {0x01020304, 0x11121314, 0x21222324};
static const uint8_t lun[8] = {0, 5, 0, 0, 0, 0, 0, 0};

#define NUMBERS "01 02 03 04 11 12 13 14 21 22 23 24"

static void check(const union iscsi_bhs *bhs, const char *golden)
{
    uint8_t expected[ISCSI_BHS_SIZE];
    assert_int_equal(iscsi_test_hex(golden, expected), ISCSI_BHS_SIZE);
    assert_memory_equal(bhs->bytes, expected, ISCSI_BHS_SIZE);
}

/* What a header held before must not show through. */
static union iscsi_bhs *dirty(void)
{
    static union iscsi_bhs bhs;
    memset(&bhs, 0xee, sizeof(bhs));
    return &bhs;
}

static void test_scsi(void **state)
{
    (void)state;
    union iscsi_bhs *bhs = dirty();
    iscsi_response_scsi(bhs, &numbers, 0xaabbccdd, ISCSI_SCSI_COMPLETED, 2, 7, iscsi_residual(512, 100), 20);
    check(bhs, "21 82 00 02 00 00 00 14  00 00 00 00 00 00 00 00 aa bb cc dd 00 00 00 00" NUMBERS
               "00 00 00 07 00 00 00 00 00 00 01 9c");
    bhs = dirty();
    iscsi_response_scsi(bhs, &numbers, 1, ISCSI_SCSI_TARGET_FAILURE, 0, 0, iscsi_residual(512, 513), 0);
    check(bhs, "21 84 01 00 00 00 00 00  00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00" NUMBERS
               "00 00 00 00 00 00 00 00 00 00 00 01");
    assert_int_equal(iscsi_residual(0, UINT64_MAX).count, UINT32_MAX);
    assert_int_equal(iscsi_residual(5, 5).flag, 0);
}

static void test_data_in(void **state)
{
    (void)state;
    union iscsi_bhs *bhs = dirty();
    iscsi_response_data_in(bhs, &numbers, 9, false, 3, 0x10000, 0x2345);
    check(bhs, "25 00 00 00 00 00 23 45  00 00 00 00 00 00 00 00 00 00 00 09 ff ff ff ff"
               "00 00 00 00 11 12 13 14 21 22 23 24  00 00 00 03 00 01 00 00 00 00 00 00");
    bhs = dirty();
    iscsi_response_data_in_status(bhs, &numbers, 9, 0, 4, 0x12345, 8, iscsi_residual(16, 8));
    check(bhs, "25 83 00 00 00 00 00 08  00 00 00 00 00 00 00 00 00 00 00 09 ff ff ff ff" NUMBERS
               "00 00 00 04 00 01 23 45 00 00 00 08");
}

static void test_r2t(void **state)
{
    (void)state;
    union iscsi_bhs *bhs = dirty();
    iscsi_response_r2t(bhs, &numbers, lun, 9, 0x55, 2, 0x1000, 0x40000);
    check(bhs, "31 80 00 00 00 00 00 00  00 05 00 00 00 00 00 00 00 00 00 09 00 00 00 55" NUMBERS
               "00 00 00 02 00 00 10 00 00 04 00 00");
}

static void test_tmf_logout_reject(void **state)
{
    (void)state;
    union iscsi_bhs *bhs = dirty();
    iscsi_response_tmf(bhs, &numbers, 9, ISCSI_TMF_UNSUPPORTED);
    check(bhs, "22 80 05 00 00 00 00 00  00 00 00 00 00 00 00 00 00 00 00 09 00 00 00 00" NUMBERS
               "00 00 00 00 00 00 00 00 00 00 00 00");
    bhs = dirty();
    iscsi_response_logout(bhs, &numbers, 9, ISCSI_LOGOUT_RECOVERY_UNSUPPORTED, 2, 20);
    check(bhs, "26 80 02 00 00 00 00 00  00 00 00 00 00 00 00 00 00 00 00 09 00 00 00 00" NUMBERS
               "00 00 00 00 00 02 00 14 00 00 00 00");
    bhs = dirty();
    iscsi_response_reject(bhs, &numbers, ISCSI_REJECT_SNACK);
    check(bhs, "3f 80 03 00 00 00 00 30  00 00 00 00 00 00 00 00 ff ff ff ff 00 00 00 00" NUMBERS
               "00 00 00 00 00 00 00 00 00 00 00 00");
}

static void test_nop_text(void **state)
{
    (void)state;
    union iscsi_bhs *bhs = dirty();
    iscsi_response_nop_in(bhs, &numbers, lun, 9, 4);
    check(bhs, "20 80 00 00 00 00 00 04  00 05 00 00 00 00 00 00 00 00 00 09 ff ff ff ff" NUMBERS
               "00 00 00 00 00 00 00 00 00 00 00 00");
    bhs = dirty();
    iscsi_response_ping(bhs, &numbers, lun, 0x66);
    check(bhs, "20 80 00 00 00 00 00 00  00 05 00 00 00 00 00 00 ff ff ff ff 00 00 00 66" NUMBERS
               "00 00 00 00 00 00 00 00 00 00 00 00");
    bhs = dirty();
    iscsi_response_text(bhs, &numbers, lun, 9, 0x77, ISCSI_TEXT_CONTINUE, 0x1ff);
    check(bhs, "24 40 00 00 00 00 01 ff  00 05 00 00 00 00 00 00 00 00 00 09 00 00 00 77" NUMBERS
               "00 00 00 00 00 00 00 00 00 00 00 00");
}

static void test_login(void **state)
{
    (void)state;
    union iscsi_bhs request, *bhs = dirty();
    iscsi_test_hex("43 87 00 00 00 00 00 00  80 01 02 03 04 05 00 00 00 00 00 09 00 07 00 00"
                   "00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00",
                   request.bytes);
    iscsi_response_login(bhs, &numbers, &request, 0x1234, 0x87, 0x0201, 0x44);
    check(bhs, "23 87 00 00 00 00 00 44  80 01 02 03 04 05 12 34 00 00 00 09 00 00 00 00" NUMBERS
               "02 01 00 00 00 00 00 00 00 00 00 00");
}

static void test_digests(void **state)
{
    (void)state;
    struct iscsi_pdu_header header;
    uint8_t digest[ISCSI_DIGEST_SIZE];
    memset(&header, 0xee, sizeof(header));
    iscsi_test_hex("01 c0 00 00 00 00 00 00  00 00 00 00 00 00 00 00  14 00 00 00 00 00 04 00"
                   "00 00 00 14 00 00 00 18  28 00 00 00 00 00 00 00  02 00 00 00 00 00 00 00",
                   header.bhs.bytes);
    assert_int_equal(iscsi_response_seal(&header, false), 48);
    assert_memory_equal(header.digest, "\xee\xee\xee\xee", 4);
    assert_int_equal(iscsi_response_seal(&header, true), 52);
    assert_memory_equal(header.digest, "\x56\x3a\x96\xd9", 4);

    /* Over parts, and over the padding that follows them. */
    uint8_t bytes[32] = {0};
    struct iovec parts[] = {{bytes, 7}, {bytes, 0}, {bytes + 7, 22}};
    iscsi_response_data_digest(parts, 3, digest);
    assert_memory_equal(digest, "\xaa\x36\x91\x8a", 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scsi),    cmocka_unit_test(test_data_in),
        cmocka_unit_test(test_r2t),     cmocka_unit_test(test_tmf_logout_reject),
        cmocka_unit_test(test_login),   cmocka_unit_test(test_nop_text),
        cmocka_unit_test(test_digests),
    };
    return cmocka_run_group_tests_name("iscsi_response", tests, NULL, NULL);
}
