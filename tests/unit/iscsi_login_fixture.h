/* A login to test: the initiator's side of a transcript, and what its responses must look like. */
#pragma once

#include "tests/unit/iscsi_test.h"

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

#define CHALLENGE "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

extern const struct iscsi_login_secrets login_secrets;

/* *state is a struct login_test: a login before its first request, CHAP required of normal sessions. */
int login_set_up(void **state);
int login_tear_down(void **state);
/* Begin anew with the same configuration. *state is another one then. */
void login_again(void **state);
union iscsi_bhs login_request_header(const struct login_test *t, uint8_t flags, size_t length);
/* Feed text, its newlines standing for NULs, from a copy of exactly its size. */
enum iscsi_login_event login_send_text(struct login_test *t, uint8_t flags, const char *text);
/* The last response goes on with these flags and this text. */
void login_check_response(const struct login_test *t, uint8_t flags, const char *text);
/* The event is FAILED, and the response refuses with status and without text. */
void login_check_refusal(const struct login_test *t, enum iscsi_login_event event, uint16_t status);
/* A new login whose only request is this one is refused with status. */
void login_check_first_refused(void **state, uint8_t flags, const char *text, uint16_t status);
/* Up to the challenge. */
void login_challenged(struct login_test *t, const char *algorithms, enum iscsi_chap_algorithm chosen);
/* The initiator's answer to the challenge, and more keys; asks to leave the stage. */
enum iscsi_login_event login_answer(struct login_test *t, enum iscsi_chap_algorithm algorithm,
                                    const char *secret, const char *more);
enum iscsi_login_event login_authenticate(struct login_test *t, const struct iscsi_login_secrets *with);
/* Up to the operational stage. */
void login_authenticated(struct login_test *t);
/* Admit, and check the last response. */
void login_admitted(struct login_test *t, uint8_t flags, const char *text);
