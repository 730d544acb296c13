/*
 * The operational keys of RFC 7143, section 13, as a target answers them: one table of keys with their type,
 * the phase they are legal in and our limits. No I/O, no allocation.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "datapath/iscsi/bhs.h"
#include "datapath/iscsi/text.h"

/* What the two sides agreed on. Lengths in bytes, times in seconds. Before login: the standard's defaults. */
struct iscsi_parameters {
    bool header_digest; /* CRC32C, both ways, from the first PDU after login */
    bool data_digest;
    uint32_t max_recv_data_segment_length; /* ours: what the initiator may send in one PDU */
    uint32_t max_send_data_segment_length; /* the initiator's MaxRecvDataSegmentLength: what we may send */
    uint32_t max_burst_length;             /* of one R2T's data, or of one sequence of Data-In */
    uint32_t first_burst_length;           /* of a command's unsolicited data, immediate data included */
    bool initial_r2t;                      /* true: no unsolicited Data-Out */
    bool immediate_data;
    uint32_t max_outstanding_r2t;
    uint32_t max_connections;      /* always 1 */
    uint32_t error_recovery_level; /* always 0 */
    uint32_t default_time2wait_seconds;
    uint32_t default_time2retain_seconds;
    bool data_pdu_in_order;      /* always true */
    bool data_sequence_in_order; /* always true */
    uint32_t protocol_level;     /* iSCSIProtocolLevel, RFC 7144: always 1 */
};

/* What we offer at most. */
struct iscsi_negotiate_limits {
    uint32_t max_recv_data_segment_length; /* 512 to 2^24-1 */
    uint32_t max_burst_length;             /* 512 to 2^24-1 */
    uint32_t first_burst_length;           /* 512 to max_burst_length */
    uint32_t max_outstanding_r2t;          /* 1 or more */
    bool initial_r2t;                      /* true: never unsolicited Data-Out */
    bool immediate_data;
    bool digests; /* take CRC32C where the initiator prefers it or offers nothing else */
};

/* 256 KiB segments, 1 MiB bursts, 256 KiB first burst, one R2T, unsolicited and immediate data, digests. */
extern const struct iscsi_negotiate_limits iscsi_negotiate_limits_default;

enum iscsi_key_result {
    ISCSI_KEY_ANSWERED,       /* agreed or declared; what there was to answer is written */
    ISCSI_KEY_REFUSED,        /* answered with Reject, Irrelevant or NotUnderstood; the negotiation goes on */
    ISCSI_KEY_PROTOCOL_ERROR, /* twice the same key, not legal now, a declaration out of range: end it */
};

/* One negotiation: a login's, or the text exchanges of one connection's full feature phase. */
struct iscsi_negotiation {
    struct iscsi_negotiate_limits limits;
    struct iscsi_parameters parameters;
    bool discovery; /* SessionType=Discovery */
    uint32_t seen;  /* bit per known key */
    bool declared;  /* our MaxRecvDataSegmentLength was sent */
};

void iscsi_negotiation_init(struct iscsi_negotiation *negotiation,
                            const struct iscsi_negotiate_limits *limits);

/*
 * Answer one key that login.h and the caller do not handle themselves. stage: ISCSI_STAGE_OPERATIONAL in
 * login, ISCSI_STAGE_FULL_FEATURE in a text request, where only MaxRecvDataSegmentLength may be declared
 * anew. A key that is not known is answered NotUnderstood.
 */
enum iscsi_key_result iscsi_negotiate_key(struct iscsi_negotiation *negotiation, enum iscsi_stage stage,
                                          const char *key, const char *value,
                                          struct iscsi_text_writer *answer);

/* Write what we declare unasked (MaxRecvDataSegmentLength), once per login. */
void iscsi_negotiate_declare(struct iscsi_negotiation *negotiation, struct iscsi_text_writer *answer);

/* At the end of login: FirstBurstLength above MaxBurstLength is brought down. False: the initiator broke the
 * rule that the first may not exceed the second. */
bool iscsi_negotiate_finish(struct iscsi_negotiation *negotiation);

/* A new text request in the full feature phase: what was seen in the last one may come again. */
void iscsi_negotiate_restart(struct iscsi_negotiation *negotiation);
