/* All tests of rpc/, in one binary: real servers and clients in one process, over unix sockets and TLS on
 * 127.0.0.1. */
#include "common/log.h"
#include "tests/unit/rpc_tests.h"

int main(void)
{
    log_init("rpc_test", LOG_LEVEL_WARNING);
    return rpc_parts_tests() + rpc_calls_tests() + rpc_tls_tests() ? 1 : 0;
}
