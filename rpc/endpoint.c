/*
 * Endpoints of servers and clients. gRPC removes whatever socket file it finds before it binds, a live one
 * too: the claim here comes first. Blocking; called where a server or client is made.
 */
#include "rpc/endpoint.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netdb.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/strings.h"

static int endpoint_bad(const char *text, struct error *err)
{
    return error_set(err, E_INVALID_ARGUMENT, "endpoint \"%s\": expected unix:///path or host:port", text);
}

/* gRPC reads a target as a URI: what it would take for an escape or a query is escaped. */
static char *endpoint_escape(const char *path)
{
    static const char hex[] = "0123456789ABCDEF";
    char *out = malloc(strlen("unix:") + 3 * strlen(path) + 1), *at = out;

    if (!out)
        return NULL;
    at = stpcpy(at, "unix:");
    for (; *path; path++) {
        unsigned char byte = (unsigned char)*path;
        if (isalnum(byte) || strchr("/._-", byte)) {
            *at++ = *path;
        } else {
            *at++ = '%';
            *at++ = hex[byte >> 4];
            *at++ = hex[byte & 15];
        }
    }
    *at = '\0';
    return out;
}

static int endpoint_init_unix(struct rpc_endpoint *ret_endpoint, const char *text, struct error *err)
{
    const char *path = text + strlen("unix://");

    if (path[0] != '/' || path[strlen(path) - 1] == '/')
        return endpoint_bad(text, err);
    if (!str_copy(ret_endpoint->path, sizeof(ret_endpoint->path), path))
        return error_set(err, E_INVALID_ARGUMENT, "endpoint \"%s\": a socket's path has at most %zu bytes",
                         text, sizeof(ret_endpoint->path) - 1);
    ret_endpoint->local = true;
    ret_endpoint->target = endpoint_escape(path);
    return ret_endpoint->target ? 0 : error_errno(err, ENOMEM, "endpoint \"%s\"", text);
}

static bool endpoint_port_valid(const char *port)
{
    char *end;
    unsigned long number = strtoul(port, &end, 10);

    return port[0] >= '1' && port[0] <= '9' && !*end && number <= UINT16_MAX;
}

static int endpoint_init_tcp(struct rpc_endpoint *ret_endpoint, const char *text, struct error *err)
{
    const char *colon = strrchr(text, ':');
    bool bracketed = text[0] == '[';
    size_t host_length = colon ? (size_t)(colon - text) : 0;

    if (!host_length || !endpoint_port_valid(colon + 1) || strpbrk(text, "/?#% "))
        return endpoint_bad(text, err);
    if (bracketed ? text[host_length - 1] != ']' || host_length < 3 : memchr(text, ':', host_length) != NULL)
        return endpoint_bad(text, err);
    ret_endpoint->target = strdup(text);
    ret_endpoint->host = bracketed ? strndup(text + 1, host_length - 2) : strndup(text, host_length);
    ret_endpoint->port = strdup(colon + 1);
    if (ret_endpoint->target && ret_endpoint->host && ret_endpoint->port)
        return 0;
    return error_errno(err, ENOMEM, "endpoint \"%s\"", text);
}

int rpc_endpoint_init(struct rpc_endpoint *ret_endpoint, const char *text, struct error *err)
{
    struct rpc_endpoint endpoint = {0};
    int code;

    if (str_starts_with(text, "unix://"))
        code = endpoint_init_unix(&endpoint, text, err);
    else
        code = endpoint_init_tcp(&endpoint, text, err);
    if (code)
        rpc_endpoint_done(&endpoint);
    else
        *ret_endpoint = endpoint;
    return code;
}

void rpc_endpoint_done(struct rpc_endpoint *endpoint)
{
    free(endpoint->target);
    free(endpoint->host);
    free(endpoint->port);
    memset(endpoint, 0, sizeof(*endpoint));
}

/* Whether somebody listens at path: 1, 0, or -errno. */
static int endpoint_probe(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return 1;
    switch (errno) {
    case ECONNREFUSED:
    case ENOENT:
        return 0;
    case EAGAIN:     /* its backlog is full */
    case EPROTOTYPE: /* a socket of another kind, bound by somebody */
        return 1;
    }
    return -errno;
}

static int endpoint_remove_stale(const struct rpc_endpoint *endpoint, struct error *err)
{
    const char *path = endpoint->path;
    struct stat status;
    int live;

    if (lstat(path, &status) < 0)
        return errno == ENOENT ? 0 : error_errno(err, errno, "%s", path);
    if (!S_ISSOCK(status.st_mode))
        return error_set(err, E_EXISTS, "%s exists and is not a socket: remove it or choose another path",
                         path);
    live = endpoint_probe(path);
    if (live < 0)
        return error_errno(err, -live, "%s: cannot tell whether a server listens on it", path);
    if (live)
        return error_set(err, E_EXISTS, "%s: another server listens on this socket", path);
    if (unlink(path) < 0 && errno != ENOENT)
        return error_errno(err, errno, "remove stale socket %s", path);
    return 0;
}

int rpc_endpoint_claim(const struct rpc_endpoint *endpoint, int *ret_lock_fd, struct error *err)
{
    char path[sizeof(endpoint->path)];
    const char *directory;
    _cleanup_fd_ int fd = -1;
    int code;

    memcpy(path, endpoint->path, sizeof(path));
    directory = dirname(path);
    fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, E_INVALID_ARGUMENT, "socket %s: its directory %s cannot be opened: %s",
                         endpoint->path, directory, strerrordesc_np(errno));
    /* Between the probe and the bind, another server of ours could do the same. */
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return error_errno(err, errno, "lock %s", directory);
    code = endpoint_remove_stale(endpoint, err);
    if (!code)
        *ret_lock_fd = TAKE_FD(fd);
    return code;
}

int rpc_endpoint_explain(const struct rpc_endpoint *endpoint, struct error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *addresses;
    int failed = getaddrinfo(endpoint->host, endpoint->port, &hints, &addresses), errnum, one = 1;
    _cleanup_fd_ int fd = -1;

    if (failed)
        return error_set(err, E_INVALID_ARGUMENT, "listen on %s: %s", endpoint->target, gai_strerror(failed));
    fd = socket(addresses->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    errnum = fd < 0 || bind(fd, addresses->ai_addr, addresses->ai_addrlen) < 0 ? errno : 0;
    freeaddrinfo(addresses);
    if (errnum == EADDRINUSE)
        return error_set(err, E_EXISTS, "listen on %s: another server has this port", endpoint->target);
    if (errnum == EADDRNOTAVAIL)
        return error_set(err, E_INVALID_ARGUMENT, "listen on %s: this host has no such address",
                         endpoint->target);
    return error_errno(err, errnum ? errnum : EADDRINUSE, "listen on %s", endpoint->target);
}
