/* Sums over the storage servers. Owns nothing; run by worker threads. */
#include "controller/capacity.h"

#include "common/size.h"
#include "controller/placement.h"
#include "controller/size_range.h"

static void add_server(struct capacity *capacity, const Mooring__Storage__V1__GetServerResponse *response,
                       bool thick)
{
    const struct storage_room room = storage_room_of(response);
    uint64_t free_bytes = ROUND_DOWN(room.free_bytes, SIZE_STEP_BYTES);
    uint64_t size_max_bytes = thick ? free_bytes : ROUND_DOWN(room.promise_max_bytes, SIZE_STEP_BYTES);

    capacity->available_bytes += MIN(free_bytes, INT64_MAX - capacity->available_bytes);
    capacity->size_max_bytes = MAX(capacity->size_max_bytes, MIN(size_max_bytes, room.size_max_bytes));
}

int capacity_get(struct controller *controller, const struct topology_wish *wish, bool thick,
                 uint64_t deadline_ms, struct capacity *ret, struct error *err)
{
    struct storage *storage = controller->storage;
    struct capacity capacity = {0};

    for (size_t i = 0; i < storage_count(storage); i++) {
        struct storage_server *server = storage_at(storage, i);
        Mooring__Storage__V1__GetServerResponse *response = NULL;
        json_t *topology;
        int r;

        if (storage_server_config(server)->gone)
            continue;
        r = storage_get_server(server, deadline_ms, &response, err);
        if (r != E_OK)
            return r;
        topology = storage_server_topology(server);
        if (placement_fits(topology, wish))
            add_server(&capacity, response, thick);
        json_decref(topology);
        protobuf_c_message_free_unpacked(&response->base, NULL);
    }
    *ret = capacity;
    return E_OK;
}
