/*
 * TLS of both sides. gRPC reports a bad PEM file only by failing handshakes later, so the files are parsed
 * here first. gRPC negotiates TLS 1.3 between ours; its C surface has no way to raise the floor above 1.2.
 * Blocking; called where a server or client is made and where files have changed, but for the client's check
 * of its peer and the server's look at its files, which a handshake calls.
 */
#include "rpc/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/size.h"
#include "rpc/peer.h"

#define TLS_FILE_MAX_BYTES (256 * KIB)

struct tls_pem {
    char *ca, *cert, *key;
};

static void tls_pem_done(struct tls_pem *pem)
{
    free(pem->ca);
    free(pem->cert);
    if (pem->key)
        OPENSSL_cleanse(pem->key, strlen(pem->key));
    free(pem->key);
}

static int tls_read_file(const char *what, const char *path, char **ret_text, struct error *err)
{
    _cleanup_error_ struct error cause = {0};

    if (!path || !path[0])
        return error_set(err, E_INVALID_ARGUMENT, "TLS needs a %s file", what);
    if (io_read_file(path, TLS_FILE_MAX_BYTES, ret_text, NULL, &cause))
        return error_set(err, E_INVALID_ARGUMENT, "TLS %s file %s: %s", what, path, error_text(&cause));
    return 0;
}

static X509 *tls_parse_certificate(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *certificate = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;

    BIO_free(bio);
    ERR_clear_error();
    return certificate;
}

/* Never asks a terminal for a pass phrase. */
static int tls_no_pass_phrase(char *buffer, int size, int writing, void *context)
{
    (void)buffer, (void)size, (void)writing, (void)context;
    return -1;
}

static EVP_PKEY *tls_parse_key(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, tls_no_pass_phrase, NULL) : NULL;

    BIO_free(bio);
    ERR_clear_error();
    return key;
}

static int tls_check(const struct rpc_tls *tls, const struct tls_pem *pem, struct error *err)
{
    X509 *ca = tls_parse_certificate(pem->ca), *certificate = tls_parse_certificate(pem->cert);
    EVP_PKEY *key = tls_parse_key(pem->key);
    int code = 0;

    if (!ca)
        code = error_set(err, E_INVALID_ARGUMENT, "TLS CA file %s holds no PEM certificate", tls->ca_file);
    else if (!certificate)
        code = error_set(err, E_INVALID_ARGUMENT, "TLS certificate file %s holds no PEM certificate",
                         tls->cert_file);
    else if (!key)
        code =
            error_set(err, E_INVALID_ARGUMENT, "TLS key file %s holds no unencrypted PEM key", tls->key_file);
    else if (X509_check_private_key(certificate, key) != 1)
        code = error_set(err, E_INVALID_ARGUMENT, "TLS key file %s does not belong to certificate file %s",
                         tls->key_file, tls->cert_file);
    else if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
        code = error_set(err, E_INVALID_ARGUMENT, "TLS certificate file %s has expired: issue a new one",
                         tls->cert_file);
    ERR_clear_error();
    EVP_PKEY_free(key);
    X509_free(certificate);
    X509_free(ca);
    return code;
}

static int tls_load(const struct rpc_tls *tls, struct tls_pem *ret_pem, struct error *err)
{
    struct tls_pem pem = {0};
    struct stat status;
    int code = tls_read_file("CA", tls->ca_file, &pem.ca, err);

    if (!code)
        code = tls_read_file("certificate", tls->cert_file, &pem.cert, err);
    if (!code)
        code = tls_read_file("key", tls->key_file, &pem.key, err);
    if (!code)
        code = tls_check(tls, &pem, err);
    if (code) {
        tls_pem_done(&pem);
        return code;
    }
    if (stat(tls->key_file, &status) == 0 && (status.st_mode & 0007))
        log_warning("TLS key file %s is open to every user of this host: chmod 0600 it", tls->key_file);
    *ret_pem = pem;
    return 0;
}

/* Called at a handshake, by one of gRPC's threads. */
static grpc_ssl_certificate_config_reload_status
tls_fetch_config(void *context, grpc_ssl_server_certificate_config **ret_config)
{
    struct tls_files *files = context;
    _cleanup_error_ struct error err = {0};
    grpc_ssl_pem_key_cert_pair pair;
    struct tls_pem pem;

    if (!tls_files_changed(files))
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    if (tls_load(tls_files_paths(files), &pem, &err)) {
        tls_files_refused(files, &err);
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    }
    tls_files_taken(files);
    pair = (grpc_ssl_pem_key_cert_pair){.private_key = pem.key, .cert_chain = pem.cert};
    *ret_config = grpc_ssl_server_certificate_config_create(pem.ca, &pair, 1);
    tls_pem_done(&pem);
    log_info("serving with new TLS files: %s", tls_files_paths(files)->cert_file);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

int rpc_tls_server_credentials(struct tls_files *files, grpc_server_credentials **ret_credentials,
                               struct error *err)
{
    const struct rpc_tls *tls = tls_files_paths(files);
    grpc_server_credentials *credentials;
    struct tls_pem pem;
    int code = tls_load(tls, &pem, err); /* for its words: what gRPC fetches it cannot refuse in words */

    if (code)
        return code;
    tls_pem_done(&pem);
    credentials = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, tls_fetch_config, files));
    if (!credentials)
        return error_set(err, E_INVALID_ARGUMENT, "TLS files %s, %s: gRPC refuses them", tls->cert_file,
                         tls->key_file);
    *ret_credentials = credentials;
    return 0;
}

/* After chain and host name: only a storage server may answer as one, whatever names a node's certificate
 * carries.
 */
static int tls_verify_server(const char *target_name, const char *peer_pem, void *context)
{
    struct rpc_peer peer = {0};
    X509 *certificate = tls_parse_certificate(peer_pem);
    X509_NAME *subject = certificate ? X509_get_subject_name(certificate) : NULL;
    int at = subject ? X509_NAME_get_index_by_NID(subject, NID_commonName, -1) : -1;

    (void)target_name, (void)context;
    if (at >= 0 && X509_NAME_get_index_by_NID(subject, NID_commonName, at) < 0) {
        ASN1_STRING *name = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
        rpc_peer_parse(&peer, (const char *)ASN1_STRING_get0_data(name), (size_t)ASN1_STRING_length(name));
    }
    X509_free(certificate);
    return peer.role == RPC_ROLE_SERVER ? 0 : 1;
}

int rpc_tls_channel_credentials(const struct rpc_tls *tls, grpc_channel_credentials **ret_credentials,
                                struct error *err)
{
    grpc_ssl_verify_peer_options verify = {.verify_peer_callback = tls_verify_server};
    struct tls_pem pem;
    grpc_ssl_pem_key_cert_pair pair;
    grpc_channel_credentials *credentials;
    int code = tls_load(tls, &pem, err);

    if (code)
        return code;
    pair.private_key = pem.key;
    pair.cert_chain = pem.cert;
    credentials = grpc_ssl_credentials_create_ex(pem.ca, &pair, &verify, NULL);
    tls_pem_done(&pem);
    if (!credentials)
        return error_set(err, E_INVALID_ARGUMENT, "TLS files %s, %s: gRPC refuses them", tls->cert_file,
                         tls->key_file);
    *ret_credentials = credentials;
    return 0;
}
