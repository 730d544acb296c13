/*
 * The test services as a program, for clients that are not ours. Serves until SIGTERM, then drains.
 *   rpc_test_server ENDPOINT [CA CERT KEY]
 *   rpc_test_server issue CA_DIR COMMON_NAME NAME PREFIX      (makes the CA when there is none)
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "rpc/tls_issue.h"
#include "tests/unit/rpc_service.h"

static int failed(struct error *err)
{
    fprintf(stderr, "rpc_test_server: %s\n", error_text(err));
    error_done(err);
    return 1;
}

static int issue(char **arguments)
{
    struct error err = {0};
    int code = tls_ca_create(arguments[0], &err);

    if (code && code != E_EXISTS)
        return failed(&err);
    error_done(&err);
    if (tls_issue(arguments[0], arguments[1], (const char *const *)&arguments[2], 1, arguments[3], 30, &err))
        return failed(&err);
    return 0;
}

static int serve(const char *endpoint, const struct rpc_tls *tls)
{
    struct rpc_server_options options = {.endpoint = endpoint, .tls = tls, .message_max_bytes = 100000};
    static struct test_service test;
    struct rpc_service services[3];
    struct rpc_server *server;
    struct error err = {0};
    sigset_t stop;
    int number;

    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    test_services(&test, services);
    if (rpc_server_new(&server, &options, services, 3, &err))
        return failed(&err);
    puts("ready");
    fflush(stdout);
    sigwait(&stop, &number);
    rpc_server_free(server, 5000);
    return 0;
}

int main(int argc, char **argv)
{
    struct rpc_tls tls = {0};

    log_init("rpc_test_server", LOG_LEVEL_INFO);
    if (argc == 6 && strcmp(argv[1], "issue") == 0)
        return issue(argv + 2);
    if (argc != 2 && argc != 5)
        return 2;
    if (argc == 5)
        tls = (struct rpc_tls){.ca_file = argv[2], .cert_file = argv[3], .key_file = argv[4]};
    return serve(argv[1], argc == 5 ? &tls : NULL);
}
