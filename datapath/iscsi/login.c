/*
 * The target's login, step by step: checks each request's header, has its keys read, moves through security
 * and operational stage, and writes the response. Owns nothing but the login its caller allocated; runs on
 * the connection's loop. Called by target's connections.
 */
#include "datapath/iscsi/login.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <string.h>

#include "common/strings.h"
#include "datapath/iscsi/login_keys.h"

static enum iscsi_login_event take_text(struct iscsi_login *login, const void *text, size_t text_size);
static enum iscsi_login_event advance(struct iscsi_login *login);
static enum iscsi_login_event choose_method(struct iscsi_login *login);
static enum iscsi_login_event challenge(struct iscsi_login *login);
static enum iscsi_login_event take_chap_response(struct iscsi_login *login);
static enum iscsi_login_event move_stage(struct iscsi_login *login);
static enum iscsi_login_event finish_negotiation(struct iscsi_login *login);

const char *iscsi_login_status_name(enum iscsi_login_status status)
{
    switch (status) {
    case ISCSI_LOGIN_SUCCESS:
        return "success";
    case ISCSI_LOGIN_TARGET_MOVED_TEMPORARILY:
        return "target moved temporarily";
    case ISCSI_LOGIN_TARGET_MOVED_PERMANENTLY:
        return "target moved permanently";
    case ISCSI_LOGIN_INITIATOR_ERROR:
        return "initiator error";
    case ISCSI_LOGIN_AUTHENTICATION_FAILURE:
        return "authentication failure";
    case ISCSI_LOGIN_AUTHORIZATION_FAILURE:
        return "authorization failure";
    case ISCSI_LOGIN_NOT_FOUND:
        return "target not found";
    case ISCSI_LOGIN_TARGET_REMOVED:
        return "target removed";
    case ISCSI_LOGIN_UNSUPPORTED_VERSION:
        return "unsupported version";
    case ISCSI_LOGIN_TOO_MANY_CONNECTIONS:
        return "too many connections";
    case ISCSI_LOGIN_MISSING_PARAMETER:
        return "missing parameter";
    case ISCSI_LOGIN_CANNOT_INCLUDE:
        return "cannot include in session";
    case ISCSI_LOGIN_SESSION_TYPE_UNSUPPORTED:
        return "session type not supported";
    case ISCSI_LOGIN_NO_SESSION:
        return "session does not exist";
    case ISCSI_LOGIN_INVALID_DURING_LOGIN:
        return "invalid request during login";
    case ISCSI_LOGIN_TARGET_ERROR:
        return "target error";
    case ISCSI_LOGIN_SERVICE_UNAVAILABLE:
        return "service unavailable";
    case ISCSI_LOGIN_OUT_OF_RESOURCES:
        return "out of resources";
    }
    return "unknown status";
}

void iscsi_login_init(struct iscsi_login *login, const struct iscsi_login_config *config,
                      const struct iscsi_login_random *random)
{
    memset(login, 0, sizeof(*login));
    login->config = config;
    login->step = ISCSI_LOGIN_STEP_FIRST;
    login->chap.id = random->chap_id;
    memcpy(login->chap.challenge, random->chap_challenge, sizeof(login->chap.challenge));
    iscsi_negotiation_init(&login->negotiation, &config->limits);
    iscsi_text_gather_init(&login->gather, login->gather_buffer, sizeof(login->gather_buffer));
    iscsi_text_writer_init(&login->writer, login->response_text, sizeof(login->response_text));
}

void iscsi_login_done(struct iscsi_login *login)
{
    OPENSSL_cleanse(&login->chap, sizeof(login->chap));
    OPENSSL_cleanse(login->gather_buffer, sizeof(login->gather_buffer));
}

static uint8_t request_flags(const struct iscsi_login *login)
{
    return login->request.login_request.flags;
}

static bool transit_asked(const struct iscsi_login *login)
{
    return (request_flags(login) & ISCSI_LOGIN_TRANSIT) != 0;
}

static enum iscsi_stage current_stage(const union iscsi_bhs *request)
{
    return (enum iscsi_stage)(request->login_request.flags >> 2 & 3);
}

static enum iscsi_stage next_stage(const union iscsi_bhs *request)
{
    return (enum iscsi_stage)(request->login_request.flags & 3);
}

static void write_response(struct iscsi_login *login, uint8_t flags, uint16_t tsih,
                           enum iscsi_login_status status)
{
    struct iscsi_numbers numbers = {
        .stat_sn = login->stat_sn,
        .exp_cmd_sn = login->exp_cmd_sn,
        .max_cmd_sn = login->exp_cmd_sn + login->config->command_window - 1,
    };
    login->stat_sn++;
    login->response_size = login->writer.length;
    iscsi_response_login(&login->response, &numbers, &login->request, tsih, flags, (uint16_t)status,
                         (uint32_t)login->response_size);
    iscsi_text_writer_init(&login->writer, login->response_text, sizeof(login->response_text));
}

/* Without text and without transition: whatever was negotiated does not count. */
static enum iscsi_login_event fail(struct iscsi_login *login, enum iscsi_login_status status,
                                   const char *reason)
{
    login->step = ISCSI_LOGIN_STEP_FAILED;
    login->status = status;
    login->reason = reason;
    iscsi_text_writer_init(&login->writer, login->response_text, sizeof(login->response_text));
    write_response(login, request_flags(login) & 0x0c, login->tsih, status);
    iscsi_login_done(login);
    return ISCSI_LOGIN_FAILED;
}

static enum iscsi_login_event drop(struct iscsi_login *login, const char *reason)
{
    login->step = ISCSI_LOGIN_STEP_FAILED;
    login->reason = reason;
    iscsi_login_done(login);
    return ISCSI_LOGIN_DROP;
}

static enum iscsi_login_event respond(struct iscsi_login *login, uint8_t flags)
{
    if (login->writer.full)
        return fail(login, ISCSI_LOGIN_TARGET_ERROR, "the answer is too long for one response");
    write_response(login, flags, login->tsih, ISCSI_LOGIN_SUCCESS);
    return ISCSI_LOGIN_RESPOND;
}

/* Answer and stay in the stage. */
static enum iscsi_login_event respond_staying(struct iscsi_login *login)
{
    return respond(login, (uint8_t)(login->stage << 2));
}

static bool same_connection(const union iscsi_bhs *a, const union iscsi_bhs *b)
{
    const struct iscsi_bhs_login_request *left = &a->login_request, *right = &b->login_request;
    return memcmp(left->isid, right->isid, sizeof(left->isid)) == 0 &&
           iscsi_be16_get(left->tsih) == iscsi_be16_get(right->tsih) &&
           iscsi_be16_get(left->cid) == iscsi_be16_get(right->cid) &&
           iscsi_be32_get(left->task_tag) == iscsi_be32_get(right->task_tag);
}

/* What is wrong with the stages a request names; NULL when nothing. */
static const char *stage_error(const struct iscsi_login *login)
{
    uint8_t flags = request_flags(login);
    enum iscsi_stage current = current_stage(&login->request), next = next_stage(&login->request);
    if (current != ISCSI_STAGE_SECURITY && current != ISCSI_STAGE_OPERATIONAL)
        return "no such login stage";
    if (current != login->stage)
        return "the login stage is not the one agreed on";
    if ((flags & ISCSI_LOGIN_TRANSIT) == 0)
        return NULL;
    if ((flags & ISCSI_LOGIN_CONTINUE) != 0)
        return "a login request both goes on and ends its stage";
    if (next <= current || (next != ISCSI_STAGE_OPERATIONAL && next != ISCSI_STAGE_FULL_FEATURE))
        return "no such next login stage";
    return NULL;
}

static void remember_first(struct iscsi_login *login)
{
    const struct iscsi_bhs_login_request *request = &login->request.login_request;
    memcpy(login->isid, request->isid, sizeof(login->isid));
    login->tsih = iscsi_be16_get(request->tsih);
    login->cid = iscsi_be16_get(request->cid);
    login->stat_sn = iscsi_be32_get(request->exp_stat_sn);
    /* Login requests are immediate: the first command has the number that they carry. */
    login->exp_cmd_sn = iscsi_be32_get(request->cmd_sn);
    login->stage = current_stage(&login->request);
}

enum iscsi_login_event iscsi_login_feed(struct iscsi_login *login, const union iscsi_bhs *request,
                                        const void *text, size_t text_size)
{
    bool first = login->pdus == 0;
    assert(login->step != ISCSI_LOGIN_STEP_COMPLETE && login->step != ISCSI_LOGIN_STEP_FAILED);
    if (iscsi_bhs_opcode(request) != ISCSI_OP_LOGIN_REQUEST)
        return first ? drop(login, "the first PDU is not a login request")
                     : fail(login, ISCSI_LOGIN_INVALID_DURING_LOGIN, "a PDU that is no login request");
    union iscsi_bhs previous = login->request;
    login->request = *request;
    login->pdus++;
    if (first)
        remember_first(login);
    else if (!same_connection(&previous, request))
        return fail(login, ISCSI_LOGIN_INITIATOR_ERROR, "ISID, TSIH, CID or task tag changed during login");
    if (request->login_request.version_min > 0)
        return fail(login, ISCSI_LOGIN_UNSUPPORTED_VERSION, "the initiator's lowest version is above 0");
    if (login->step == ISCSI_LOGIN_STEP_ASKING || login->step == ISCSI_LOGIN_STEP_ADMITTING)
        return fail(login, ISCSI_LOGIN_INITIATOR_ERROR, "a login request before the last one's answer");
    if (login->pdus > ISCSI_LOGIN_PDUS_MAX)
        return fail(login, ISCSI_LOGIN_INITIATOR_ERROR, "too many login requests");
    const char *error = stage_error(login);
    if (error != NULL)
        return fail(login, ISCSI_LOGIN_INITIATOR_ERROR, error);
    return take_text(login, text, text_size);
}

/* After the first request's names: is it complete, and may it begin in this stage? */
static enum iscsi_login_status begin_stage(struct iscsi_login *login)
{
    if (login->initiator_name[0] == '\0')
        return iscsi_login_keys_bad(login, ISCSI_LOGIN_MISSING_PARAMETER, "InitiatorName is missing");
    if (!login->discovery && login->target_name[0] == '\0')
        return iscsi_login_keys_bad(login, ISCSI_LOGIN_MISSING_PARAMETER, "TargetName is missing");
    if (login->stage == ISCSI_STAGE_SECURITY) {
        login->step = ISCSI_LOGIN_STEP_AUTH_METHOD;
        return ISCSI_LOGIN_SUCCESS;
    }
    if (iscsi_login_keys_chap_required(login))
        return iscsi_login_keys_bad(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE,
                                    "security is skipped, and CHAP is required");
    login->step = ISCSI_LOGIN_STEP_OPERATIONAL;
    return ISCSI_LOGIN_SUCCESS;
}

static enum iscsi_login_status read_first(struct iscsi_login *login)
{
    enum iscsi_login_status status = iscsi_login_keys_read_names(login);
    if (status == ISCSI_LOGIN_SUCCESS)
        status = begin_stage(login);
    if (status == ISCSI_LOGIN_SUCCESS && !login->discovery)
        iscsi_text_put_number(&login->writer, "TargetPortalGroupTag", login->config->portal_group_tag);
    return status;
}

static enum iscsi_login_event take_text(struct iscsi_login *login, const void *text, size_t text_size)
{
    if (text_size > ISCSI_LOGIN_DATA_MAX || iscsi_text_gather_add(&login->gather, text, text_size) != 0)
        return fail(login, ISCSI_LOGIN_INITIATOR_ERROR, "the text of a login request is too long");
    if ((request_flags(login) & ISCSI_LOGIN_CONTINUE) != 0)
        return respond_staying(login);

    enum iscsi_login_status status = ISCSI_LOGIN_SUCCESS;
    if (!login->names_read)
        status = read_first(login);
    if (status == ISCSI_LOGIN_SUCCESS)
        status = iscsi_login_keys_read(login);
    if (status != ISCSI_LOGIN_SUCCESS)
        return fail(login, status, login->reason);
    login->names_read = true;
    OPENSSL_cleanse(login->gather_buffer, login->gather.length);
    login->gather.length = 0;
    return advance(login);
}

static enum iscsi_login_event advance(struct iscsi_login *login)
{
    switch (login->step) {
    case ISCSI_LOGIN_STEP_AUTH_METHOD:
        return choose_method(login);
    case ISCSI_LOGIN_STEP_CHAP_ALGORITHM:
        return challenge(login);
    case ISCSI_LOGIN_STEP_CHAP_RESPONSE:
        return take_chap_response(login);
    case ISCSI_LOGIN_STEP_SECURITY_DONE:
    case ISCSI_LOGIN_STEP_OPERATIONAL:
        return move_stage(login);
    case ISCSI_LOGIN_STEP_FIRST:
    case ISCSI_LOGIN_STEP_ASKING:
    case ISCSI_LOGIN_STEP_ADMITTING:
    case ISCSI_LOGIN_STEP_COMPLETE:
    case ISCSI_LOGIN_STEP_FAILED:
        break;
    }
    return fail(login, ISCSI_LOGIN_TARGET_ERROR, "the login is in no step that takes a request");
}

static enum iscsi_login_event choose_method(struct iscsi_login *login)
{
    switch (login->method) {
    case ISCSI_LOGIN_METHOD_NOT_OFFERED:
        if (!transit_asked(login))
            return respond_staying(login);
        if (iscsi_login_keys_chap_required(login))
            return fail(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE,
                        "no AuthMethod offered, and CHAP is required");
        break;
    case ISCSI_LOGIN_METHOD_NOT_ACCEPTED:
        return fail(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE,
                    iscsi_login_keys_chap_required(login) ? "AuthMethod offers no CHAP, which is required"
                                                          : "AuthMethod offers neither CHAP nor None");
    case ISCSI_LOGIN_METHOD_NONE:
        iscsi_text_put(&login->writer, "AuthMethod", "None");
        break;
    case ISCSI_LOGIN_METHOD_CHAP:
        iscsi_text_put(&login->writer, "AuthMethod", "CHAP");
        login->step = ISCSI_LOGIN_STEP_CHAP_ALGORITHM;
        return respond_staying(login);
    }
    login->step = ISCSI_LOGIN_STEP_SECURITY_DONE;
    return move_stage(login);
}

static enum iscsi_login_event challenge(struct iscsi_login *login)
{
    struct iscsi_login_chap *chap = &login->chap;
    if (chap->algorithm == ISCSI_CHAP_NONE)
        return fail(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, "CHAP_A is missing");
    iscsi_text_put_number(&login->writer, "CHAP_A", chap->algorithm);
    iscsi_text_put_number(&login->writer, "CHAP_I", chap->id);
    iscsi_text_put_binary(&login->writer, "CHAP_C", chap->challenge, sizeof(chap->challenge));
    login->step = ISCSI_LOGIN_STEP_CHAP_RESPONSE;
    return respond_staying(login);
}

static enum iscsi_login_event take_chap_response(struct iscsi_login *login)
{
    const struct iscsi_login_chap *chap = &login->chap;
    if (login->chap_name[0] == '\0' || chap->response_size == 0)
        return fail(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, "CHAP_N or CHAP_R is missing");
    if (chap->mutual != chap->mutual_id_known)
        return fail(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, "only one of CHAP_I and CHAP_C came");
    login->step = ISCSI_LOGIN_STEP_ASKING;
    return ISCSI_LOGIN_AUTHENTICATE;
}

/* Prove ourselves too. NULL, or why not. */
static const char *answer_mutual(struct iscsi_login *login, const struct iscsi_login_secrets *secrets)
{
    const struct iscsi_login_chap *chap = &login->chap;
    uint8_t response[ISCSI_CHAP_RESPONSE_MAX];
    if (secrets->target_name == NULL || secrets->target_secret == NULL || secrets->target_secret_size == 0)
        return "the initiator wants the target to authenticate, which has no secret for it";
    /* RFC 7143, section 9.2.1: with one secret, the initiator could have us answer our own challenges. */
    if (secrets->target_secret_size == secrets->secret_size &&
        str_secret_equal(secrets->target_secret, secrets->secret, secrets->secret_size))
        return "both directions of CHAP have the same secret";
    if (!iscsi_chap_response(chap->algorithm, chap->mutual_id, secrets->target_secret,
                             secrets->target_secret_size, chap->mutual_challenge, chap->mutual_challenge_size,
                             response))
        return "the CHAP response could not be computed";
    iscsi_text_put(&login->writer, "CHAP_N", secrets->target_name);
    iscsi_text_put_binary(&login->writer, "CHAP_R", response, iscsi_chap_response_size(chap->algorithm));
    return NULL;
}

enum iscsi_login_event iscsi_login_authenticate(struct iscsi_login *login,
                                                const struct iscsi_login_secrets *secrets)
{
    const struct iscsi_login_chap *chap = &login->chap;
    assert(login->step == ISCSI_LOGIN_STEP_ASKING);
    if (secrets->secret_size == 0 || secrets->secret_size > ISCSI_CHAP_SECRET_MAX)
        return fail(login, ISCSI_LOGIN_TARGET_ERROR, "the CHAP secret's length is out of range");
    if (!iscsi_chap_verify(chap->algorithm, chap->id, secrets->secret, secrets->secret_size, chap->challenge,
                           sizeof(chap->challenge), chap->response, chap->response_size))
        return fail(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, "the CHAP response is wrong");
    const char *error = chap->mutual ? answer_mutual(login, secrets) : NULL;
    if (error != NULL)
        return fail(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE, error);
    OPENSSL_cleanse(&login->chap, sizeof(login->chap));
    login->authenticated = true;
    login->step = ISCSI_LOGIN_STEP_SECURITY_DONE;
    return move_stage(login);
}

static enum iscsi_login_event move_stage(struct iscsi_login *login)
{
    if (login->stage == ISCSI_STAGE_OPERATIONAL)
        iscsi_negotiate_declare(&login->negotiation, &login->writer);
    if (!transit_asked(login))
        return respond_staying(login);
    if (next_stage(&login->request) == ISCSI_STAGE_FULL_FEATURE)
        return finish_negotiation(login);
    login->step = ISCSI_LOGIN_STEP_OPERATIONAL;
    login->stage = ISCSI_STAGE_OPERATIONAL;
    return respond(login, ISCSI_LOGIN_TRANSIT | ISCSI_STAGE_SECURITY << 2 | ISCSI_STAGE_OPERATIONAL);
}

static enum iscsi_login_event finish_negotiation(struct iscsi_login *login)
{
    if (!iscsi_negotiate_finish(&login->negotiation))
        return fail(login, ISCSI_LOGIN_INITIATOR_ERROR, "FirstBurstLength is above MaxBurstLength");
    if (login->writer.full)
        return fail(login, ISCSI_LOGIN_TARGET_ERROR, "the answer is too long for one response");
    login->step = ISCSI_LOGIN_STEP_ADMITTING;
    return ISCSI_LOGIN_ADMIT;
}

enum iscsi_login_event iscsi_login_admit(struct iscsi_login *login, uint16_t tsih)
{
    assert(login->step == ISCSI_LOGIN_STEP_ADMITTING && tsih != 0);
    login->parameters = login->negotiation.parameters;
    login->step = ISCSI_LOGIN_STEP_COMPLETE;
    login->tsih = tsih;
    write_response(login, (uint8_t)(ISCSI_LOGIN_TRANSIT | login->stage << 2 | ISCSI_STAGE_FULL_FEATURE), tsih,
                   ISCSI_LOGIN_SUCCESS);
    iscsi_login_done(login);
    return ISCSI_LOGIN_COMPLETE;
}

enum iscsi_login_event iscsi_login_refuse(struct iscsi_login *login, enum iscsi_login_status status,
                                          const char *reason)
{
    assert(status != ISCSI_LOGIN_SUCCESS);
    assert(login->step != ISCSI_LOGIN_STEP_COMPLETE && login->step != ISCSI_LOGIN_STEP_FAILED);
    if (login->pdus == 0)
        return drop(login, reason);
    return fail(login, status, reason);
}
