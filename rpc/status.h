/*
 * The one place where error codes become gRPC statuses and back.
 *
 *   E_INVALID_ARGUMENT → INVALID_ARGUMENT      E_NOT_FOUND → NOT_FOUND          E_EXISTS → ALREADY_EXISTS
 *   E_EXHAUSTED, E_NO_SPACE → RESOURCE_EXHAUSTED                                E_BUSY, E_STALE → ABORTED
 *   E_PRECONDITION, E_READ_ONLY, E_WRITE_FAILED, E_MISCOMPARE → FAILED_PRECONDITION
 *   E_OUT_OF_RANGE → OUT_OF_RANGE              E_UNAVAILABLE → UNAVAILABLE      E_CANCELLED → CANCELLED
 *   E_DEADLINE → DEADLINE_EXCEEDED             E_UNAUTHENTICATED → UNAUTHENTICATED
 *   E_PERMISSION → PERMISSION_DENIED           E_UNIMPLEMENTED → UNIMPLEMENTED  E_CORRUPT → DATA_LOSS
 *   every negative code → INTERNAL
 *
 * The way back cannot tell codes that share a status: the first of each row above is taken, unless the server
 * says which one it means in trailing metadata ("mooring-code": the code's name), as ours always does.
 */
#pragma once

/* A grpc_status_code for a code of common/error.h. */
int status_from_error(int code);

/* The code of common/error.h for a grpc_status_code; INTERNAL, UNKNOWN and what is not known become -EIO. */
int status_to_error(int status);

/* The code among those of status whose error_name() is code_name; status_to_error(status) when there is none.
 */
int status_refine(int status, const char *code_name);
