/*
 * The private CA behind `mooring tls init` and `mooring tls issue`: ECDSA P-256, X.509 version 3 (RFC 5280).
 * Files appear whole, with their final mode, or not at all; what exists is never replaced. Blocking; no gRPC
 * in here.
 */
#pragma once

#include <stddef.h>

#include "common/error.h"

/* dir/ca.crt (0644) and dir/ca.key (0600), valid for 10 years; dir is made when it is missing. E_EXISTS when
 * there is a CA already. */
int tls_ca_create(const char *dir, struct error *err);

/*
 * <out_prefix>.crt (0644) and <out_prefix>.key (0600), for clients and servers alike, signed by the CA in
 * dir. Each of names becomes a subject alternative name: an IP address, or a DNS name. E_EXISTS when one of
 * the files exists, E_NOT_FOUND without a CA, E_INVALID_ARGUMENT for a common name that is not of a role
 * ("mooring:node:…", see rpc/rpc.h), a bad name, or days outside 1…3650.
 */
int tls_issue(const char *dir, const char *common_name, const char *const *names, size_t names_count,
              const char *out_prefix, unsigned days, struct error *err);
