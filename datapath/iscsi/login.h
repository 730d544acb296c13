/*
 * The target's side of the login phase (RFC 7143, sections 6.3, 11.12, 11.13 and 12.1): a state machine of
 * one connection, without I/O, without allocation, on the connection's loop. The caller feeds each login
 * request with its whole data segment and does what the event says; asking for a secret and admitting the
 * session are the caller's and may take time.
 *
 *   feed → RESPOND ………………………………… send the response, feed the next request
 *   feed → AUTHENTICATE → (look up) → authenticate() or refuse() → one of the others
 *   feed → ADMIT → (reinstate, drain, register) → admit() or refuse() → COMPLETE or FAILED
 *   any  → COMPLETE ………………………………… send the response; after it the full feature phase, with login->parameters
 *   any  → FAILED …………………………………… send the response, then close
 *   any  → DROP ……………………………………… close without one
 *
 * While AUTHENTICATE or ADMIT is open the initiator must wait: a request fed then is a protocol error
 * (FAILED). The login's size is some 30 KiB: allocate it at accept, free it when the login ended. It holds no
 * pointer into itself's outside but config, and may not be moved.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datapath/iscsi/bhs.h"
#include "datapath/iscsi/chap.h"
#include "datapath/iscsi/negotiate.h"
#include "datapath/iscsi/pdu.h"
#include "datapath/iscsi/response.h"
#include "datapath/iscsi/text.h"

#define ISCSI_NAME_MAX 223
#define ISCSI_CHAP_NAME_MAX 255
#define ISCSI_LOGIN_PDUS_MAX 32
#define ISCSI_LOGIN_RESPONSE_MAX ISCSI_LOGIN_DATA_MAX

/* Section 11.13.5: class and detail. */
enum iscsi_login_status {
    ISCSI_LOGIN_SUCCESS = 0x0000,
    ISCSI_LOGIN_TARGET_MOVED_TEMPORARILY = 0x0101,
    ISCSI_LOGIN_TARGET_MOVED_PERMANENTLY = 0x0102,
    ISCSI_LOGIN_INITIATOR_ERROR = 0x0200,
    ISCSI_LOGIN_AUTHENTICATION_FAILURE = 0x0201,
    ISCSI_LOGIN_AUTHORIZATION_FAILURE = 0x0202,
    ISCSI_LOGIN_NOT_FOUND = 0x0203,
    ISCSI_LOGIN_TARGET_REMOVED = 0x0204,
    ISCSI_LOGIN_UNSUPPORTED_VERSION = 0x0205,
    ISCSI_LOGIN_TOO_MANY_CONNECTIONS = 0x0206,
    ISCSI_LOGIN_MISSING_PARAMETER = 0x0207,
    ISCSI_LOGIN_CANNOT_INCLUDE = 0x0208,
    ISCSI_LOGIN_SESSION_TYPE_UNSUPPORTED = 0x0209,
    ISCSI_LOGIN_NO_SESSION = 0x020a,
    ISCSI_LOGIN_INVALID_DURING_LOGIN = 0x020b,
    ISCSI_LOGIN_TARGET_ERROR = 0x0300,
    ISCSI_LOGIN_SERVICE_UNAVAILABLE = 0x0301,
    ISCSI_LOGIN_OUT_OF_RESOURCES = 0x0302,
};

/* "authentication failure", … for a log line. */
const char *iscsi_login_status_name(enum iscsi_login_status status);

enum iscsi_login_event {
    ISCSI_LOGIN_RESPOND,
    ISCSI_LOGIN_AUTHENTICATE,
    ISCSI_LOGIN_ADMIT,
    ISCSI_LOGIN_COMPLETE,
    ISCSI_LOGIN_FAILED,
    ISCSI_LOGIN_DROP,
};

/* The same for all logins of a portal; outlives them. */
struct iscsi_login_config {
    struct iscsi_negotiate_limits limits;
    bool chap_required;           /* normal sessions: AuthMethod=None and skipping security are refused */
    bool chap_required_discovery; /* the same for discovery sessions */
    uint16_t portal_group_tag;
    uint32_t command_window; /* MaxCmdSN - ExpCmdSN + 1 in the responses; 1 or more */
};

/* Answer to AUTHENTICATE. Copied; the caller wipes its own. */
struct iscsi_login_secrets {
    const void *secret; /* what the initiator must know */
    size_t secret_size; /* 1 to ISCSI_CHAP_SECRET_MAX */
    const char
        *target_name; /* CHAP_N and secret of ours, for an initiator that wants us to prove ourselves; */
    const void *target_secret; /* NULL: we have none, and such an initiator is refused */
    size_t target_secret_size;
};

enum iscsi_login_step {
    ISCSI_LOGIN_STEP_FIRST,       /* no whole request yet */
    ISCSI_LOGIN_STEP_AUTH_METHOD, /* security stage: no method agreed on yet */
    ISCSI_LOGIN_STEP_CHAP_ALGORITHM,
    ISCSI_LOGIN_STEP_CHAP_RESPONSE,
    ISCSI_LOGIN_STEP_ASKING, /* AUTHENTICATE is open */
    ISCSI_LOGIN_STEP_SECURITY_DONE,
    ISCSI_LOGIN_STEP_OPERATIONAL,
    ISCSI_LOGIN_STEP_ADMITTING, /* ADMIT is open */
    ISCSI_LOGIN_STEP_COMPLETE,
    ISCSI_LOGIN_STEP_FAILED,
};

enum iscsi_login_method {
    ISCSI_LOGIN_METHOD_NOT_OFFERED,
    ISCSI_LOGIN_METHOD_NOT_ACCEPTED,
    ISCSI_LOGIN_METHOD_NONE,
    ISCSI_LOGIN_METHOD_CHAP,
};

/* What CHAP needs to remember. Wiped by iscsi_login_done(). */
struct iscsi_login_chap {
    enum iscsi_chap_algorithm algorithm;
    uint8_t id;
    uint8_t challenge[ISCSI_CHAP_CHALLENGE_SIZE];
    uint8_t response[ISCSI_CHAP_RESPONSE_MAX];
    size_t response_size;
    bool mutual;
    bool mutual_id_known;
    uint8_t mutual_id;
    uint8_t mutual_challenge[ISCSI_TEXT_BINARY_MAX];
    size_t mutual_challenge_size;
};

struct iscsi_login {
    /* To read from AUTHENTICATE on. */
    char initiator_name[ISCSI_NAME_MAX + 1];
    char initiator_alias[ISCSI_TEXT_VALUE_MAX + 1]; /* "" when none was sent */
    char target_name[ISCSI_NAME_MAX + 1];           /* "" in a discovery session */
    char chap_name[ISCSI_CHAP_NAME_MAX + 1];        /* "" until CHAP_N came; authenticated from ADMIT on */
    bool discovery;                                 /* SessionType=Discovery; without the key it is Normal */
    uint8_t isid[6];
    uint16_t tsih; /* of the request: 0 for a new session, or the session that this connection claims */
    uint16_t cid;
    bool authenticated; /* by CHAP */

    /* To send after RESPOND, COMPLETE and FAILED: the header (no digest in login), response_size bytes,
     * padding. */
    union iscsi_bhs response;
    char response_text[ISCSI_LOGIN_RESPONSE_MAX];
    size_t response_size;

    /* After COMPLETE: the connection's numbers as they go on, and what was agreed. */
    struct iscsi_parameters parameters;
    uint32_t stat_sn;    /* of the next PDU that takes one */
    uint32_t exp_cmd_sn; /* of the next command */

    /* After FAILED and DROP: why, in a few words for a log line (no secret in it), and the status that was
     * sent. */
    const char *reason;
    enum iscsi_login_status status;

    /* The machine's own. */
    const struct iscsi_login_config *config;
    enum iscsi_login_step step;
    enum iscsi_stage stage;
    union iscsi_bhs request;
    unsigned pdus;
    bool names_read; /* the first request is behind us */
    uint32_t keys_seen;
    enum iscsi_login_method method; /* chosen from the initiator's AuthMethod */
    struct iscsi_login_chap chap;
    struct iscsi_negotiation negotiation;
    struct iscsi_text_gather gather;
    struct iscsi_text_writer writer;
    char gather_buffer[ISCSI_TEXT_REQUEST_MAX];
};

/* A CHAP identifier and challenge, fresh from io_random() for each login. */
struct iscsi_login_random {
    uint8_t chap_id;
    uint8_t chap_challenge[ISCSI_CHAP_CHALLENGE_SIZE];
};

void iscsi_login_init(struct iscsi_login *login, const struct iscsi_login_config *config,
                      const struct iscsi_login_random *random);

/* Wipe secrets. Safe at any step and twice. */
void iscsi_login_done(struct iscsi_login *login);

/* A PDU that came before COMPLETE, with its whole data segment (at most ISCSI_LOGIN_DATA_MAX bytes; not
 * kept). One that is not a login request: FAILED (0x020b), or DROP when it is the first. */
enum iscsi_login_event iscsi_login_feed(struct iscsi_login *login, const union iscsi_bhs *request,
                                        const void *text, size_t text_size);

/* After AUTHENTICATE. Checks the initiator's response; a wrong one is FAILED with 0x0201. */
enum iscsi_login_event iscsi_login_authenticate(struct iscsi_login *login,
                                                const struct iscsi_login_secrets *secrets);

/* After ADMIT: the session lives. tsih is its handle, not 0. */
enum iscsi_login_event iscsi_login_admit(struct iscsi_login *login, uint16_t tsih);

/* After AUTHENTICATE or ADMIT, or between requests (a shutdown, a timeout): FAILED with this status. reason
 * is a string that outlives the login. */
enum iscsi_login_event iscsi_login_refuse(struct iscsi_login *login, enum iscsi_login_status status,
                                          const char *reason);
