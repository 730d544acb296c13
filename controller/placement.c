/* Placement of new volumes. Owns nothing: pure functions, any thread, called by volume_create.c and
 * capacity.c. */
#include "controller/placement.h"

#include <inttypes.h>
#include <strings.h>

#include "common/strings.h"

static const char *find_segment(json_t *segments, const char *wanted)
{
    const char *key;
    json_t *value;

    json_object_foreach(segments, key, value)
    {
        if (strcasecmp(key, wanted) == 0)
            return json_string_value(value);
    }
    return NULL;
}

bool placement_reaches(json_t *topology, json_t *place)
{
    bool shared = false;
    const char *key;
    json_t *value;

    if (json_object_size(topology) == 0 || json_object_size(place) == 0)
        return true;
    json_object_foreach(topology, key, value)
    {
        const char *other = find_segment(place, key);

        if (other && !str_equal(other, json_string_value(value)))
            return false;
        shared = shared || other;
    }
    return shared;
}

/* "zone" and "example.com/zone" are both a zone. */
static bool in_zone(json_t *topology, const char *zone)
{
    const char *key;
    json_t *value;

    json_object_foreach(topology, key, value)
    {
        const char *slash = strrchr(key, '/');

        if (strcasecmp(slash ? slash + 1 : key, "zone") == 0 && str_equal(json_string_value(value), zone))
            return true;
    }
    return false;
}

bool placement_fits(json_t *topology, const struct topology_wish *wish)
{
    json_t *place;
    size_t i;

    if (wish->zone && !in_zone(topology, wish->zone))
        return false;
    json_array_foreach(wish->requisite, i, place)
    {
        if (placement_reaches(topology, place))
            return true;
    }
    return json_array_size(wish->requisite) == 0;
}

/* The first preferred topology that the server reaches; their number when it reaches none. */
static size_t preference(json_t *topology, const struct topology_wish *wish)
{
    json_t *place;
    size_t i;

    json_array_foreach(wish->preferred, i, place)
    {
        if (placement_reaches(topology, place))
            return i;
    }
    return json_array_size(wish->preferred);
}

static bool better(const struct placement_server *a, const struct placement_server *b,
                   const struct topology_wish *wish)
{
    size_t preference_a = preference(a->topology, wish);
    size_t preference_b = preference(b->topology, wish);

    if (preference_a != preference_b)
        return preference_a < preference_b;
    if (a->free_bytes != b->free_bytes)
        return a->free_bytes > b->free_bytes;
    return strcmp(a->id, b->id) < 0;
}

static int no_server(size_t fitting, uint64_t size_max_bytes, uint64_t room_max_bytes, uint64_t size_bytes,
                     struct error *err)
{
    if (fitting == 0)
        return error_set(err, E_EXHAUSTED, "no storage server is in the topology or zone that was asked for");
    if (size_bytes > size_max_bytes)
        return error_set(err, E_OUT_OF_RANGE,
                         "%" PRIu64
                         " bytes is more than any of %zu storage servers takes for one volume: %" PRIu64,
                         size_bytes, fitting, size_max_bytes);
    return error_set(err, E_NO_SPACE,
                     "none of %zu storage servers has %" PRIu64 " bytes free; the most is %" PRIu64
                     ". Delete volumes or add capacity",
                     fitting, size_bytes, room_max_bytes);
}

int placement_choose(const struct placement_server *servers, size_t count, const struct topology_wish *wish,
                     uint64_t size_bytes, size_t *ret_index, struct error *err)
{
    const struct placement_server *best = NULL;
    uint64_t size_max_bytes = 0, room_max_bytes = 0;
    size_t fitting = 0;

    for (size_t i = 0; i < count; i++) {
        const struct placement_server *one = &servers[i];

        if (!placement_fits(one->topology, wish))
            continue;
        fitting++;
        size_max_bytes = one->size_max_bytes > size_max_bytes ? one->size_max_bytes : size_max_bytes;
        room_max_bytes = one->room_bytes > room_max_bytes ? one->room_bytes : room_max_bytes;
        if (one->size_max_bytes >= size_bytes && one->room_bytes >= size_bytes &&
            (!best || better(one, best, wish)))
            best = one;
    }
    if (!best)
        return no_server(fitting, size_max_bytes, room_max_bytes, size_bytes, err);
    *ret_index = (size_t)(best - servers);
    return E_OK;
}
