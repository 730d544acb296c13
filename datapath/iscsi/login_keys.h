/*
 * Inside login: the text of one request, key by key. Each function returns ISCSI_LOGIN_SUCCESS, or the status
 * to refuse with, and then has set login->reason.
 */
#pragma once

#include "datapath/iscsi/login.h"

/* The names and the session type, which the other keys' meaning depends on: of the first request, before the
 * rest. */
enum iscsi_login_status iscsi_login_keys_read_names(struct iscsi_login *login);

/* All other keys: those of the security stage are noted for login_security, operational ones are answered. */
enum iscsi_login_status iscsi_login_keys_read(struct iscsi_login *login);

/* Set the reason and hand back the status. */
static inline enum iscsi_login_status iscsi_login_keys_bad(struct iscsi_login *login,
                                                           enum iscsi_login_status status, const char *reason)
{
    login->reason = reason;
    return status;
}

/* CHAP is demanded of this type of session. */
static inline bool iscsi_login_keys_chap_required(const struct iscsi_login *login)
{
    return login->discovery ? login->config->chap_required_discovery : login->config->chap_required;
}
