/*
 * Memory that held a secret (a CHAP secret, a private key) is wiped before it is given back. Secrets travel
 * in variables whose scope ends with _cleanup_secret_, and never as an argument of log_… or error_….
 */
#pragma once

#include <stddef.h>

/* Wipe and free a NUL-terminated string; NULL is fine. Returns NULL: `secret = secret_free(secret)`. */
char *secret_free(char *secret);

/* Wipe length bytes in a way that the compiler keeps. */
void secret_wipe(void *memory, size_t length);

static inline void cleanup_secret(char **secret)
{
    secret_free(*secret);
}

#define _cleanup_secret_ __attribute__((cleanup(cleanup_secret)))
