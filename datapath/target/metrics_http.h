/*
 * HTTP/1.1 (RFC 9112) for one page: GET /metrics, answered and closed. Everything else is refused: 404, 405,
 * 400, and 431 for a head that is too long. A thread of its own, which never blocks on a client:
 * METRICS_CLIENTS of them at once, METRICS_CLIENT_MS for each; the oldest makes room for one more.
 */
#pragma once

#include "common/error.h"

#define METRICS_CLIENTS 16
#define METRICS_CLIENT_MS 30000

struct metrics_http;

/* On the heap, NUL-terminated; NULL is answered with 500. Called by the thread. */
typedef char *(*metrics_http_page)(void *context);

/* Listen on address, "host:port" or "unix:///path", and serve. E_INVALID_ARGUMENT for another form or an
 * address that is not this host's, E_EXISTS when somebody listens there. */
int metrics_http_start(struct metrics_http **ret, const char *address, metrics_http_page page, void *context,
                       struct error *err);
struct metrics_http *metrics_http_stop(struct metrics_http *http); /* at once; NULL is fine; returns NULL */
