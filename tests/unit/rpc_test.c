/* All tests of rpc/, in one binary: real servers and clients in one process, over unix sockets and TLS on
 * 127.0.0.1. */
#include "tests/unit/rpc_tests.h"

#include "common/log.h"

int main(void)
{
    log_init("rpc_test", LOG_LEVEL_WARNING);
    return rpc_calls_tests() ? 1 : 0;
}
