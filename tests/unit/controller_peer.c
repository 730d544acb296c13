/* The storage server of the controller's tests. Its handlers run on the rpc server's threads. */
#include "tests/unit/controller_peer.h"
#include "tests/unit/controller_peer_parts.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "proto/map.h"

struct peer_volume *peer_volume(struct peer *peer, const char *id)
{
    for (size_t i = 0; i < PEER_ITEMS_MAX; i++) {
        if (str_equal(peer->volumes[i].id, id))
            return &peer->volumes[i];
    }
    return NULL;
}

struct peer_name *peer_name_of(struct peer *peer, int kind, const char *name)
{
    for (size_t i = 0; i < PEER_ITEMS_MAX; i++) {
        if (peer->names[i].volume_id[0] != '\0' && peer->names[i].kind == kind &&
            str_equal(peer->names[i].name, name))
            return &peer->names[i];
    }
    return NULL;
}

struct peer_name *peer_name(struct peer *peer, const char *name)
{
    return peer_name_of(peer, MOORING__STORAGE__V1__NAME_KIND__NAME_VOLUME, name);
}

void peer_claim(struct peer *peer, const char *name, const char *volume_id)
{
    peer_claim_of(peer, MOORING__STORAGE__V1__NAME_KIND__NAME_VOLUME, name, volume_id);
}

void peer_claim_of(struct peer *peer, int kind, const char *name, const char *id)
{
    size_t i = 0;

    while (i < PEER_ITEMS_MAX && peer->names[i].volume_id[0] != '\0')
        i++;
    assert(i < PEER_ITEMS_MAX);
    str_copy(peer->names[i].name, sizeof(peer->names[i].name), name);
    str_copy(peer->names[i].volume_id, sizeof(peer->names[i].volume_id), id);
    peer->names[i].kind = kind;
}

void peer_add_volume(struct peer *peer, const char *id, const char *name, uint64_t size_bytes)
{
    struct peer_volume *volume = peer_volume(peer, "");

    assert(volume);
    *volume = (struct peer_volume){.size_bytes = size_bytes};
    str_copy(volume->id, sizeof(volume->id), id);
    str_copy(volume->name, sizeof(volume->name), name);
}

size_t peer_count_volumes(struct peer *peer)
{
    size_t count = 0;

    for (size_t i = 0; i < PEER_ITEMS_MAX; i++)
        count += peer->volumes[i].id[0] != '\0';
    return count;
}

int peer_begin(struct peer *peer, const char *method, struct error *err)
{
    int r = 0;

    if (peer->hook)
        r = peer->hook(peer, method, peer->hook_context);
    if (r != E_OK)
        return error_set(err, r, "the test's hook of %s", method);
    pthread_mutex_lock(&peer->lock);
    peer->calls++;
    return E_OK;
}

int peer_end(struct peer *peer, int r)
{
    pthread_mutex_unlock(&peer->lock);
    return r;
}

static const char *const features[] = {"snapshots", "expand", "limits", "extents", "group-snapshots"};

static HANDLER(get_server)
{
    Mooring__Storage__V1__GetServerResponse *answer = (Mooring__Storage__V1__GetServerResponse *)response;
    struct peer *peer = context;
    int r = peer_begin(peer, "GetServer", err);

    (void)call, (void)message;
    if (r != E_OK)
        return r;
    answer->server_id = strdup(peer->server_id);
    answer->pool_uuid = strdup(peer->pool_uuid);
    answer->boot_id = strdup(peer->boot_id);
    answer->free_bytes = peer->free_bytes;
    answer->promise_max_bytes = peer->promise_max_bytes;
    answer->features = calloc(ARRAY_SIZE(features), sizeof(*answer->features));
    for (size_t i = 0; i < ARRAY_SIZE(features) && !peer->old; i++)
        answer->features[answer->n_features++] = strdup(features[i]);
    if (peer->zone)
        map_add(&answer->topology, &answer->n_topology,
                &mooring__storage__v1__get_server_response__topology_entry__descriptor, "zone", peer->zone);
    return peer_end(peer, E_OK);
}

static HANDLER(claim_name)
{
    const Mooring__Storage__V1__ClaimNameRequest *request =
        (const Mooring__Storage__V1__ClaimNameRequest *)message;
    struct peer *peer = context;
    int r = peer_begin(peer, "ClaimName", err);

    (void)call;
    if (r != E_OK)
        return r;
    if (!peer_name_of(peer, (int)request->kind, request->name))
        peer_claim_of(peer, (int)request->kind, request->name, request->volume_id);
    ((Mooring__Storage__V1__ClaimNameResponse *)response)->volume_id =
        strdup(peer_name_of(peer, (int)request->kind, request->name)->volume_id);
    return peer_end(peer, E_OK);
}

static HANDLER(release_name)
{
    const Mooring__Storage__V1__ReleaseNameRequest *request =
        (const Mooring__Storage__V1__ReleaseNameRequest *)message;
    struct peer *peer = context;
    int r = peer_begin(peer, "ReleaseName", err);

    (void)call, (void)response;
    if (r != E_OK)
        return r;
    if (peer_volume(peer, request->volume_id) || peer_keeps_claim(peer, request->volume_id))
        return peer_end(peer, error_set(err, E_PRECONDITION, "%s exists", request->volume_id));
    for (size_t i = 0; i < PEER_ITEMS_MAX; i++) {
        struct peer_name *one = &peer->names[i];

        if (one->kind == (int)request->kind && str_equal(one->volume_id, request->volume_id) &&
            (*request->name == '\0' || str_equal(one->name, request->name)))
            one->volume_id[0] = '\0';
    }
    return peer_end(peer, E_OK);
}

static Mooring__Storage__V1__Volume *describe(const struct peer_volume *volume)
{
    Mooring__Storage__V1__Volume *answer = malloc(sizeof(*answer));

    mooring__storage__v1__volume__init(answer);
    answer->volume_id = strdup(volume->id);
    answer->name = strdup(volume->name);
    answer->size_bytes = volume->size_bytes;
    answer->block_size_bytes = 4096;
    answer->record_generation = volume->record_generation + 1;
    answer->write_failed = volume->write_failed;
    if (id_snapshot_valid(volume->source))
        answer->source_snapshot_id = strdup(volume->source);
    else if (volume->source[0] != '\0')
        answer->source_volume_id = strdup(volume->source);
    if (volume->iops || volume->bytes_per_s) {
        answer->limits = malloc(sizeof(*answer->limits));
        mooring__storage__v1__limits__init(answer->limits);
        answer->limits->iops = volume->iops;
        answer->limits->bytes_per_s = volume->bytes_per_s;
        answer->limits->burst_s = volume->burst_s;
    }
    if (volume->fs_type[0] != '\0')
        map_add(&answer->parameters, &answer->n_parameters,
                &mooring__storage__v1__volume__parameters_entry__descriptor, "fsType", volume->fs_type);
    if (volume->node_id[0] != '\0') {
        answer->attachments = calloc(1, sizeof(*answer->attachments));
        answer->attachments[0] = malloc(sizeof(*answer->attachments[0]));
        mooring__storage__v1__attachment__init(answer->attachments[0]);
        answer->attachments[0]->node_id = strdup(volume->node_id);
        answer->attachments[0]->epoch = volume->epoch;
        answer->n_attachments = 1;
    }
    return answer;
}

static void set_limits(struct peer_volume *volume, const Mooring__Storage__V1__Limits *limits)
{
    volume->iops = limits ? limits->iops : 0;
    volume->bytes_per_s = limits ? limits->bytes_per_s : 0;
    volume->burst_s = limits ? limits->burst_s : 0;
}

static HANDLER(create_volume)
{
    const Mooring__Storage__V1__CreateVolumeRequest *request =
        (const Mooring__Storage__V1__CreateVolumeRequest *)message;
    struct peer *peer = context;
    const char *fs_type = map_get(request->parameters, request->n_parameters, "fsType");
    const struct peer_name *claim;
    int r = peer_begin(peer, "CreateVolume", err);

    (void)call;
    if (r != E_OK)
        return r;
    claim = peer_name(peer, request->name);
    if (!claim || !str_equal(claim->volume_id, request->volume_id))
        return peer_end(peer, error_set(err, E_STALE, "the claim is not for %s", request->volume_id));
    if (request->size_bytes > MAX(peer->free_bytes, peer->promise_max_bytes))
        return peer_end(peer, error_set(err, E_NO_SPACE, "full"));
    if ((*request->source_volume_id && !peer_volume(peer, request->source_volume_id)) ||
        (*request->source_snapshot_id && !peer_snapshot(peer, request->source_snapshot_id)))
        return peer_end(peer, error_set(err, E_NOT_FOUND, "no such source"));
    if (!peer_volume(peer, request->volume_id))
        peer_add_volume(peer, request->volume_id, request->name, request->size_bytes);
    str_copy(peer_volume(peer, request->volume_id)->fs_type, 16, fs_type ? fs_type : "");
    set_limits(peer_volume(peer, request->volume_id), request->limits);
    str_copy(peer_volume(peer, request->volume_id)->source, ID_SNAPSHOT_MAX + 1,
             *request->source_volume_id ? request->source_volume_id : request->source_snapshot_id);
    ((Mooring__Storage__V1__CreateVolumeResponse *)response)->volume =
        describe(peer_volume(peer, request->volume_id));
    return peer_end(peer, E_OK);
}

static HANDLER(delete_volume)
{
    const char *id = ((const Mooring__Storage__V1__DeleteVolumeRequest *)message)->volume_id;
    struct peer *peer = context;
    struct peer_volume *volume;
    int r = peer_begin(peer, "DeleteVolume", err);

    (void)call, (void)response;
    if (r != E_OK)
        return r;
    volume = peer_volume(peer, id);
    if (volume && volume->node_id[0] != '\0')
        return peer_end(peer, error_set(err, E_PRECONDITION, "attached"));
    if (volume)
        volume->id[0] = '\0';
    return peer_end(peer, E_OK);
}

static HANDLER(get_volume)
{
    const char *id = ((const Mooring__Storage__V1__GetVolumeRequest *)message)->volume_id;
    struct peer *peer = context;
    const struct peer_volume *volume;
    int r = peer_begin(peer, "GetVolume", err);

    (void)call;
    if (r != E_OK)
        return r;
    volume = peer_volume(peer, id);
    if (!volume)
        return peer_end(peer, error_set(err, E_NOT_FOUND, "no volume %s", id));
    ((Mooring__Storage__V1__GetVolumeResponse *)response)->volume = describe(volume);
    return peer_end(peer, E_OK);
}

static const struct peer_volume *next_volume(struct peer *peer, const char *after)
{
    const struct peer_volume *next = NULL;

    for (size_t i = 0; i < PEER_ITEMS_MAX; i++) {
        const struct peer_volume *one = &peer->volumes[i];

        if (one->id[0] != '\0' && strcmp(one->id, after) > 0 && (!next || strcmp(one->id, next->id) < 0))
            next = one;
    }
    return next;
}

static HANDLER(list_volumes)
{
    const Mooring__Storage__V1__ListVolumesRequest *request =
        (const Mooring__Storage__V1__ListVolumesRequest *)message;
    Mooring__Storage__V1__ListVolumesResponse *answer = (Mooring__Storage__V1__ListVolumesResponse *)response;
    struct peer *peer = context;
    const char *after = request->after_volume_id;
    const struct peer_volume *next;
    size_t limit = request->max_entries ? request->max_entries : 3;
    int r = peer_begin(peer, "ListVolumes", err);

    (void)call;
    if (r != E_OK)
        return r;
    limit = limit < 3 ? limit : 3; /* a server's own limit is below what is asked for */
    answer->volumes = calloc(limit, sizeof(*answer->volumes));
    while ((next = next_volume(peer, after)) && answer->n_volumes < limit) {
        answer->volumes[answer->n_volumes++] = describe(next);
        after = next->id;
    }
    answer->more = next != NULL;
    return peer_end(peer, E_OK);
}

static HANDLER(expand_volume)
{
    const Mooring__Storage__V1__ExpandVolumeRequest *request =
        (const Mooring__Storage__V1__ExpandVolumeRequest *)message;
    struct peer *peer = context;
    struct peer_volume *volume;
    int r = peer_begin(peer, "ExpandVolume", err);

    (void)call;
    if (r != E_OK)
        return r;
    volume = peer_volume(peer, request->volume_id);
    if (request->record_generation != volume->record_generation + 1)
        return peer_end(peer, error_set(err, E_STALE, "decided on another record"));
    if (request->size_bytes > MAX(peer->free_bytes, peer->promise_max_bytes))
        return peer_end(peer, error_set(err, E_NO_SPACE, "full"));
    volume->size_bytes = request->size_bytes;
    volume->record_generation++;
    ((Mooring__Storage__V1__ExpandVolumeResponse *)response)->volume = describe(volume);
    return peer_end(peer, E_OK);
}

static HANDLER(modify_volume)
{
    const Mooring__Storage__V1__ModifyVolumeRequest *request =
        (const Mooring__Storage__V1__ModifyVolumeRequest *)message;
    struct peer *peer = context;
    struct peer_volume *volume;
    int r = peer_begin(peer, "ModifyVolume", err);

    (void)call;
    if (r != E_OK)
        return r;
    volume = peer_volume(peer, request->volume_id);
    if (request->record_generation != volume->record_generation + 1)
        return peer_end(peer, error_set(err, E_STALE, "decided on another record"));
    set_limits(volume, request->limits);
    volume->record_generation++;
    ((Mooring__Storage__V1__ModifyVolumeResponse *)response)->volume = describe(volume);
    return peer_end(peer, E_OK);
}

static HANDLER(attach_volume)
{
    const Mooring__Storage__V1__AttachVolumeRequest *request =
        (const Mooring__Storage__V1__AttachVolumeRequest *)message;
    Mooring__Storage__V1__AttachVolumeResponse *answer =
        (Mooring__Storage__V1__AttachVolumeResponse *)response;
    struct peer *peer = context;
    struct peer_volume *volume;
    int r = peer_begin(peer, "AttachVolume", err);

    (void)call;
    if (r != E_OK)
        return r;
    volume = peer_volume(peer, request->volume_id);
    if (!volume)
        return peer_end(peer, error_set(err, E_NOT_FOUND, "no volume"));
    if (volume->node_id[0] != '\0' && !str_equal(volume->node_id, request->node_id))
        return peer_end(peer, error_set(err, E_PRECONDITION, "attached to %s", volume->node_id));
    if (volume->node_id[0] == '\0') {
        if (request->record_generation != volume->record_generation + 1)
            return peer_end(peer, error_set(err, E_STALE, "decided on another record"));
        volume->epoch++;
        volume->record_generation++;
    }
    str_copy(volume->node_id, sizeof(volume->node_id), request->node_id);
    volume->readonly = request->readonly;
    volume->access_mode = (int)request->access_mode;
    answer->volume = describe(volume);
    answer->attachment = malloc(sizeof(*answer->attachment));
    mooring__storage__v1__attachment__init(answer->attachment);
    answer->attachment->node_id = strdup(volume->node_id);
    answer->attachment->epoch = volume->epoch;
    answer->target_name = strdup("iqn.test");
    return peer_end(peer, E_OK);
}

static HANDLER(detach_volume)
{
    const Mooring__Storage__V1__DetachVolumeRequest *request =
        (const Mooring__Storage__V1__DetachVolumeRequest *)message;
    struct peer *peer = context;
    struct peer_volume *volume;
    int r = peer_begin(peer, "DetachVolume", err);

    (void)call, (void)response;
    if (r != E_OK)
        return r;
    volume = peer_volume(peer, request->volume_id);
    if (!volume)
        return peer_end(peer, error_set(err, E_NOT_FOUND, "no volume"));
    if (!str_equal(volume->node_id, request->node_id)) {
        if (request->epoch != 0) /* what it names has been detached */
            return peer_end(peer, E_OK);
        if (request->record_generation != volume->record_generation + 1)
            return peer_end(peer, error_set(err, E_STALE, "decided on another record"));
    } else if (request->epoch != volume->epoch) {
        return peer_end(peer, error_set(err, E_STALE, "decided on another epoch"));
    } else {
        volume->node_id[0] = '\0';
    }
    volume->record_generation++;
    return peer_end(peer, E_OK);
}

static const struct rpc_method methods[] = {
    {"GetServer", get_server, false},
    {"ClaimName", claim_name, false},
    {"ReleaseName", release_name, false},
    {"CreateVolume", create_volume, false},
    {"DeleteVolume", delete_volume, false},
    {"GetVolume", get_volume, false},
    {"ListVolumes", list_volumes, false},
    {"AttachVolume", attach_volume, false},
    {"DetachVolume", detach_volume, false},
    {"ExpandVolume", expand_volume, false},
    {"ModifyVolume", modify_volume, false},
    {"CreateSnapshot", peer_create_snapshot, false},
    {"DeleteSnapshot", peer_delete_snapshot, false},
    {"GetSnapshot", peer_get_snapshot, false},
    {"ListSnapshots", peer_list_snapshots, false},
    {"HoldVolumes", peer_hold_volumes, false},
    {"ReleaseVolumes", peer_release_volumes, false},
    {"CommitSnapshots", peer_commit_snapshots, false},
    {"ListExtents", peer_list_extents, true},
};

void peer_new_boot(struct peer *peer)
{
    id_boot_new(peer->boot_id);
}

void peer_start(struct peer *peer, const char *server_id, const char *dir)
{
    struct rpc_server_options options = {.endpoint = peer->endpoint,
                                         .boot_id = peer->states_boot ? peer->stated : NULL};
    struct error err = {0};
    int r;

    if (!peer->server_id) {
        peer->server_id = server_id;
        peer->free_bytes = UINT64_C(1) << 40;
        pthread_mutex_init(&peer->lock, NULL);
        snprintf(peer->pool_uuid, sizeof(peer->pool_uuid), "6f1f9f36-5f0e-4d0c-9a3b-%012x", 1);
        snprintf(peer->endpoint, sizeof(peer->endpoint), "unix://%s/%s.sock", dir, server_id);
    }
    peer_new_boot(peer);
    peer->service = (struct rpc_service){.descriptor = &mooring__storage__v1__storage__descriptor,
                                         .methods = methods,
                                         .methods_count = ARRAY_SIZE(methods),
                                         .context = peer};
    r = rpc_server_new(&peer->server, &options, &peer->service, 1, &err);
    if (r != E_OK)
        fprintf(stderr, "peer: %s\n", error_text(&err));
    assert(r == E_OK);
}

void peer_stop(struct peer *peer)
{
    if (peer->server)
        rpc_server_free(peer->server, 0);
    peer->server = NULL;
}
