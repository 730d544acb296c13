/*
 * Computes and compares CHAP responses by libcrypto. Owns nothing; any thread. Called by login, and by tests
 * as the other side.
 */
#include "datapath/iscsi/chap.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "common/strings.h"

size_t iscsi_chap_response_size(enum iscsi_chap_algorithm algorithm)
{
    switch (algorithm) {
    case ISCSI_CHAP_NONE:
        return 0;
    case ISCSI_CHAP_MD5:
        return 16;
    case ISCSI_CHAP_SHA256:
        return 32;
    }
    return 0;
}

static const EVP_MD *digest_of(enum iscsi_chap_algorithm algorithm)
{
    switch (algorithm) {
    case ISCSI_CHAP_NONE:
        return NULL;
    case ISCSI_CHAP_MD5:
        return EVP_md5();
    case ISCSI_CHAP_SHA256:
        return EVP_sha256();
    }
    return NULL;
}

bool iscsi_chap_response(enum iscsi_chap_algorithm algorithm, uint8_t id, const void *secret,
                         size_t secret_size, const void *challenge, size_t challenge_size,
                         uint8_t ret_response[ISCSI_CHAP_RESPONSE_MAX])
{
    const EVP_MD *digest = digest_of(algorithm);
    EVP_MD_CTX *context = digest == NULL ? NULL : EVP_MD_CTX_new();
    if (context == NULL)
        return false;
    bool done = EVP_DigestInit_ex(context, digest, NULL) == 1 && EVP_DigestUpdate(context, &id, 1) == 1 &&
                EVP_DigestUpdate(context, secret, secret_size) == 1 &&
                EVP_DigestUpdate(context, challenge, challenge_size) == 1 &&
                EVP_DigestFinal_ex(context, ret_response, NULL) == 1;
    EVP_MD_CTX_free(context);
    return done;
}

bool iscsi_chap_verify(enum iscsi_chap_algorithm algorithm, uint8_t id, const void *secret,
                       size_t secret_size, const void *challenge, size_t challenge_size, const void *response,
                       size_t response_size)
{
    uint8_t expected[ISCSI_CHAP_RESPONSE_MAX];
    size_t size = iscsi_chap_response_size(algorithm);
    bool good =
        size > 0 && response_size == size &&
        iscsi_chap_response(algorithm, id, secret, secret_size, challenge, challenge_size, expected) &&
        str_secret_equal(expected, response, size);
    OPENSSL_cleanse(expected, sizeof(expected));
    return good;
}
