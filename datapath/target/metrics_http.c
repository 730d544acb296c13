/*
 * The thread that answers Prometheus; see metrics_http.h. It owns the listening socket and its clients;
 * started and stopped by main().
 */
#include "datapath/target/metrics_http.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "rpc/endpoint.h"

#define HEAD_MAX 4096
#define BACKLOG 64
#define ACCEPT_RETRY_MS 1000 /* while there is no descriptor for a client */

struct client {
    int fd; /* -1: a free place */
    uint64_t until_ms;
    char head[HEAD_MAX + 1];
    size_t received;
    char *answer; /* NULL: the head is not whole yet */
    size_t length, sent;
};

struct metrics_http {
    int listener, stop;
    char path[108]; /* of a unix socket, or "" */
    metrics_http_page page;
    void *context;
    pthread_t thread;
    uint64_t accept_from_ms;
    struct client clients[METRICS_CLIENTS];
};

/* ---- the answer ---- */

static char *http_answer(const char *status, const char *more, const char *body)
{
    return str_format("HTTP/1.1 %s\r\n%sContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status, more,
                      strlen(body), body);
}

static char *http_answer_page(struct metrics_http *http)
{
    _cleanup_free_ char *page = http->page(http->context);
    if (!page)
        return http_answer("500 Internal Server Error", "", "");
    return http_answer("200 OK", "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n", page);
}

/* By the request line; what follows it says nothing that matters here. The head is written to. */
static char *http_answer_to(struct metrics_http *http, char *head)
{
    char *rest, *line = strtok_r(head, "\r\n", &rest);
    char *method = line ? strtok_r(line, " ", &rest) : NULL;
    char *target = method ? strtok_r(NULL, " ", &rest) : NULL;
    const char *version = target ? strtok_r(NULL, " ", &rest) : NULL;
    if (!version || !str_starts_with(version, "HTTP/1."))
        return http_answer("400 Bad Request", "", "");
    target[strcspn(target, "?")] = '\0';
    if (!str_equal(target, "/metrics"))
        return http_answer("404 Not Found", "", "The page is /metrics.\n");
    if (!str_equal(method, "GET"))
        return http_answer("405 Method Not Allowed", "Allow: GET\r\n", "");
    return http_answer_page(http);
}

/* ---- one client ---- */

static void client_close(struct client *client)
{
    client->fd = fd_close(client->fd);
    free(client->answer);
    client->answer = NULL;
}

static void client_send(struct client *client)
{
    ssize_t n = send(client->fd, client->answer + client->sent, client->length - client->sent, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        client_close(client);
        return;
    }
    client->sent += n > 0 ? (size_t)n : 0;
    if (client->sent == client->length)
        shutdown(client->fd, SHUT_WR);
}

static void client_answer(struct client *client, char *answer)
{
    if (!answer) {
        client_close(client);
        return;
    }
    client->answer = answer;
    client->length = strlen(answer);
    client->sent = 0;
    client_send(client);
}

static void client_receive(struct metrics_http *http, struct client *client)
{
    ssize_t n = recv(client->fd, client->head + client->received, HEAD_MAX - client->received, 0);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            client_close(client);
        return;
    }
    client->received += (size_t)n;
    client->head[client->received] = '\0';
    if (strstr(client->head, "\r\n\r\n") || strstr(client->head, "\n\n"))
        client_answer(client, http_answer_to(http, client->head));
    else if (client->received == HEAD_MAX)
        client_answer(client, http_answer("431 Request Header Fields Too Large", "", ""));
}

/* The answer is sent. Closing with something of the client's unread would reset the connection, and could
 * take the answer from it: until it closes, what it sends is thrown away. */
static void client_drain(struct client *client)
{
    char bin[HEAD_MAX];
    ssize_t n = recv(client->fd, bin, sizeof(bin), 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        client_close(client);
}

static short client_events(const struct client *client)
{
    return client->answer && client->sent < client->length ? POLLOUT : POLLIN;
}

static void client_run(struct metrics_http *http, struct client *client)
{
    if (!client->answer)
        client_receive(http, client);
    else if (client->sent < client->length)
        client_send(client);
    else
        client_drain(client);
}

/* ---- all clients ---- */

static struct client *http_place(struct metrics_http *http)
{
    struct client *oldest = &http->clients[0];
    for (size_t i = 0; i < METRICS_CLIENTS; i++) {
        if (http->clients[i].fd < 0)
            return &http->clients[i];
        if (http->clients[i].until_ms < oldest->until_ms)
            oldest = &http->clients[i];
    }
    client_close(oldest);
    return oldest;
}

static void http_accept(struct metrics_http *http)
{
    int fd = accept4(http->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        struct client *client = http_place(http);
        client->fd = fd;
        client->until_ms = time_now_ms() + METRICS_CLIENT_MS;
        client->received = 0;
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        log_warning("metrics: accept: %s", error_name(-errno));
        http->accept_from_ms = time_now_ms() + ACCEPT_RETRY_MS;
    }
}

/* Closes whose time is up. Until when poll() may sleep: -1 for ever. */
static int http_expire(struct metrics_http *http)
{
    uint64_t now_ms = time_now_ms(), next_ms = UINT64_MAX;
    for (size_t i = 0; i < METRICS_CLIENTS; i++) {
        struct client *client = &http->clients[i];
        if (client->fd >= 0 && client->until_ms <= now_ms)
            client_close(client);
        if (client->fd >= 0)
            next_ms = MIN(next_ms, client->until_ms);
    }
    if (http->accept_from_ms > now_ms)
        next_ms = MIN(next_ms, http->accept_from_ms);
    return next_ms == UINT64_MAX ? -1 : (int)(next_ms - now_ms);
}

static void *http_run(void *context)
{
    struct metrics_http *http = context;
    struct pollfd polls[2 + METRICS_CLIENTS];
    for (;;) {
        int timeout_ms = http_expire(http);
        bool accepting = http->accept_from_ms <= time_now_ms();
        polls[0] = (struct pollfd){.fd = http->stop, .events = POLLIN};
        polls[1] = (struct pollfd){.fd = accepting ? http->listener : -1, .events = POLLIN};
        for (size_t i = 0; i < METRICS_CLIENTS; i++)
            polls[2 + i] =
                (struct pollfd){.fd = http->clients[i].fd, .events = client_events(&http->clients[i])};
        if (poll(polls, ARRAY_SIZE(polls), timeout_ms) < 0)
            continue;
        if (polls[0].revents)
            return NULL;
        for (size_t i = 0; i < METRICS_CLIENTS; i++)
            if (polls[2 + i].revents)
                client_run(http, &http->clients[i]);
        if (polls[1].revents)
            http_accept(http); /* last: it may take a place whose event is one of the old client's */
    }
}

/* ---- listening ---- */

static int http_listen_unix(struct metrics_http *http, const struct rpc_endpoint *endpoint, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    _cleanup_fd_ int lock_fd = -1;
    int code = rpc_endpoint_claim(endpoint, &lock_fd, err);
    if (code)
        return code;
    memcpy(address.sun_path, endpoint->path, sizeof(address.sun_path));
    http->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (http->listener < 0 || bind(http->listener, (struct sockaddr *)&address, sizeof(address)) < 0)
        return error_errno(err, errno, "metrics: listen on socket %s", endpoint->path);
    memcpy(http->path, endpoint->path, sizeof(http->path));
    if (listen(http->listener, BACKLOG) < 0)
        return error_errno(err, errno, "metrics: listen on socket %s", endpoint->path);
    return 0;
}

static int http_bind_tcp(struct metrics_http *http, const struct addrinfo *address)
{
    int one = 1;
    http->listener = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (http->listener < 0 || setsockopt(http->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(http->listener, address->ai_addr, address->ai_addrlen) < 0 ||
        listen(http->listener, BACKLOG) < 0)
        return errno;
    return 0;
}

static int http_listen_tcp(struct metrics_http *http, const struct rpc_endpoint *endpoint, struct error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *addresses;
    int failed = getaddrinfo(endpoint->host, endpoint->port, &hints, &addresses);
    if (failed)
        return error_set(err, E_INVALID_ARGUMENT, "metrics: listen on %s: %s", endpoint->target,
                         gai_strerror(failed));
    int problem = http_bind_tcp(http, addresses);
    freeaddrinfo(addresses);
    if (problem == EADDRINUSE)
        return error_set(err, E_EXISTS, "metrics: listen on %s: another server has this port",
                         endpoint->target);
    if (problem == EADDRNOTAVAIL)
        return error_set(err, E_INVALID_ARGUMENT, "metrics: listen on %s: this host has no such address",
                         endpoint->target);
    return problem ? error_errno(err, problem, "metrics: listen on %s", endpoint->target) : 0;
}

static int http_listen(struct metrics_http *http, const char *address, struct error *err)
{
    struct rpc_endpoint endpoint;
    int code = rpc_endpoint_init(&endpoint, address, err);
    if (code)
        return code;
    code = endpoint.local ? http_listen_unix(http, &endpoint, err) : http_listen_tcp(http, &endpoint, err);
    rpc_endpoint_done(&endpoint);
    return code;
}

/* ---- life ---- */

static struct metrics_http *http_free(struct metrics_http *http)
{
    for (size_t i = 0; i < METRICS_CLIENTS; i++)
        client_close(&http->clients[i]);
    fd_close(http->listener);
    fd_close(http->stop);
    if (http->path[0])
        unlink(http->path);
    free(http);
    return NULL;
}

int metrics_http_start(struct metrics_http **ret, const char *address, metrics_http_page page, void *context,
                       struct error *err)
{
    struct metrics_http *http = calloc(1, sizeof(*http));
    if (!http)
        return error_errno(err, ENOMEM, "metrics");
    http->page = page;
    http->context = context;
    http->listener = -1;
    for (size_t i = 0; i < METRICS_CLIENTS; i++)
        http->clients[i].fd = -1;
    http->stop = eventfd(0, EFD_CLOEXEC);
    int code = http->stop < 0 ? error_errno(err, errno, "metrics") : http_listen(http, address, err);
    if (code == 0) {
        int problem = pthread_create(&http->thread, NULL, http_run, http);
        code = problem ? error_errno(err, problem, "metrics: cannot start a thread") : 0;
    }
    if (code) {
        http_free(http);
        return code;
    }
    *ret = http;
    return 0;
}

struct metrics_http *metrics_http_stop(struct metrics_http *http)
{
    if (!http)
        return NULL;
    eventfd_write(http->stop, 1);
    pthread_join(http->thread, NULL);
    return http_free(http);
}
