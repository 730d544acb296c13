/*
 * The protocol of name claims, as a client of all storage servers. Owns nothing; run by worker threads, for
 * volume_create.c and volume_delete.c, which hold the name's operation.
 *
 * Why one name never gets two volumes: a server makes a volume only under its own claim for it, and keeps
 * that claim while the volume exists. A controller makes a volume only after a pass over all servers found
 * every claim to be for it, the home of any rival among them; there the rival's claim would have stood.
 */
#include "controller/claim.h"

#include "common/cleanup.h"
#include "common/id.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"

#define CLAIM_PASSES 8
#define ABANDON_TIMEOUT_MS 5000

enum claim_step { CLAIM_STANDS, CLAIM_ADOPTED, CLAIM_AGAIN };

struct claim {
    struct controller *controller;
    const char *name;
    char *volume_id;
    uint64_t deadline_ms;
};

static int ask(const struct claim *claim, struct storage_server *server, char ret_holder[ID_VOLUME_MAX + 1],
               struct error *err)
{
    Mooring__Storage__V1__ClaimNameRequest request = MOORING__STORAGE__V1__CLAIM_NAME_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    const char *holder;
    int r;

    request.name = (char *)claim->name;
    request.volume_id = claim->volume_id;
    r = storage_call(server, "ClaimName", &request.base, claim->deadline_ms, &message, err);
    if (r != E_OK)
        return r;
    holder = ((Mooring__Storage__V1__ClaimNameResponse *)message)->volume_id;
    if (!id_volume_valid(holder))
        r = error_set(err, -EPROTO,
                      "storage server %s has name \"%s\" claimed for \"%s\", which is no volume id",
                      storage_server_config(server)->id, claim->name, holder);
    else
        str_copy(ret_holder, ID_VOLUME_MAX + 1, holder);
    protobuf_c_message_free_unpacked(message, NULL);
    return r;
}

static int release(struct storage_server *server, const char *name, const char *volume_id,
                   uint64_t deadline_ms, struct error *err)
{
    Mooring__Storage__V1__ReleaseNameRequest request = MOORING__STORAGE__V1__RELEASE_NAME_REQUEST__INIT;
    int r;

    request.name = (char *)name;
    request.volume_id = (char *)volume_id;
    r = storage_call(server, "ReleaseName", &request.base, deadline_ms, NULL, err);
    /* The server keeps the claim of a volume that it has: someone made it since we looked. */
    if (r == E_PRECONDITION)
        return error_set(err, E_BUSY, "another controller has just made volume %s; retry", volume_id);
    return r;
}

/* Release what this pass claimed on the servers before `end`, from the last to the first. */
static int release_before(const struct claim *claim, size_t end, const char *volume_id, struct error *err)
{
    struct storage *storage = claim->controller->storage;
    int r = E_OK;

    while (r == E_OK && end-- > 0) {
        if (!storage_server_config(storage_at(storage, end))->gone)
            r = release(storage_at(storage, end), claim->name, volume_id, claim->deadline_ms, err);
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

/* holder's claim stands on a server after the first, and ours on those before it. If its volume exists, it is
 * the one of this name, and ours gives way; else the claim is what a cut-short call left behind. */
static int settle_rival(const struct claim *claim, size_t index, struct storage_server *home,
                        const char *holder, struct error *err)
{
    _cleanup_error_ struct error absent = {0};
    Mooring__Storage__V1__Volume *volume = NULL;
    int r = storage_get_volume(home, holder, claim->deadline_ms, &volume, &absent);

    if (r == E_NOT_FOUND)
        return release(storage_at(claim->controller->storage, index), claim->name, holder, claim->deadline_ms,
                       err);
    if (r != E_OK) {
        error_move(err, &absent);
        return r;
    }
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    r = release_before(claim, index, claim->volume_id, err);
    if (r == E_OK)
        str_copy(claim->volume_id, ID_VOLUME_MAX + 1, holder);
    return r;
}

/* What a claim of someone else on server `index` means for this pass. */
static int settle(const struct claim *claim, size_t index, const char *holder, enum claim_step *ret_step,
                  struct error *err)
{
    _cleanup_error_ struct error why = {0};
    struct storage *storage = claim->controller->storage;
    struct storage_server *home = NULL;
    int r = storage_of_volume(storage, holder, &home, &why);

    *ret_step = CLAIM_AGAIN;
    if (r == E_NOT_FOUND) /* its server is declared gone */
        return release(storage_at(storage, index), claim->name, holder, claim->deadline_ms, err);
    if (r != E_OK) {
        error_move(err, &why);
        return error_wrap(err, "name \"%s\" is claimed", claim->name);
    }
    if (is_first(storage, index)) {
        str_copy(claim->volume_id, ID_VOLUME_MAX + 1, holder);
        *ret_step = CLAIM_ADOPTED;
        return E_OK;
    }
    return settle_rival(claim, index, home, holder, err);
}

/* One pass over all servers. *ret_again: something was settled, so what was claimed before it may not stand.
 */
static int claim_pass(const struct claim *claim, bool *ret_again, struct error *err)
{
    struct storage *storage = claim->controller->storage;

    *ret_again = false;
    for (size_t i = 0; i < storage_count(storage) && !*ret_again; i++) {
        char holder[ID_VOLUME_MAX + 1];
        enum claim_step step = CLAIM_STANDS;
        int r;

        if (storage_server_config(storage_at(storage, i))->gone)
            continue;
        r = ask(claim, storage_at(storage, i), holder, err);
        if (r == E_OK && !str_equal(holder, claim->volume_id))
            r = settle(claim, i, holder, &step, err);
        if (r != E_OK)
            return r;
        *ret_again = step == CLAIM_AGAIN;
    }
    return E_OK;
}

int claim_name(struct controller *controller, const char *name, char volume_id[ID_VOLUME_MAX + 1],
               uint64_t deadline_ms, struct error *err)
{
    struct claim claim = {
        .controller = controller, .name = name, .volume_id = volume_id, .deadline_ms = deadline_ms};

    for (int pass = 0; pass < CLAIM_PASSES; pass++) {
        bool again;
        int r = claim_pass(&claim, &again, err);

        if (r != E_OK || !again)
            return r;
    }
    return error_set(err, E_BUSY, "another controller is claiming name \"%s\" too; retry", name);
}

int claim_release(struct controller *controller, const char *name, const char *volume_id,
                  uint64_t deadline_ms, struct error *err)
{
    int result = E_OK;

    for (size_t i = storage_count(controller->storage); i-- > 0;) {
        _cleanup_error_ struct error one = {0};
        struct storage_server *server = storage_at(controller->storage, i);
        int r;

        if (storage_server_config(server)->gone)
            continue;
        r = release(server, name, volume_id, deadline_ms, &one);
        if (r == E_OK || result != E_OK)
            continue;
        result = r;
        error_move(err, &one);
    }
    return result;
}

void claim_abandon(struct controller *controller, const char *name, const char *volume_id)
{
    _cleanup_error_ struct error err = {0};
    uint64_t deadline_ms = time_now_ms() + ABANDON_TIMEOUT_MS;
    struct storage_server *home = NULL;
    int r = storage_of_volume(controller->storage, volume_id, &home, &err);

    /* Its home first: while that claim stands, someone may still make the volume. */
    if (r == E_OK)
        r = release(home, name, volume_id, deadline_ms, &err);
    if (r == E_OK)
        r = claim_release(controller, name, volume_id, deadline_ms, &err);
    if (r != E_OK)
        log_warning("claims of name \"%s\" for volume %s, which was not made, are left: %s", name, volume_id,
                    error_text(&err));
}
