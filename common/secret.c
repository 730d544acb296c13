/* Wiping memory that held a secret. Without state: any thread, any caller. */
#include "common/secret.h"

#include <stdlib.h>
#include <string.h>

void secret_wipe(void *memory, size_t length)
{
    explicit_bzero(memory, length);
}

char *secret_free(char *secret)
{
    if (secret) {
        secret_wipe(secret, strlen(secret));
        free(secret);
    }
    return NULL;
}
