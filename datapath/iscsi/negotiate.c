/*
 * The table of operational keys, and one answering function per type of key. Owns nothing; runs on the
 * connection's loop. Called by login, and by target for text requests.
 */
#include "datapath/iscsi/negotiate.h"

#include <stddef.h>

#include "common/size.h"
#include "common/strings.h"
#include "datapath/iscsi/pdu.h"

#define LENGTH_MIN 512
#define LENGTH_MAX 0xffffff
#define SECONDS_MAX 3600

const struct iscsi_negotiate_limits iscsi_negotiate_limits_default = {
    .max_recv_data_segment_length = 256 * KIB,
    .max_burst_length = 1 * MIB,
    .first_burst_length = 256 * KIB,
    .max_outstanding_r2t = 1,
    .initial_r2t = false,
    .immediate_data = true,
    .digests = true,
};

enum key_type {
    KEY_MINIMUM,    /* number: the smaller of theirs and ours */
    KEY_MAXIMUM,    /* number: the larger */
    KEY_AND,        /* Yes when both say Yes */
    KEY_OR,         /* No when both say No */
    KEY_DIGEST,     /* list of CRC32C and None */
    KEY_REPORTING,  /* TaskReporting: a list, of which we do RFC3720 */
    KEY_DATA_LIMIT, /* MaxRecvDataSegmentLength, which each side declares */
    KEY_NOTED,      /* a declaration that changes nothing here */
    KEY_OBSOLETE,   /* of RFC 3720, to be refused by the constant in the table, never as NotUnderstood */
    KEY_MISPLACED,  /* known, never an initiator's to send here */
};

struct key {
    const char *name;
    enum key_type type;
    bool irrelevant_in_discovery;
    uint32_t low, high; /* the range of a number */
    size_t parameter;   /* where the outcome goes */
    uint32_t ours;      /* our side of it … */
    size_t limit;       /* … or where in the limits it stands, plus 1 */
    const char *answer; /* KEY_OBSOLETE */
};

#define TO(member) .parameter = offsetof(struct iscsi_parameters, member)
#define LIMIT(member) .limit = offsetof(struct iscsi_negotiate_limits, member) + 1

static const struct key keys[] = {
    {"HeaderDigest", KEY_DIGEST, TO(header_digest)},
    {"DataDigest", KEY_DIGEST, TO(data_digest)},
    {"MaxConnections", KEY_MINIMUM, true, 1, 65535, TO(max_connections), .ours = 1},
    {"InitialR2T", KEY_OR, true, TO(initial_r2t), LIMIT(initial_r2t)},
    {"ImmediateData", KEY_AND, true, TO(immediate_data), LIMIT(immediate_data)},
    {"MaxRecvDataSegmentLength", KEY_DATA_LIMIT, false, LENGTH_MIN, LENGTH_MAX,
     TO(max_send_data_segment_length)},
    {"MaxBurstLength", KEY_MINIMUM, true, LENGTH_MIN, LENGTH_MAX, TO(max_burst_length),
     LIMIT(max_burst_length)},
    {"FirstBurstLength", KEY_MINIMUM, true, LENGTH_MIN, LENGTH_MAX, TO(first_burst_length),
     LIMIT(first_burst_length)},
    {"DefaultTime2Wait", KEY_MAXIMUM, false, 0, SECONDS_MAX, TO(default_time2wait_seconds), .ours = 0},
    {"DefaultTime2Retain", KEY_MINIMUM, false, 0, SECONDS_MAX, TO(default_time2retain_seconds), .ours = 0},
    {"MaxOutstandingR2T", KEY_MINIMUM, true, 1, 65535, TO(max_outstanding_r2t), LIMIT(max_outstanding_r2t)},
    {"DataPDUInOrder", KEY_OR, true, TO(data_pdu_in_order), .ours = 1},
    {"DataSequenceInOrder", KEY_OR, true, TO(data_sequence_in_order), .ours = 1},
    {"ErrorRecoveryLevel", KEY_MINIMUM, false, 0, 2, TO(error_recovery_level), .ours = 0},
    {"TaskReporting", KEY_REPORTING, .irrelevant_in_discovery = true},
    {"iSCSIProtocolLevel", KEY_MINIMUM, true, 0, 31, TO(protocol_level), .ours = 1},
    {.name = "InitiatorAlias", .type = KEY_NOTED},
    {"IFMarker", KEY_OBSOLETE, .answer = "No"},
    {"OFMarker", KEY_OBSOLETE, .answer = "No"},
    {"IFMarkInt", KEY_OBSOLETE, .answer = "Irrelevant"},
    {"OFMarkInt", KEY_OBSOLETE, .answer = "Irrelevant"},
    {.name = "InitiatorName", .type = KEY_MISPLACED},
    {.name = "TargetName", .type = KEY_MISPLACED},
    {.name = "SessionType", .type = KEY_MISPLACED},
    {.name = "AuthMethod", .type = KEY_MISPLACED},
    {.name = "SendTargets", .type = KEY_MISPLACED},
    {.name = "TargetAlias", .type = KEY_MISPLACED},
    {.name = "TargetAddress", .type = KEY_MISPLACED},
    {.name = "TargetPortalGroupTag", .type = KEY_MISPLACED},
};

#define KEYS_COUNT (sizeof(keys) / sizeof(keys[0]))
static_assert(KEYS_COUNT <= 32, "one bit per key in iscsi_negotiation.seen");

void iscsi_negotiation_init(struct iscsi_negotiation *negotiation,
                            const struct iscsi_negotiate_limits *limits)
{
    *negotiation = (struct iscsi_negotiation){
        .limits = *limits,
        .parameters =
            {
                .max_recv_data_segment_length = ISCSI_LOGIN_DATA_MAX,
                .max_send_data_segment_length = ISCSI_LOGIN_DATA_MAX,
                .max_burst_length = 262144,
                .first_burst_length = 65536,
                .initial_r2t = true,
                .immediate_data = true,
                .max_outstanding_r2t = 1,
                .max_connections = 1,
                .default_time2wait_seconds = 2,
                .default_time2retain_seconds = 20,
                .data_pdu_in_order = true,
                .data_sequence_in_order = true,
                .protocol_level = 1,
            },
    };
}

static const struct key *find_key(const char *name)
{
    for (size_t i = 0; i < KEYS_COUNT; i++)
        if (str_equal(keys[i].name, name))
            return &keys[i];
    return NULL;
}

static bool seen(const struct iscsi_negotiation *negotiation, const char *name)
{
    return (negotiation->seen >> (find_key(name) - keys) & 1) != 0;
}

static void *parameter(struct iscsi_negotiation *negotiation, const struct key *key)
{
    return (char *)&negotiation->parameters + key->parameter;
}

static uint32_t our_number(const struct iscsi_negotiation *negotiation, const struct key *key)
{
    if (key->limit == 0)
        return key->ours;
    return *(const uint32_t *)((const char *)&negotiation->limits + key->limit - 1);
}

static bool our_bool(const struct iscsi_negotiation *negotiation, const struct key *key)
{
    if (key->limit == 0)
        return key->ours != 0;
    return *(const bool *)((const char *)&negotiation->limits + key->limit - 1);
}

static enum iscsi_key_result refuse(const struct key *key, const char *constant,
                                    struct iscsi_text_writer *answer)
{
    iscsi_text_put(answer, key->name, constant);
    return ISCSI_KEY_REFUSED;
}

static bool number_in_range(const struct key *key, const char *value, uint32_t *ret)
{
    uint32_t number;
    if (!iscsi_text_number(value, &number) || number < key->low || number > key->high)
        return false;
    *ret = number;
    return true;
}

static enum iscsi_key_result answer_number(struct iscsi_negotiation *negotiation, const struct key *key,
                                           const char *value, struct iscsi_text_writer *answer)
{
    uint32_t theirs;
    if (!number_in_range(key, value, &theirs))
        return refuse(key, "Reject", answer);
    uint32_t ours = our_number(negotiation, key);
    uint32_t outcome = key->type == KEY_MINIMUM ? MIN(theirs, ours) : MAX(theirs, ours);
    *(uint32_t *)parameter(negotiation, key) = outcome;
    iscsi_text_put_number(answer, key->name, outcome);
    return ISCSI_KEY_ANSWERED;
}

static enum iscsi_key_result answer_bool(struct iscsi_negotiation *negotiation, const struct key *key,
                                         const char *value, struct iscsi_text_writer *answer)
{
    bool theirs = str_equal(value, "Yes");
    if (!theirs && !str_equal(value, "No"))
        return refuse(key, "Reject", answer);
    bool ours = our_bool(negotiation, key);
    bool outcome = key->type == KEY_AND ? theirs && ours : theirs || ours;
    *(bool *)parameter(negotiation, key) = outcome;
    iscsi_text_put(answer, key->name, outcome ? "Yes" : "No");
    return ISCSI_KEY_ANSWERED;
}

/* The initiator's order is its preference: the first that we take. */
static enum iscsi_key_result answer_digest(struct iscsi_negotiation *negotiation, const struct key *key,
                                           const char *value, struct iscsi_text_writer *answer)
{
    const char *item;
    size_t length;
    while (iscsi_text_list_next(&value, &item, &length)) {
        bool none = length == 4 && memcmp(item, "None", 4) == 0;
        bool crc32c = length == 6 && memcmp(item, "CRC32C", 6) == 0 && negotiation->limits.digests;
        if (!none && !crc32c)
            continue;
        *(bool *)parameter(negotiation, key) = crc32c;
        iscsi_text_put(answer, key->name, crc32c ? "CRC32C" : "None");
        return ISCSI_KEY_ANSWERED;
    }
    return refuse(key, "Reject", answer);
}

static enum iscsi_key_result answer_reporting(const struct key *key, const char *value,
                                              struct iscsi_text_writer *answer)
{
    if (!iscsi_text_list_has(value, "RFC3720"))
        return refuse(key, "Reject", answer);
    iscsi_text_put(answer, key->name, "RFC3720");
    return ISCSI_KEY_ANSWERED;
}

void iscsi_negotiate_declare(struct iscsi_negotiation *negotiation, struct iscsi_text_writer *answer)
{
    if (negotiation->declared)
        return;
    negotiation->declared = true;
    negotiation->parameters.max_recv_data_segment_length = negotiation->limits.max_recv_data_segment_length;
    iscsi_text_put_number(answer, "MaxRecvDataSegmentLength",
                          negotiation->limits.max_recv_data_segment_length);
}

/* A declaration has no answer that could refuse it: out of range is a protocol error. */
static enum iscsi_key_result answer_data_limit(struct iscsi_negotiation *negotiation, const struct key *key,
                                               const char *value, struct iscsi_text_writer *answer)
{
    uint32_t *theirs = parameter(negotiation, key);
    if (!number_in_range(key, value, theirs))
        return ISCSI_KEY_PROTOCOL_ERROR;
    iscsi_negotiate_declare(negotiation, answer);
    return ISCSI_KEY_ANSWERED;
}

static enum iscsi_key_result answer_by_type(struct iscsi_negotiation *negotiation, const struct key *key,
                                            const char *value, struct iscsi_text_writer *answer)
{
    switch (key->type) {
    case KEY_MINIMUM:
    case KEY_MAXIMUM:
        return answer_number(negotiation, key, value, answer);
    case KEY_AND:
    case KEY_OR:
        return answer_bool(negotiation, key, value, answer);
    case KEY_DIGEST:
        return answer_digest(negotiation, key, value, answer);
    case KEY_REPORTING:
        return answer_reporting(key, value, answer);
    case KEY_DATA_LIMIT:
        return answer_data_limit(negotiation, key, value, answer);
    case KEY_NOTED:
        return ISCSI_KEY_ANSWERED;
    case KEY_OBSOLETE:
        return refuse(key, key->answer, answer);
    case KEY_MISPLACED:
        return ISCSI_KEY_PROTOCOL_ERROR;
    }
    return ISCSI_KEY_PROTOCOL_ERROR;
}

enum iscsi_key_result iscsi_negotiate_key(struct iscsi_negotiation *negotiation, enum iscsi_stage stage,
                                          const char *name, const char *value,
                                          struct iscsi_text_writer *answer)
{
    const struct key *key = find_key(name);
    if (key == NULL) {
        iscsi_text_put(answer, name, "NotUnderstood");
        return ISCSI_KEY_REFUSED;
    }
    uint32_t bit = UINT32_C(1) << (key - keys);
    if ((negotiation->seen & bit) != 0 || strlen(value) > ISCSI_TEXT_VALUE_MAX)
        return ISCSI_KEY_PROTOCOL_ERROR;
    negotiation->seen |= bit;
    bool always = key->type == KEY_NOTED || key->type == KEY_MISPLACED;
    if (stage == ISCSI_STAGE_SECURITY && !always)
        return ISCSI_KEY_PROTOCOL_ERROR;
    if (stage == ISCSI_STAGE_FULL_FEATURE && !always && key->type != KEY_DATA_LIMIT)
        return refuse(key, "Reject", answer);
    if (negotiation->discovery && key->irrelevant_in_discovery)
        return refuse(key, "Irrelevant", answer);
    return answer_by_type(negotiation, key, value, answer);
}

bool iscsi_negotiate_finish(struct iscsi_negotiation *negotiation)
{
    struct iscsi_parameters *parameters = &negotiation->parameters;
    if (parameters->first_burst_length <= parameters->max_burst_length)
        return true;
    /* Ours keeps the order, so that with both agreed on it was theirs that does not. */
    if (seen(negotiation, "FirstBurstLength") && seen(negotiation, "MaxBurstLength"))
        return false;
    parameters->first_burst_length = parameters->max_burst_length;
    return true;
}

void iscsi_negotiate_restart(struct iscsi_negotiation *negotiation)
{
    negotiation->seen = 0;
    negotiation->declared = false;
}
