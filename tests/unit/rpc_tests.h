/* The groups of rpc_test, one a file. */
#pragma once

int rpc_calls_tests(void);
