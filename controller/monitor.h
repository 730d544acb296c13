/*
 * Watches the storage servers: asks each one every few seconds, logs when one comes or goes, and so lets
 * Probe tell the truth without waiting for anyone. One thread of its own.
 */
#pragma once

#include <stdbool.h>

#include "controller/storage_client.h"

struct monitor;

int monitor_new(struct monitor **ret, struct storage *storage, struct error *err);
struct monitor *monitor_free(struct monitor *monitor); /* stops and joins the thread; returns NULL */

/* Does at least one storage server answer, with the right pool? Never blocks. */
bool monitor_ready(const struct monitor *monitor);

/* Is any server configured that is not gone? */
bool monitor_has_servers(const struct monitor *monitor);
