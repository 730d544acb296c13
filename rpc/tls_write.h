/* A certificate and its key as two PEM files that appear whole or not at all. */
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "common/error.h"

/* Write cert_path (0644) and key_path (0600), fsynced, directory included. E_EXISTS, naming it, when one of
 * them exists; nothing of ours is left after a failure. */
int tls_write_pair(X509 *certificate, EVP_PKEY *key, const char *cert_path, const char *key_path,
                   struct error *err);
