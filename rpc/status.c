/*
 * The one table between our error codes and gRPC's statuses. Stateless; any thread.
 */
#include "rpc/status.h"

#include <errno.h>
#include <grpc/status.h>

#include "common/cleanup.h"
#include "common/error.h"
#include "common/strings.h"

static int status_from_condition(enum error_code code)
{
    switch (code) {
    case E_OK:
        return GRPC_STATUS_OK;
    case E_INVALID_ARGUMENT:
        return GRPC_STATUS_INVALID_ARGUMENT;
    case E_NOT_FOUND:
        return GRPC_STATUS_NOT_FOUND;
    case E_EXISTS:
        return GRPC_STATUS_ALREADY_EXISTS;
    case E_NO_SPACE:
    case E_EXHAUSTED:
        return GRPC_STATUS_RESOURCE_EXHAUSTED;
    case E_BUSY:
    case E_STALE:
        return GRPC_STATUS_ABORTED;
    case E_PRECONDITION:
    case E_READ_ONLY:
    case E_WRITE_FAILED:
    case E_MISCOMPARE:
        return GRPC_STATUS_FAILED_PRECONDITION;
    case E_OUT_OF_RANGE:
        return GRPC_STATUS_OUT_OF_RANGE;
    case E_UNAVAILABLE:
        return GRPC_STATUS_UNAVAILABLE;
    case E_DEADLINE:
        return GRPC_STATUS_DEADLINE_EXCEEDED;
    case E_CANCELLED:
        return GRPC_STATUS_CANCELLED;
    case E_UNAUTHENTICATED:
        return GRPC_STATUS_UNAUTHENTICATED;
    case E_PERMISSION:
        return GRPC_STATUS_PERMISSION_DENIED;
    case E_UNIMPLEMENTED:
        return GRPC_STATUS_UNIMPLEMENTED;
    case E_CORRUPT:
        return GRPC_STATUS_DATA_LOSS;
    }
    return GRPC_STATUS_INTERNAL;
}

int status_from_error(int code)
{
    return code < 0 ? GRPC_STATUS_INTERNAL : status_from_condition((enum error_code)code);
}

int status_to_error(int status)
{
    /* Of the codes that share a status, the first is the more general one. */
    static const int codes[] = {
        [GRPC_STATUS_OK] = E_OK,
        [GRPC_STATUS_CANCELLED] = E_CANCELLED,
        [GRPC_STATUS_UNKNOWN] = -EIO,
        [GRPC_STATUS_INVALID_ARGUMENT] = E_INVALID_ARGUMENT,
        [GRPC_STATUS_DEADLINE_EXCEEDED] = E_DEADLINE,
        [GRPC_STATUS_NOT_FOUND] = E_NOT_FOUND,
        [GRPC_STATUS_ALREADY_EXISTS] = E_EXISTS,
        [GRPC_STATUS_PERMISSION_DENIED] = E_PERMISSION,
        [GRPC_STATUS_RESOURCE_EXHAUSTED] = E_EXHAUSTED,
        [GRPC_STATUS_FAILED_PRECONDITION] = E_PRECONDITION,
        [GRPC_STATUS_ABORTED] = E_BUSY,
        [GRPC_STATUS_OUT_OF_RANGE] = E_OUT_OF_RANGE,
        [GRPC_STATUS_UNIMPLEMENTED] = E_UNIMPLEMENTED,
        [GRPC_STATUS_INTERNAL] = -EIO,
        [GRPC_STATUS_UNAVAILABLE] = E_UNAVAILABLE,
        [GRPC_STATUS_DATA_LOSS] = E_CORRUPT,
        [GRPC_STATUS_UNAUTHENTICATED] = E_UNAUTHENTICATED,
    };

    if (status < 0 || (size_t)status >= ARRAY_SIZE(codes))
        return -EIO;
    return codes[status];
}

int status_refine(int status, const char *code_name)
{
    int general = status_to_error(status);

    for (int code = E_INVALID_ARGUMENT; general > 0 && code <= E_CORRUPT; code++)
        if (status_from_error(code) == status && str_equal(error_name(code), code_name))
            return code;
    return general;
}
