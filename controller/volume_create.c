/*
 * CreateVolume: survey the servers, choose one, claim the name on all, then make the volume on the server
 * that the claim names. Owns nothing across calls; run by worker threads. A repeat finds the claim and
 * finishes or returns what it made.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/strings.h"
#include "common/time.h"
#include "controller/claim.h"
#include "controller/placement.h"
#include "controller/size_range.h"
#include "controller/volume_source.h"

#define CREATE_ROUNDS 4
#define AGAIN_MIN_MS 500

struct create {
    struct controller *controller;
    const struct create_request *request;
    uint64_t deadline_ms;
    uint64_t size_bytes;
    char candidate_id[CLAIM_ID_MAX + 1]; /* ours, where no claim stands yet */
    struct volume_source source;
    int round;
    struct error placement; /* why no server can take a new volume; code 0 when one can */
};

static int survey_server(const struct create *create, struct storage_server *server, bool fresh,
                         struct placement_server *ret, struct error *err)
{
    struct storage_room room;
    int r = E_OK;

    if (fresh || !storage_server_room(server, &room))
        r = storage_get_server(server, create->deadline_ms, NULL, err);
    if (r != E_OK)
        return r;
    storage_server_room(server, &room);
    *ret = (struct placement_server){
        .id = storage_server_config(server)->id,
        .topology = storage_server_topology(server),
        .free_bytes = room.free_bytes,
        .size_max_bytes = room.size_max_bytes,
        .room_bytes = create->request->parameters.thick ? room.free_bytes : room.promise_max_bytes,
    };
    return E_OK;
}

static void survey_free(struct placement_server *servers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        json_decref(servers[i].topology);
    free(servers);
}

/* Every server has to answer: any of them may hold this name's claim. */
static int survey(const struct create *create, bool fresh, struct placement_server **ret, size_t *ret_count,
                  struct error *err)
{
    const struct storage *storage = create->controller->storage;
    struct placement_server *servers = calloc(storage_count(storage) + 1, sizeof(*servers));
    size_t count = 0;
    int r = E_OK;

    if (!servers)
        return error_errno(err, ENOMEM, "placement");
    for (size_t i = 0; r == E_OK && i < storage_count(storage); i++) {
        struct storage_server *server = storage_at(storage, i);

        if (storage_server_config(server)->gone)
            continue;
        r = survey_server(create, server, fresh, &servers[count], err);
        count += r == E_OK;
    }
    if (r == E_OK && count == 0)
        r = error_set(err, E_UNAVAILABLE, "no storage server is configured that is not gone");
    if (r != E_OK) {
        survey_free(servers, count);
        return r;
    }
    *ret = servers;
    *ret_count = count;
    return E_OK;
}

/* A volume that is made of another, or of a snapshot, can be on that one's server alone. */
static void place(struct create *create, const struct placement_server *servers, size_t count,
                  size_t *ret_index)
{
    const struct placement_server *source = servers;
    size_t ignored;

    if (!create->source.server) {
        placement_choose(servers, count, &create->request->wish, create->size_bytes, ret_index,
                         &create->placement);
        return;
    }
    while (!str_equal(source->id, storage_server_config(create->source.server)->id))
        source++;
    *ret_index = (size_t)(source - servers);
    if (create->placement.code == E_OK &&
        placement_choose(source, 1, &create->request->wish, create->size_bytes, &ignored,
                         &create->placement) != E_OK)
        error_wrap(&create->placement, "the source is on storage server %s", source->id);
}

static size_t count_servers(const struct storage *storage)
{
    size_t count = 0;

    for (size_t i = 0; i < storage_count(storage); i++)
        count += !storage_server_config(storage_at(storage, i))->gone;
    return count;
}

/*
 * Choose a server and draw an id there. No room is no error yet: the volume may exist already. Of one server
 * nothing is chosen, and it tells itself whether there is room: what it said last will do, unless that speaks
 * against it.
 */
static int choose_candidate(struct create *create, struct error *err)
{
    const struct storage *storage = create->controller->storage;
    bool fresh = count_servers(storage) != 1 || create->source.server;
    struct placement_server *servers;
    size_t count, index = 0;
    int r = survey(create, fresh, &servers, &count, err);

    if (r != E_OK)
        return r;
    place(create, servers, count, &index);
    if (!fresh && create->placement.code != E_OK) {
        survey_free(servers, count);
        error_done(&create->placement);
        r = survey(create, true, &servers, &count, err);
        if (r != E_OK)
            return r;
        place(create, servers, count, &index);
    }
    r = id_volume_new(servers[index].id, create->candidate_id);
    survey_free(servers, count);
    return r == E_OK ? E_OK : error_errno(err, -r, "a new volume id");
}

/* Can the volume be on this server, as the request would have it? */
static bool home_fits(const struct create *create, struct storage_server *home)
{
    json_t *topology = storage_server_topology(home);
    bool fits = placement_fits(topology, &create->request->wish);

    json_decref(topology);
    return fits && (!create->source.server || create->source.server == home);
}

/* CSI: a volume of this name is there; is it one that this request would have made? */
static int check_existing(const struct create *create, struct storage_server *home,
                          const Mooring__Storage__V1__Volume *volume, struct error *err)
{
    const struct create_request *request = create->request;
    int r = E_OK;

    if (!str_equal(volume->name, request->name))
        return error_set(err, -EPROTO, "volume %s has name \"%s\", but is claimed for \"%s\"",
                         volume->volume_id, volume->name, request->name);
    if (!size_range_holds(&request->range, volume->size_bytes))
        r = error_set(err, E_EXISTS, "it has %" PRIu64 " bytes, which the capacity range excludes",
                      volume->size_bytes);
    if (r == E_OK)
        r = volume_source_compare(request, volume, err);
    if (r == E_OK && !home_fits(create, home))
        r = error_set(err, E_EXISTS, "its storage server is not in the topology or zone that is asked for");
    if (r == E_OK)
        r = parameters_compare(&request->parameters, volume->parameters, volume->n_parameters, volume->thick,
                               volume->block_size_bytes, err);
    if (r == E_OK)
        r = limits_compare(&request->parameters.limits, volume->limits, err);
    if (r != E_OK)
        error_wrap(err, "volume \"%s\" exists as %s and differs", request->name, volume->volume_id);
    return r;
}

static int fill_parameters(Mooring__Storage__V1__CreateVolumeRequest *message,
                           const struct parameters *parameters)
{
    int r = E_OK;

    for (size_t i = 0; r == E_OK && i < PARAMETER_TEXT_COUNT; i++) {
        if (parameters->text[i])
            r = map_add(&message->parameters, &message->n_parameters,
                        &mooring__storage__v1__create_volume_request__parameters_entry__descriptor,
                        parameter_key(i), parameters->text[i]);
    }
    return r;
}

static void free_parameters(Mooring__Storage__V1__CreateVolumeRequest *message)
{
    for (size_t i = 0; i < message->n_parameters; i++)
        protobuf_c_message_free_unpacked(&message->parameters[i]->base, NULL);
    free(message->parameters);
}

/* What an older server would not understand is not asked of it. */
static int require_features(const struct create *create, struct storage_server *home, struct error *err)
{
    int r = E_OK;

    if (limits_any(&create->request->parameters.limits))
        r = storage_require(home, "limits", create->deadline_ms, err);
    if (r == E_OK && create->source.server)
        r = storage_require(home, "snapshots", create->deadline_ms, err);
    return r;
}

static int make_call(const struct create *create, struct storage_server *home,
                     Mooring__Storage__V1__CreateVolumeRequest *message,
                     Mooring__Storage__V1__Volume **ret_volume, struct error *err)
{
    ProtobufCMessage *response = NULL;
    int r = require_features(create, home, err);

    if (r == E_OK)
        r = storage_call(home, "CreateVolume", &message->base, create->deadline_ms, &response, err);
    if (r != E_OK)
        return r;
    *ret_volume = TAKE_PTR(((Mooring__Storage__V1__CreateVolumeResponse *)response)->volume);
    protobuf_c_message_free_unpacked(response, NULL);
    if (!*ret_volume)
        return error_set(err, -EPROTO, "CreateVolume answered without a volume");
    if (volume_source_compare(create->request, *ret_volume, NULL) == E_OK)
        return E_OK;
    protobuf_c_message_free_unpacked(&TAKE_PTR(*ret_volume)->base, NULL);
    return error_set(err, -EPROTO, "storage server %s made volume %s without what it was to be made of",
                     storage_server_config(home)->id, message->volume_id);
}

static int make(const struct create *create, struct storage_server *home, const char *volume_id,
                Mooring__Storage__V1__Volume **ret_volume, struct error *err)
{
    const struct create_request *request = create->request;
    Mooring__Storage__V1__CreateVolumeRequest message = MOORING__STORAGE__V1__CREATE_VOLUME_REQUEST__INIT;
    Mooring__Storage__V1__Limits limits;
    int r = fill_parameters(&message, &request->parameters);

    message.volume_id = (char *)volume_id;
    message.name = (char *)request->name;
    message.size_bytes = create->size_bytes;
    message.block_size_bytes = request->parameters.block_size_bytes;
    message.thick = request->parameters.thick;
    if (request->source_volume_id)
        message.source_volume_id = (char *)request->source_volume_id;
    if (request->source_snapshot_id)
        message.source_snapshot_id = (char *)request->source_snapshot_id;
    limits_fill(&request->parameters.limits, NULL, &limits);
    if (limits_any(&request->parameters.limits))
        message.limits = &limits;
    r = r == E_OK ? make_call(create, home, &message, ret_volume, err) : error_errno(err, -r, "parameters");
    free_parameters(&message);
    return r;
}

/* The server refused for good and made nothing: what was claimed for it would only stand in the way. */
static bool refused(int code)
{
    return code == E_NO_SPACE || code == E_EXHAUSTED || code == E_OUT_OF_RANGE ||
           code == E_INVALID_ARGUMENT || code == E_PRECONDITION || code == E_NOT_FOUND;
}

/* The claim for volume_id stands everywhere, and there is no such volume yet. */
static int finish(struct create *create, struct storage_server *home, const char *volume_id, bool *ret_again,
                  Mooring__Storage__V1__Volume **ret_volume, struct error *err)
{
    bool ours = str_equal(volume_id, create->candidate_id);
    const char *name = create->request->name;
    int r;

    if (create->placement.code != E_OK && (ours || create->size_bytes == 0)) {
        claim_abandon(create->controller, CLAIM_VOLUME, name, volume_id);
        r = create->placement.code;
        error_move(err, &create->placement);
        return r;
    }
    if (!ours && !home_fits(create, home)) {
        claim_abandon(create->controller, CLAIM_VOLUME, name, volume_id);
        *ret_again = true;
        return E_OK;
    }
    r = make(create, home, volume_id, ret_volume, err);
    if (refused(r)) {
        claim_abandon(create->controller, CLAIM_VOLUME, name, volume_id);
        *ret_again = !ours && create->placement.code == E_OK;
    }
    /* Someone deleted it, claims and all, between our claims and now; or its copying goes on, and our time is
     * up. */
    if (r == E_STALE || r == E_BUSY)
        *ret_again = time_now_ms() + AGAIN_MIN_MS < create->deadline_ms;
    return r;
}

/* One round: claim, then return what exists or make it. *ret_again: the claim was for naught, and is gone. */
static int create_round(struct create *create, bool *ret_again, Mooring__Storage__V1__Volume **ret_volume,
                        struct error *err)
{
    _cleanup_error_ struct error absent = {0};
    _cleanup_operation_ struct operation *operation = NULL;
    struct storage_server *home = NULL;
    char volume_id[CLAIM_ID_MAX + 1];
    int r;

    str_copy(volume_id, sizeof(volume_id), create->candidate_id);
    r = claim_name(create->controller, CLAIM_VOLUME, create->request->name, volume_id, create->deadline_ms,
                   err);
    if (r == E_OK)
        r = operation_begin(create->controller->operations, "volume", volume_id, "CreateVolume", &operation,
                            err);
    if (r == E_OK)
        r = storage_of_volume(create->controller->storage, volume_id, &home, err);
    if (r != E_OK)
        return r;
    if (create->round == 0 &&
        str_equal(volume_id, create->candidate_id)) /* drawn just now: nobody has made it */
        r = E_NOT_FOUND;
    else
        r = storage_get_volume(home, volume_id, create->deadline_ms, ret_volume, &absent);
    if (r == E_NOT_FOUND)
        return finish(create, home, volume_id, ret_again, ret_volume, err);
    if (r != E_OK) {
        error_move(err, &absent);
        return r;
    }
    r = check_existing(create, home, *ret_volume, err);
    if (r != E_OK) {
        protobuf_c_message_free_unpacked(&(*ret_volume)->base, NULL);
        *ret_volume = NULL;
    }
    return r;
}

static int create_rounds(struct create *create, Mooring__Storage__V1__Volume **ret_volume, struct error *err)
{
    bool again = true;
    int r = E_OK;

    for (create->round = 0; create->round < CREATE_ROUNDS && again; create->round++) {
        again = false;
        if (err)
            error_done(err);
        r = create_round(create, &again, ret_volume, err);
    }
    if (!again || r != E_OK)
        return r;
    return error_set(err, E_BUSY, "another controller is making a volume \"%s\"; retry",
                     create->request->name);
}

/* A source that has grown beyond the size that is asked for is no error yet either. */
static int choose_size(struct create *create, struct error *err)
{
    bool of_source = create->source.size_bytes > 0;
    int r = volume_source_size(&create->source, &create->request->range, &create->size_bytes,
                               of_source ? &create->placement : err);

    return of_source && r == E_OUT_OF_RANGE ? E_OK : r;
}

/* The source is looked at, and a size and a server are chosen. */
static int prepare(struct create *create, struct error *err)
{
    const struct create_request *request = create->request;
    int r = volume_source_find(create->controller, request, create->deadline_ms, &create->source,
                               &create->placement, err);

    if (r == E_OK)
        r = choose_size(create, err);
    return r == E_OK ? choose_candidate(create, err) : r;
}

int volume_create(struct controller *controller, const struct create_request *request, uint64_t deadline_ms,
                  Mooring__Storage__V1__Volume **ret_volume, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    struct create create = {.controller = controller, .request = request, .deadline_ms = deadline_ms};
    Mooring__Storage__V1__Volume *volume = NULL;
    int r;

    r = operation_begin(controller->operations, "name", request->name, "CreateVolume", &operation, err);
    if (r == E_OK)
        r = prepare(&create, err);
    if (r == E_OK)
        r = create_rounds(&create, &volume, err);
    error_done(&create.placement);
    if (r == E_OK)
        *ret_volume = volume;
    return r;
}
