/*
 * The one place where error codes become gRPC statuses and back.
 *
 *   E_INVALID_ARGUMENT → INVALID_ARGUMENT      E_NOT_FOUND → NOT_FOUND          E_EXISTS → ALREADY_EXISTS
 *   E_NO_SPACE, E_EXHAUSTED → RESOURCE_EXHAUSTED                                E_BUSY, E_STALE → ABORTED
 *   E_PRECONDITION, E_READ_ONLY, E_WRITE_FAILED, E_MISCOMPARE → FAILED_PRECONDITION
 *   E_OUT_OF_RANGE → OUT_OF_RANGE              E_UNAVAILABLE → UNAVAILABLE      E_DEADLINE →
 * DEADLINE_EXCEEDED E_CANCELLED → CANCELLED                    E_UNAUTHENTICATED → UNAUTHENTICATED
 *   E_PERMISSION → PERMISSION_DENIED           E_UNIMPLEMENTED → UNIMPLEMENTED  E_CORRUPT → DATA_LOSS
 *   every negative code → INTERNAL
 *
 * The way back cannot tell E_BUSY from E_STALE: a server that means E_STALE says so in trailing metadata
 * ("mooring-code"), which the client reads.
 */
#pragma once

/* A grpc_status_code for a code of common/error.h. */
int status_from_error(int code);

/* The code of common/error.h for a grpc_status_code; INTERNAL, UNKNOWN and what is not known become -EIO. */
int status_to_error(int status);
