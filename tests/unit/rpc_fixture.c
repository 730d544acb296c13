/* Shared by the tests of rpc/: a scratch directory, free endpoints, and expectations that show an error's
 * text. */
#include "tests/unit/rpc_fixture.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/tls_issue.h"

char rpc_test_dir[64], rpc_test_unix[128], rpc_test_tcp[32];

static unsigned rpc_test_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, length), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    close(fd);
    return ntohs(address.sin_port);
}

int rpc_test_setup(void **state)
{
    const char *parent = getenv("TMPDIR");

    (void)state;
    snprintf(rpc_test_dir, sizeof(rpc_test_dir), "%s/rpc.XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(rpc_test_dir))
        return -1;
    snprintf(rpc_test_unix, sizeof(rpc_test_unix), "unix://%s/s.sock", rpc_test_dir);
    snprintf(rpc_test_tcp, sizeof(rpc_test_tcp), "127.0.0.1:%u", rpc_test_free_port());
    return 0;
}

void rpc_test_issue(const char *ca, const char *name, const char *common_name, const char *address)
{
    struct error err = {0};
    const char *dir = rpc_test_path(ca, "");

    if (access(rpc_test_path(ca, "/ca.crt"), F_OK) < 0)
        rpc_test_expect(0, tls_ca_create(dir, &err), &err);
    rpc_test_expect(0, tls_issue(dir, common_name, &address, 1, rpc_test_path(name, ""), 30, &err), &err);
}

static int rpc_test_remove(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    return remove(path);
}

int rpc_test_teardown(void **state)
{
    (void)state;
    return nftw(rpc_test_dir, rpc_test_remove, 8, FTW_DEPTH | FTW_PHYS);
}

const char *rpc_test_path(const char *name, const char *suffix)
{
    static char paths[8][160];
    static unsigned next;
    char *path = paths[next++ % 8];

    snprintf(path, sizeof(paths[0]), "%s/%s%s", rpc_test_dir, name, suffix);
    return path;
}

struct rpc_tls rpc_test_tls(const char *ca, const char *name)
{
    return (struct rpc_tls){.ca_file = rpc_test_path(ca, "/ca.crt"),
                            .cert_file = rpc_test_path(name, ".crt"),
                            .key_file = rpc_test_path(name, ".key")};
}

void rpc_test_expect(int expected, int code, struct error *err)
{
    if (code != expected)
        fail_msg("expected %s, got %s: %s", error_name(expected), error_name(code), error_text(err));
    if (err && code)
        assert_int_equal(err->code, code);
}
