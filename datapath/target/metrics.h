/*
 * What this storage server tells a Prometheus: the numbers that health.c found last and the counters of the
 * server, in the text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). No secret, no name
 * of a volume, and nothing that asks the pool: a disk that hangs does not hang the page.
 */
#pragma once

struct server;

/* The page, on the heap; NULL without memory. context: the struct server. Any thread, until server_stop(). */
char *metrics_page(void *context);
