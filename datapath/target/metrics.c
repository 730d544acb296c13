/* The page of metrics; see metrics.h. Run by metrics_http.c's thread. */
#include "datapath/target/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/target/server.h"

/* One sample without labels. */
static void metrics_add(FILE *page, const char *name, const char *type, const char *help, uint64_t value)
{
    fprintf(page, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", name, help, name, type, name, value);
}

static void metrics_add_state(FILE *page, enum health_pool state)
{
    static const char *const names[] = {
        [HEALTH_POOL_GOOD] = "good", [HEALTH_POOL_FILLING] = "filling", [HEALTH_POOL_FULL] = "full"};
    fprintf(page, "# HELP mooring_pool_state 1 for the state that the pool is in.\n"
                  "# TYPE mooring_pool_state gauge\n");
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        fprintf(page, "mooring_pool_state{state=\"%s\"} %d\n", names[i], (size_t)state == i);
}

static void metrics_add_space(FILE *page, const struct health_findings *found)
{
    const struct store_capacity *capacity = &found->capacity;
    metrics_add(page, "mooring_pool_size_bytes", "gauge", "Of the pool's file system.",
                capacity->total_bytes);
    metrics_add(page, "mooring_pool_used_bytes", "gauge", "Allocated in the pool's file system.",
                capacity->used_bytes);
    metrics_add(page, "mooring_pool_promised_bytes", "gauge", "Promised to volumes and snapshots.",
                capacity->promised_bytes);
    metrics_add(page, "mooring_pool_free_bytes", "gauge",
                "Free for new volumes, as mooring pool list tells it.", capacity->free_bytes);
    metrics_add(page, "mooring_pool_overcommitted", "gauge", "Whether more is promised than the pool has.",
                capacity->overcommitted);
    metrics_add_state(page, found->pool);
}

static void metrics_add_objects(FILE *page, const struct health_findings *found)
{
    metrics_add(page, "mooring_volumes", "gauge", "Volumes in the pool.", found->capacity.volumes_count);
    metrics_add(page, "mooring_snapshots", "gauge", "Snapshots in the pool.",
                found->capacity.snapshots_count);
    metrics_add(page, "mooring_volumes_write_failed", "gauge",
                "Volumes that take no writes until they are cleared.", found->write_failed.count);
    metrics_add(page, "mooring_volumes_unreadable", "gauge", "Volumes whose record cannot be read.",
                found->unreadable.count);
    metrics_add(page, "mooring_pool_read_errors", "gauge",
                "Ranges of data that the scrub found the disk cannot read.", found->read_error_ranges);
}

static void metrics_add_server(FILE *page, struct server *server)
{
    unsigned connections = atomic_load(&server->connections_count);
    unsigned guests = atomic_load(&server->guests_count);
    fprintf(page,
            "# HELP mooring_server_info 1, of this storage server.\n# TYPE mooring_server_info gauge\n"
            "mooring_server_info{server_id=\"%s\",version=\"%s\"} 1\n",
            server->settings->server_id, MOORING_VERSION);
    metrics_add(page, "mooring_server_ready", "gauge", "Whether the pool is open and served.",
                server_ready(server));
    metrics_add(page, "mooring_connections", "gauge", "iSCSI connections that are open.", connections);
    metrics_add(page, "mooring_sessions", "gauge", "Of them, those that use a volume.",
                connections - MIN(guests, connections)); /* the two were not read at one moment */
    metrics_add(page, "mooring_writes_refused_total", "counter", "Writes that found no space in the pool.",
                atomic_load(&server->health.refused));
}

char *metrics_page(void *context)
{
    struct server *server = context;
    const struct health_findings found = health_find(&server->health);
    char *text = NULL;
    size_t length = 0;
    FILE *page = open_memstream(&text, &length);
    if (!page)
        return NULL;
    metrics_add_server(page, server);
    if (found.capacity.total_bytes != 0) { /* the pool was looked at */
        metrics_add_space(page, &found);
        metrics_add_objects(page, &found);
    }
    if (fclose(page) == 0)
        return text;
    free(text);
    return NULL;
}
