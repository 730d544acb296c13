/*
 * Fuzzes text keys: parses the input, reads each value as number, binary and list, has it negotiated in each
 * stage, and parses what was answered: an answer is always well-formed.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/error.h"
#include "datapath/iscsi/negotiate.h"
#include "datapath/iscsi/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_value(const char *value)
{
    uint8_t bytes[64];
    uint32_t number;
    size_t length, items = 0;
    const char *item;
    if (iscsi_text_number(value, &number))
        assert(*value >= '0' && *value <= '9');
    if (iscsi_text_binary(value, bytes, sizeof(bytes), &length) == 0)
        assert(length > 0 && length <= sizeof(bytes));
    for (const char *list = value; iscsi_text_list_next(&list, &item, &length);) {
        assert(item >= value && item + length <= value + strlen(value));
        items++;
    }
    assert(items >= 1);
}

static void check_parameters(const struct iscsi_negotiation *negotiation)
{
    const struct iscsi_parameters *parameters = &negotiation->parameters;
    assert(parameters->max_connections == 1 && parameters->error_recovery_level == 0);
    assert(parameters->max_outstanding_r2t == 1);
    assert(parameters->data_pdu_in_order && parameters->data_sequence_in_order);
    assert(parameters->max_burst_length >= 512 &&
           parameters->max_burst_length <= negotiation->limits.max_burst_length);
    assert(parameters->max_send_data_segment_length >= 512 &&
           parameters->max_send_data_segment_length < 1 << 24);
    assert(parameters->protocol_level <= 1);
}

static void negotiate(const uint8_t *data, size_t size, enum iscsi_stage stage, bool discovery)
{
    char answer[16384];
    struct iscsi_negotiation negotiation;
    struct iscsi_text_parser parser;
    struct iscsi_text_pair pair;
    struct iscsi_text_writer writer;
    iscsi_negotiation_init(&negotiation, &iscsi_negotiate_limits_default);
    negotiation.discovery = discovery;
    iscsi_text_writer_init(&writer, answer, sizeof(answer));
    iscsi_text_parser_init(&parser, data, size);
    while (iscsi_text_parser_next(&parser, &pair) == 0) {
        assert(strlen(pair.key) <= ISCSI_TEXT_KEY_MAX && strlen(pair.value) == pair.value_length);
        read_value(pair.value);
        if (iscsi_negotiate_key(&negotiation, stage, pair.key, pair.value, &writer) ==
            ISCSI_KEY_PROTOCOL_ERROR)
            return;
    }
    assert(!writer.full);
    check_parameters(&negotiation);
    if (iscsi_negotiate_finish(&negotiation))
        assert(negotiation.parameters.first_burst_length <= negotiation.parameters.max_burst_length);
    iscsi_text_parser_init(&parser, answer, writer.length);
    int r;
    while ((r = iscsi_text_parser_next(&parser, &pair)) == 0)
        ;
    assert(r == E_NOT_FOUND);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    negotiate(data, size, ISCSI_STAGE_OPERATIONAL, false);
    negotiate(data, size, ISCSI_STAGE_OPERATIONAL, true);
    negotiate(data, size, ISCSI_STAGE_SECURITY, false);
    negotiate(data, size, ISCSI_STAGE_FULL_FEATURE, false);
    return 0;
}
