/* What the tests of rpc/ share: a directory of their own, a CA with certificates, and the tables of a test
 * service. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "common/error.h"
#include "rpc/rpc.h"

extern char rpc_test_dir[64];
extern char rpc_test_unix[128]; /* "unix:///…/s.sock" */
extern char rpc_test_tcp[32];   /* "127.0.0.1:port", a port that was free */

/* Group fixtures: make and remove the directory. */
int rpc_test_setup(void **state);
int rpc_test_teardown(void **state);

/* "<directory>/<name><suffix>", in one of a few static buffers. */
const char *rpc_test_path(const char *name, const char *suffix);

/* Issue certificate name for one address, by the CA in directory ca, which is made at its first use. */
void rpc_test_issue(const char *ca, const char *name, const char *common_name, const char *address);

/* The files of certificate name, checked against the CA in directory "ca" (or other). */
struct rpc_tls rpc_test_tls(const char *ca, const char *name);

/* Fails the test with the error's text when code is not what is expected. */
void rpc_test_expect(int expected, int code, struct error *err);
