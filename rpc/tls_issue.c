/*
 * A private CA in a directory, with OpenSSL's libcrypto. Stateless; called by the CLI, on its main thread.
 */
#include "rpc/tls_issue.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/size.h"
#include "common/strings.h"
#include "rpc/peer.h"
#include "rpc/tls_write.h"

#define ISSUE_CA_NAME "Mooring private CA"
#define ISSUE_CA_DAYS 3650
#define ISSUE_DAYS_MAX 3650
#define ISSUE_CLOCK_SLACK_S 300 /* hosts whose clock runs a little behind accept a new certificate too */
#define ISSUE_FILE_MAX_BYTES (64 * KIB)
#define ISSUE_DAY_S 86400L

/* What a certificate is made of. */
struct issue_request {
    const char *common_name;
    char *alternative_names; /* in OpenSSL's form; NULL for the CA */
    unsigned days;
    X509 *issuer; /* NULL: itself */
    EVP_PKEY *issuer_key;
};

/* OpenSSL's last reason, as an error of ours. */
static int issue_failed(const char *what, struct error *err)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    int code = error_set(err, -EIO, "%s: OpenSSL: %s", what, reason ? reason : "failed");

    ERR_clear_error();
    return code;
}

/* As a plain UTF8String: a node's id may take it past the 64 characters of RFC 5280's upper bound, which
 * OpenSSL enforces only where a string is given as MBSTRING, and nobody when reading. */
static bool issue_set_name(X509_NAME *name, const char *common_name)
{
    return X509_NAME_add_entry_by_txt(name, "CN", V_ASN1_UTF8STRING, (const unsigned char *)common_name, -1,
                                      -1, 0) == 1;
}

/* 127 random bits: unique without a register of what was issued (RFC 5280, section 4.1.2.2). */
static bool issue_set_serial(X509 *certificate)
{
    BIGNUM *serial = BN_new();
    bool done = serial && BN_rand(serial, 127, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
                BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(certificate));

    BN_free(serial);
    return done;
}

static bool issue_add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;
    bool done;

    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    done = extension && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return done;
}

/* RFC 5280, section 4.2.1. */
static bool issue_add_extensions(X509 *certificate, const struct issue_request *request)
{
    X509 *issuer = request->issuer ? request->issuer : certificate;
    bool ca = !request->issuer;

    if (!issue_add_extension(certificate, issuer, NID_basic_constraints,
                             ca ? "critical,CA:TRUE,pathlen:0" : "critical,CA:FALSE"))
        return false;
    if (!issue_add_extension(certificate, issuer, NID_key_usage,
                             ca ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature"))
        return false;
    if (!issue_add_extension(certificate, issuer, NID_subject_key_identifier, "hash") ||
        !issue_add_extension(certificate, issuer, NID_authority_key_identifier, "keyid:always"))
        return false;
    if (!ca && !issue_add_extension(certificate, issuer, NID_ext_key_usage, "serverAuth,clientAuth"))
        return false;
    return !request->alternative_names ||
           issue_add_extension(certificate, issuer, NID_subject_alt_name, request->alternative_names);
}

static bool issue_fill(X509 *certificate, EVP_PKEY *key, const struct issue_request *request)
{
    X509_NAME *subject = X509_get_subject_name(certificate);

    return X509_set_version(certificate, X509_VERSION_3) == 1 && issue_set_serial(certificate) &&
           issue_set_name(subject, request->common_name) &&
           X509_set_issuer_name(certificate,
                                request->issuer ? X509_get_subject_name(request->issuer) : subject) == 1 &&
           X509_gmtime_adj(X509_getm_notBefore(certificate), -ISSUE_CLOCK_SLACK_S) &&
           X509_gmtime_adj(X509_getm_notAfter(certificate), (long)request->days * ISSUE_DAY_S) &&
           X509_set_pubkey(certificate, key) == 1 && issue_add_extensions(certificate, request) &&
           X509_sign(certificate, request->issuer_key ? request->issuer_key : key, EVP_sha256()) != 0;
}

static int issue_write(const struct issue_request *request, const char *prefix, struct error *err)
{
    _cleanup_free_ char *cert_path = str_format("%s.crt", prefix), *key_path = str_format("%s.key", prefix);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    int code;

    if (!cert_path || !key_path)
        code = error_errno(err, ENOMEM, "issue %s", request->common_name);
    else if (!key || !certificate || !issue_fill(certificate, key, request))
        code = issue_failed(request->common_name, err);
    else
        code = tls_write_pair(certificate, key, cert_path, key_path, err);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return code;
}

int tls_ca_create(const char *dir, struct error *err)
{
    struct issue_request request = {.common_name = ISSUE_CA_NAME, .days = ISSUE_CA_DAYS};
    _cleanup_free_ char *prefix = str_format("%s/ca", dir);
    int code;

    if (!prefix)
        return error_errno(err, ENOMEM, "%s", dir);
    code = io_make_dirs(dir, 0700, err);
    return code ? code : issue_write(&request, prefix, err);
}

/* ---- issuing ---- */

static bool issue_dns_valid(const char *name)
{
    size_t length = strlen(name);

    if (!length || length > 253 || !isalnum((unsigned char)name[0]) ||
        !isalnum((unsigned char)name[length - 1]))
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '-' && name[i] != '.')
            return false;
    return true;
}

/* "DNS:store-1,IP:10.0.0.7". The names are checked: this form is a language of its own. */
static int issue_name_list(const char *const *names, size_t names_count, char **ret_list, struct error *err)
{
    _cleanup_free_ char *list = NULL;

    for (size_t i = 0; i < names_count; i++) {
        unsigned char address[16];
        bool ip = inet_pton(AF_INET, names[i], address) == 1 || inet_pton(AF_INET6, names[i], address) == 1;
        char *longer;
        if (!ip && !issue_dns_valid(names[i]))
            return error_set(err, E_INVALID_ARGUMENT, "\"%s\" is neither an IP address nor a DNS name",
                             names[i]);
        longer = str_format("%s%s%s:%s", list ? list : "", list ? "," : "", ip ? "IP" : "DNS", names[i]);
        if (!longer)
            return error_errno(err, ENOMEM, "names of a certificate");
        free(list);
        list = longer;
    }
    *ret_list = TAKE_PTR(list);
    return 0;
}

static int issue_check(const char *common_name, unsigned days, struct error *err)
{
    struct rpc_peer peer = {0};

    rpc_peer_parse(&peer, common_name, strlen(common_name));
    if (peer.role == RPC_ROLE_NONE)
        return error_set(
            err, E_INVALID_ARGUMENT,
            "\"%s\" names no role: expected mooring:controller, mooring:operator, mooring:node:<id> or "
            "mooring:server:<id>",
            common_name);
    if (days < 1 || days > ISSUE_DAYS_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "%u days: expected 1 to %d", days, ISSUE_DAYS_MAX);
    return 0;
}

/* One PEM object of the CA by its own reader; NULL, with err set, when there is none. */
static void *issue_load(const char *dir, const char *name, void *(*read)(BIO *bio), struct error *err)
{
    _cleanup_free_ char *path = str_format("%s/%s", dir, name), *text = NULL;
    size_t length = 0;
    void *object = NULL;
    BIO *bio;

    if (!path) {
        error_errno(err, ENOMEM, "%s", dir);
        return NULL;
    }
    if (io_read_file(path, ISSUE_FILE_MAX_BYTES, &text, &length, err)) {
        if (err && err->code == E_NOT_FOUND)
            error_set(err, E_NOT_FOUND, "%s does not exist: `mooring tls init` makes a CA", path);
        return NULL;
    }
    bio = BIO_new_mem_buf(text, (int)length);
    if (bio)
        object = read(bio);
    BIO_free(bio);
    OPENSSL_cleanse(text, length);
    ERR_clear_error();
    if (!object)
        error_set(err, E_CORRUPT, "%s is not a PEM file of ours", path);
    return object;
}

static void *issue_read_certificate(BIO *bio)
{
    return PEM_read_bio_X509(bio, NULL, NULL, NULL);
}

static void *issue_read_key(BIO *bio)
{
    return PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)"");
}

/* err may be NULL in the public calls; here it never is, since its code is read. */
static int issue_signed(const char *dir, struct issue_request *request, const char *out_prefix,
                        struct error *err)
{
    int code;

    request->issuer = issue_load(dir, "ca.crt", issue_read_certificate, err);
    request->issuer_key = request->issuer ? issue_load(dir, "ca.key", issue_read_key, err) : NULL;
    if (!request->issuer || !request->issuer_key)
        code = err->code;
    else if (X509_check_private_key(request->issuer, request->issuer_key) != 1)
        code = error_set(err, E_CORRUPT, "%s: ca.key does not belong to ca.crt", dir);
    else
        code = issue_write(request, out_prefix, err);
    X509_free(request->issuer);
    EVP_PKEY_free(request->issuer_key);
    ERR_clear_error();
    return code;
}

int tls_issue(const char *dir, const char *common_name, const char *const *names, size_t names_count,
              const char *out_prefix, unsigned days, struct error *err)
{
    struct issue_request request = {.common_name = common_name, .days = days};
    _cleanup_error_ struct error cause = {0};
    int code = issue_check(common_name, days, &cause);

    if (!code)
        code = issue_name_list(names, names_count, &request.alternative_names, &cause);
    if (!code)
        code = issue_signed(dir, &request, out_prefix, &cause);
    free(request.alternative_names);
    if (code)
        error_move(err, &cause);
    return code;
}
