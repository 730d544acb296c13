/* The groups of rpc_test, one a file. */
#pragma once

int rpc_calls_tests(void);
int rpc_tls_tests(void);
int rpc_parts_tests(void);
