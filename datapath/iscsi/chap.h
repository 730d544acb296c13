/*
 * CHAP (RFC 1994 as RFC 7143, section 12.1.3, uses it): the response to a challenge, by libcrypto. Pure; any
 * thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ISCSI_CHAP_RESPONSE_MAX 32
#define ISCSI_CHAP_CHALLENGE_SIZE 32 /* of ours; an initiator's may have 1 to 1024 bytes */
#define ISCSI_CHAP_SECRET_MAX 256

/* The algorithms' registered numbers, the value of CHAP_A. */
enum iscsi_chap_algorithm {
    ISCSI_CHAP_NONE = 0,
    ISCSI_CHAP_MD5 = 5,
    ISCSI_CHAP_SHA256 = 7,
};

/* Bytes of a response; 0 for what is not supported. */
size_t iscsi_chap_response_size(enum iscsi_chap_algorithm algorithm);

/* hash(id, secret, challenge). False when libcrypto refuses (MD5 in a FIPS provider, no memory). */
bool iscsi_chap_response(enum iscsi_chap_algorithm algorithm, uint8_t id, const void *secret,
                         size_t secret_size, const void *challenge, size_t challenge_size,
                         uint8_t ret_response[ISCSI_CHAP_RESPONSE_MAX]);

/* The response given is the right one; compared in constant time. */
bool iscsi_chap_verify(enum iscsi_chap_algorithm algorithm, uint8_t id, const void *secret,
                       size_t secret_size, const void *challenge, size_t challenge_size, const void *response,
                       size_t response_size);
