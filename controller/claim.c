/*
 * The protocol of name claims, as a client of all storage servers. Owns nothing; run by worker threads, for
 * the calls that make and delete what has a name, which hold the name's operation.
 *
 * Why one name never gets two volumes: a server makes a volume only under its own claim for it, and keeps
 * that claim while the volume exists. A controller makes a volume only after a pass over all servers found
 * every claim to be for it, the home of any rival among them; there the rival's claim would have stood. So it
 * is with snapshots. A group of snapshots has members on several servers, each of which makes them under its
 * own claim for the group.
 */
#include "controller/claim.h"

#include "common/cleanup.h"
#include "common/id.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "controller/group.h"
#include "controller/snapshot.h"

#define CLAIM_PASSES 8
#define ABANDON_TIMEOUT_MS 5000

enum claim_step { CLAIM_STANDS, CLAIM_ADOPTED, CLAIM_AGAIN };

struct claim {
    struct controller *controller;
    enum claim_kind kind;
    const char *name;
    char *id;                            /* that is claimed for */
    char candidate_id[CLAIM_ID_MAX + 1]; /* the caller's own */
    uint64_t deadline_ms;
};

/* ---- what differs from kind to kind ---- */

static int volume_exists(struct controller *controller, const char *id, uint64_t deadline_ms,
                         struct error *err)
{
    Mooring__Storage__V1__Volume *volume = NULL;
    int r = volume_find(controller, id, deadline_ms, &volume, err);

    if (r == E_OK)
        protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}

static int snapshot_exists(struct controller *controller, const char *id, uint64_t deadline_ms,
                           struct error *err)
{
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    int r = snapshot_find(controller, id, deadline_ms, &snapshot, err);

    if (r == E_OK)
        protobuf_c_message_free_unpacked(&snapshot->base, NULL);
    return r;
}

static int group_exists(struct controller *controller, const char *id, uint64_t deadline_ms,
                        struct error *err)
{
    struct group group = {0};
    int r = group_find(controller, id, deadline_ms, &group, err);

    if (r == E_OK && group.count == 0)
        r = error_set(err, E_NOT_FOUND, "group snapshot %s does not exist", id);
    group_done(&group);
    return r;
}

/* A group has no server of its own. */
static int group_home(const struct storage *storage, const char *id, struct storage_server **ret,
                      struct error *err)
{
    (void)storage, (void)id, (void)err;
    *ret = NULL;
    return E_OK;
}

static const struct claim_space {
    Mooring__Storage__V1__NameKind number;
    const char *noun;
    const char *feature; /* that a server must serve to know the kind; NULL: all do */
    bool (*valid)(const char *id);
    int (*home)(const struct storage *storage, const char *id, struct storage_server **ret,
                struct error *err);
    int (*exists)(struct controller *controller, const char *id, uint64_t deadline_ms, struct error *err);
} spaces[] = {
    [CLAIM_VOLUME] = {MOORING__STORAGE__V1__NAME_KIND__NAME_VOLUME, "volume", NULL, id_volume_valid,
                      storage_of_volume, volume_exists},
    [CLAIM_SNAPSHOT] = {MOORING__STORAGE__V1__NAME_KIND__NAME_SNAPSHOT, "snapshot", "snapshots",
                        id_snapshot_valid, storage_of_snapshot, snapshot_exists},
    [CLAIM_GROUP] = {MOORING__STORAGE__V1__NAME_KIND__NAME_GROUP, "group snapshot", "group-snapshots",
                     id_group_valid, group_home, group_exists},
};

/* ---- one server ---- */

/* A server that does not know the kind would take the name for a volume's. */
static int require_kind(struct storage_server *server, enum claim_kind kind, uint64_t deadline_ms,
                        struct error *err)
{
    return spaces[kind].feature ? storage_require(server, spaces[kind].feature, deadline_ms, err) : E_OK;
}

static int ask(const struct claim *claim, struct storage_server *server, const char *id,
               char ret_holder[CLAIM_ID_MAX + 1], struct error *err)
{
    const struct claim_space *space = &spaces[claim->kind];
    Mooring__Storage__V1__ClaimNameRequest request = MOORING__STORAGE__V1__CLAIM_NAME_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    const char *holder;
    int r;

    request.name = (char *)claim->name;
    request.volume_id = (char *)id;
    request.kind = space->number;
    r = require_kind(server, claim->kind, claim->deadline_ms, err);
    if (r == E_OK)
        r = storage_call(server, "ClaimName", &request.base, claim->deadline_ms, &message, err);
    if (r != E_OK)
        return r;
    holder = ((Mooring__Storage__V1__ClaimNameResponse *)message)->volume_id;
    if (!space->valid(holder))
        r = error_set(err, -EPROTO, "storage server %s has name \"%s\" claimed for \"%s\", which is no %s id",
                      storage_server_config(server)->id, claim->name, holder, space->noun);
    else
        str_copy(ret_holder, CLAIM_ID_MAX + 1, holder);
    protobuf_c_message_free_unpacked(message, NULL);
    return r;
}

static int release(struct storage_server *server, enum claim_kind kind, const char *name, const char *id,
                   uint64_t deadline_ms, struct error *err)
{
    Mooring__Storage__V1__ReleaseNameRequest request = MOORING__STORAGE__V1__RELEASE_NAME_REQUEST__INIT;
    int r;

    request.name = (char *)name;
    request.volume_id = (char *)id;
    request.kind = spaces[kind].number;
    r = require_kind(server, kind, deadline_ms, err);
    if (r == E_OK)
        r = storage_call(server, "ReleaseName", &request.base, deadline_ms, NULL, err);
    else if (r == E_PRECONDITION) /* it never had such a claim */
        return E_OK;
    /* The server keeps the claim of what it has: someone made it since we looked. */
    if (r == E_PRECONDITION)
        return error_set(err, E_BUSY, "another controller has just made %s %s; retry", spaces[kind].noun, id);
    return r;
}

/* Release what this pass claimed on the servers before `end`, from the last to the first. */
static int release_before(const struct claim *claim, size_t end, const char *id, struct error *err)
{
    struct storage *storage = claim->controller->storage;
    int r = E_OK;

    while (r == E_OK && end-- > 0) {
        if (!storage_server_config(storage_at(storage, end))->gone)
            r = release(storage_at(storage, end), claim->kind, claim->name, id, claim->deadline_ms, err);
    }
    return r;
}

static bool is_first(const struct storage *storage, size_t index)
{
    for (size_t i = 0; i < index; i++) {
        if (!storage_server_config(storage_at(storage, i))->gone)
            return false;
    }
    return true;
}

/* holder's claim stands on a server after the first, and ours on those before it. If what it names exists, it
 * is the one of this name, and ours gives way; else the claim is what a cut-short call left behind. */
static int settle_rival(const struct claim *claim, size_t index, const char *holder, struct error *err)
{
    _cleanup_error_ struct error absent = {0};
    int r = spaces[claim->kind].exists(claim->controller, holder, claim->deadline_ms, &absent);

    if (r == E_NOT_FOUND)
        return release(storage_at(claim->controller->storage, index), claim->kind, claim->name, holder,
                       claim->deadline_ms, err);
    if (r != E_OK) {
        error_move(err, &absent);
        return r;
    }
    r = release_before(claim, index, claim->id, err);
    if (r == E_OK)
        str_copy(claim->id, CLAIM_ID_MAX + 1, holder);
    return r;
}

/* What a claim of someone else on server `index` means for this pass. */
static int settle(const struct claim *claim, size_t index, const char *holder, enum claim_step *ret_step,
                  struct error *err)
{
    _cleanup_error_ struct error why = {0};
    struct storage *storage = claim->controller->storage;
    struct storage_server *home = NULL;
    int r = spaces[claim->kind].home(storage, holder, &home, &why);

    *ret_step = CLAIM_AGAIN;
    if (r == E_NOT_FOUND) /* its server is declared gone */
        return release(storage_at(storage, index), claim->kind, claim->name, holder, claim->deadline_ms, err);
    if (r != E_OK) {
        error_move(err, &why);
        return error_wrap(err, "name \"%s\" is claimed", claim->name);
    }
    if (is_first(storage, index)) {
        str_copy(claim->id, CLAIM_ID_MAX + 1, holder);
        *ret_step = CLAIM_ADOPTED;
        return E_OK;
    }
    return settle_rival(claim, index, holder, err);
}

/* Is the id one that was adopted, and this its own server? */
static bool is_adopted_home(const struct claim *claim, const struct storage_server *server)
{
    struct storage_server *home = NULL;

    return !str_equal(claim->id, claim->candidate_id) &&
           spaces[claim->kind].home(claim->controller->storage, claim->id, &home, NULL) == E_OK &&
           home == server;
}

/*
 * An adopted id's own server is asked for ours: where it has no claim of the adopted one, that is of
 * something that was deleted, or of a call that did not come so far. It is not claimed there anew: no id is
 * made twice.
 */
static int claim_one(const struct claim *claim, size_t index, enum claim_step *ret_step, struct error *err)
{
    struct storage_server *server = storage_at(claim->controller->storage, index);
    bool at_home = is_adopted_home(claim, server);
    char holder[CLAIM_ID_MAX + 1];
    int r = ask(claim, server, at_home ? claim->candidate_id : claim->id, holder, err);

    *ret_step = CLAIM_STANDS;
    if (r != E_OK || str_equal(holder, claim->id))
        return r;
    if (!at_home || !str_equal(holder, claim->candidate_id))
        return settle(claim, index, holder, ret_step, err);
    *ret_step = CLAIM_AGAIN;
    r = release_before(claim, index, claim->id, err);
    if (r == E_OK)
        str_copy(claim->id, CLAIM_ID_MAX + 1, claim->candidate_id);
    return r;
}

/* One pass over all servers. *ret_again: something was settled, so what was claimed before it may not stand.
 */
static int claim_pass(const struct claim *claim, bool *ret_again, struct error *err)
{
    struct storage *storage = claim->controller->storage;

    *ret_again = false;
    for (size_t i = 0; i < storage_count(storage) && !*ret_again; i++) {
        enum claim_step step;
        int r;

        if (storage_server_config(storage_at(storage, i))->gone)
            continue;
        r = claim_one(claim, i, &step, err);
        if (r != E_OK)
            return r;
        *ret_again = step == CLAIM_AGAIN;
    }
    return E_OK;
}

int claim_name(struct controller *controller, enum claim_kind kind, const char *name,
               char id[CLAIM_ID_MAX + 1], uint64_t deadline_ms, struct error *err)
{
    struct claim claim = {
        .controller = controller, .kind = kind, .name = name, .id = id, .deadline_ms = deadline_ms};

    str_copy(claim.candidate_id, sizeof(claim.candidate_id), id);
    for (int pass = 0; pass < CLAIM_PASSES; pass++) {
        bool again;
        int r = claim_pass(&claim, &again, err);

        if (r != E_OK || !again)
            return r;
    }
    return error_set(err, E_BUSY, "another controller is claiming name \"%s\" too; retry", name);
}

int claim_release(struct controller *controller, enum claim_kind kind, const char *name, const char *id,
                  uint64_t deadline_ms, struct error *err)
{
    int result = E_OK;

    for (size_t i = storage_count(controller->storage); i-- > 0;) {
        _cleanup_error_ struct error one = {0};
        struct storage_server *server = storage_at(controller->storage, i);
        int r;

        if (storage_server_config(server)->gone)
            continue;
        r = release(server, kind, name, id, deadline_ms, &one);
        if (r == E_OK || result != E_OK)
            continue;
        result = r;
        error_move(err, &one);
    }
    return result;
}

void claim_abandon(struct controller *controller, enum claim_kind kind, const char *name, const char *id)
{
    _cleanup_error_ struct error err = {0};
    uint64_t deadline_ms = time_now_ms() + ABANDON_TIMEOUT_MS;
    struct storage_server *home = NULL;
    int r = spaces[kind].home(controller->storage, id, &home, &err);

    /* Its home first: while that claim stands, someone may still make it. */
    if (r == E_OK && home)
        r = release(home, kind, name, id, deadline_ms, &err);
    if (r == E_OK)
        r = claim_release(controller, kind, name, id, deadline_ms, &err);
    if (r != E_OK)
        log_warning("claims of name \"%s\" for %s %s, which was not made, are left: %s", name,
                    spaces[kind].noun, id, error_text(&err));
}

int claim_release_unnamed(struct controller *controller, enum claim_kind kind, const char *id,
                          uint64_t deadline_ms, struct error *err)
{
    _cleanup_error_ struct error why = {0};
    int r;

    if (!spaces[kind].valid(id))
        return E_OK;
    r = claim_release(controller, kind, "", id, deadline_ms, &why);
    if (r == E_INVALID_ARGUMENT || r == E_UNIMPLEMENTED) {
        log_debug("%s %s: a storage server does not release claims by id: %s", spaces[kind].noun, id,
                  error_text(&why));
        return E_OK;
    }
    error_move(err, &why);
    return r;
}
