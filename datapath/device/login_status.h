/*
 * What a failed login means. libiscsi 1.19 gives a login's status (RFC 7143, section 11.13.5) only within
 * words, "… Status: Authorization failure(514)": the number in them decides, the words where it is missing.
 */
#pragma once

enum login_outcome {
    LOGIN_WAIT,  /* try again: the server is away, starting, busy, or says something that may pass */
    LOGIN_FATAL, /* this attachment is over: fenced, or removed; all I/O ends with EIO (invariant 6) */
};

enum login_outcome login_status_classify(const char *text);
