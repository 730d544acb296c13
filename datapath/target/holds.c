/* Holds of volumes for snapshots of groups; see holds.h. Worker threads, and one loop's tick. */
#include "datapath/target/holds.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/image.h"

#define TICK_MS 10
#define NS_PER_MS UINT64_C(1000000)

struct hold {
    char id[HOLD_ID_LENGTH + 1];
    uint64_t until_ns;
    struct volume *volumes[HOLD_VOLUMES_MAX]; /* references */
    struct image *images[HOLD_VOLUMES_MAX];
    size_t count, held_count;
    struct snapshot *made[HOLD_VOLUMES_MAX]; /* references */
    size_t made_count;
    struct hold *next; /* of those that left snapshots */
};

static void hold_table_begin(struct loop_message *message);
static void hold_table_tick(struct loop_op *op, int res, unsigned flags);
static int hold_sweep(struct loop_work *work);
static void hold_sweep_done(struct loop_op *op, int res, unsigned flags);

void hold_table_init(struct hold_table *table)
{
    *table = (struct hold_table){.begin = {.run = hold_table_begin},
                                 .tick = {.done = hold_table_tick},
                                 .sweep = {.work = hold_sweep, .op = {.done = hold_sweep_done}}};
    pthread_mutex_init(&table->lock, NULL);
}

void hold_table_start(struct hold_table *table, struct store *store, struct loop *loop)
{
    table->store = store;
    table->loop = loop;
}

static struct hold *hold_free(struct hold *hold)
{
    if (!hold)
        return NULL;
    for (size_t i = 0; i < hold->count; i++)
        volume_unref(hold->volumes[i]);
    for (size_t i = 0; i < hold->made_count; i++)
        snapshot_unref(hold->made[i]);
    free(hold);
    return NULL;
}

void hold_table_done(struct hold_table *table)
{
    pthread_mutex_destroy(&table->lock);
}

/* ---- the table, under its lock ---- */

static struct hold **hold_find_locked(struct hold_table *table, const char *hold_id)
{
    for (size_t i = 0; i < HOLDS_MAX; i++)
        if (table->standing[i] && str_equal(table->standing[i]->id, hold_id))
            return &table->standing[i];
    return NULL;
}

static const struct hold_end *hold_find_end_locked(const struct hold_table *table, const char *hold_id)
{
    for (size_t i = 0; i < HOLDS_REMEMBERED; i++)
        if (str_equal(table->ended[i].id, hold_id))
            return &table->ended[i];
    return NULL;
}

static void hold_let_go(struct hold *hold)
{
    while (hold->held_count > 0)
        image_release(hold->images[--hold->held_count]);
}

/* Take it out of the table; it is the caller's then. */
static struct hold *hold_end_locked(struct hold_table *table, struct hold **place, bool stood)
{
    struct hold *hold = *place;
    struct hold_end *end = &table->ended[table->ended_next++ % HOLDS_REMEMBERED];
    *place = NULL;
    hold_let_go(hold);
    str_copy(end->id, sizeof(end->id), hold->id);
    end->stood = stood;
    return hold;
}

/* What was made under it has to go, by a tick that comes. */
static void hold_leave_locked(struct hold_table *table, struct hold *hold)
{
    hold->next = table->left;
    table->left = hold;
}

/* Those whose time is over, or all of them. */
static void hold_table_expire(struct hold_table *table, bool all)
{
    pthread_mutex_lock(&table->lock);
    uint64_t now_ns = time_now_ns();
    for (size_t i = 0; i < HOLDS_MAX; i++) {
        if (!table->standing[i] || (!all && table->standing[i]->until_ns > now_ns))
            continue;
        struct hold *ended = hold_end_locked(table, &table->standing[i], false);
        log_warning("hold %s of %zu volumes ended before it was released", ended->id, ended->count);
        hold_leave_locked(table, ended);
    }
    pthread_mutex_unlock(&table->lock);
}

/* ---- what is left of those that ended too early: deleted on an offload thread ---- */

static struct hold *hold_take_left(struct hold_table *table)
{
    pthread_mutex_lock(&table->lock);
    struct hold *left = table->left;
    table->left = NULL;
    pthread_mutex_unlock(&table->lock);
    return left;
}

static void hold_delete_snapshots(struct hold_table *table, const struct hold *hold)
{
    for (size_t i = 0; i < hold->made_count; i++) {
        _cleanup_error_ struct error why = {0};
        struct snapshot_record record;
        int code = snapshot_copy_record(hold->made[i], &record);
        if (code == 0)
            code = store_snapshot_delete_provisional(table->store, record.id, &why);
        if (code)
            log_warning("a snapshot of group %s stays until the next start: %s", record.group_id,
                        error_text(&why));
        else
            log_info("snapshot %s of group %s is deleted: its hold did not stand", record.id,
                     record.group_id);
    }
}

static int hold_sweep(struct loop_work *work)
{
    struct hold_table *table = container_of(work, struct hold_table, sweep);
    struct hold *hold = hold_take_left(table);
    while (hold) {
        struct hold *next = hold->next;
        hold_delete_snapshots(table, hold);
        hold_free(hold);
        hold = next;
    }
    return 0;
}

/* The loop has stopped, or stops next: the next start deletes what is left. */
static void hold_forget_left(struct hold_table *table)
{
    struct hold *hold = hold_take_left(table);
    while (hold) {
        struct hold *next = hold->next;
        hold_free(hold);
        hold = next;
    }
}

void hold_table_stop(struct hold_table *table)
{
    hold_table_expire(table, true);
    hold_forget_left(table);
}

/* ---- the tick, on the loop ---- */

static void hold_table_begin(struct loop_message *message)
{
    struct hold_table *table = container_of(message, struct hold_table, begin);
    loop_timeout(table->loop, &table->tick, TICK_MS);
}

static bool hold_table_empty_locked(const struct hold_table *table)
{
    for (size_t i = 0; i < HOLDS_MAX; i++)
        if (table->standing[i])
            return false;
    return !table->left;
}

static void hold_sweep_done(struct loop_op *op, int res, unsigned flags)
{
    struct hold_table *table = container_of(op, struct hold_table, sweep.op);
    (void)res;
    (void)flags;
    pthread_mutex_lock(&table->lock);
    table->sweeping = false;
    pthread_mutex_unlock(&table->lock);
}

static void hold_table_tick(struct loop_op *op, int res, unsigned flags)
{
    struct hold_table *table = container_of(op, struct hold_table, tick);
    (void)res;
    (void)flags;
    hold_table_expire(table, false);
    pthread_mutex_lock(&table->lock);
    table->ticking = !hold_table_empty_locked(table);
    bool again = table->ticking, sweep = table->left && !table->sweeping;
    table->sweeping |= sweep;
    pthread_mutex_unlock(&table->lock);
    if (sweep)
        loop_offload(table->loop, &table->sweep);
    if (again)
        loop_timeout(table->loop, &table->tick, TICK_MS);
}

/* ---- beginning ---- */

static int hold_new(struct hold **ret, const char *hold_id, struct volume *const *volumes, size_t count,
                    struct error *err)
{
    struct hold *hold = calloc(1, sizeof(*hold));
    if (!hold)
        return error_errno(err, ENOMEM, "hold %s", hold_id);
    str_copy(hold->id, sizeof(hold->id), hold_id);
    for (size_t i = 0; i < count; i++)
        hold->volumes[hold->count++] = volume_ref(volumes[i]);
    int code = 0;
    for (size_t i = 0; i < count && code == 0; i++)
        code = volume_image(hold->volumes[i], &hold->images[i], err);
    if (code) {
        hold_free(hold);
        return code;
    }
    *ret = hold;
    return 0;
}

static bool hold_is_of(const struct hold *hold, const struct volume *volume)
{
    for (size_t i = 0; i < hold->count; i++)
        if (hold->volumes[i] == volume)
            return true;
    return false;
}

static bool hold_same_volumes(const struct hold *a, const struct hold *b)
{
    for (size_t i = 0; i < a->count; i++)
        if (!hold_is_of(b, a->volumes[i]))
            return false;
    return a->count == b->count;
}

static int hold_take_all(struct hold *hold, struct error *err)
{
    int code = 0;
    while (code == 0 && hold->held_count < hold->count) {
        code = image_hold(hold->images[hold->held_count], err);
        hold->held_count += code == 0;
    }
    if (code)
        hold_let_go(hold);
    return code;
}

static void hold_tick_locked(struct hold_table *table)
{
    if (!table->ticking)
        loop_post(table->loop, &table->begin);
    table->ticking = true;
}

/* Into the table; *hold is NULL then. It stays the caller's when another one stands, or it cannot be had. */
static int hold_begin_locked(struct hold_table *table, struct hold **hold, uint32_t hold_ms,
                             struct error *err)
{
    struct hold **standing = hold_find_locked(table, (*hold)->id), **place = NULL;
    if (standing && !hold_same_volumes(*standing, *hold))
        return error_set(err, E_INVALID_ARGUMENT, "hold %s stands, and is of other volumes", (*hold)->id);
    if (standing)
        return 0;
    if (hold_find_end_locked(table, (*hold)->id))
        return error_set(err, E_PRECONDITION, "hold %s has ended: begin anew with another id", (*hold)->id);
    for (size_t i = 0; i < HOLDS_MAX && !place; i++)
        if (!table->standing[i])
            place = &table->standing[i];
    if (!place)
        return error_set(err, E_EXHAUSTED, "%d holds stand, and no more may: retry later", HOLDS_MAX);
    int code = hold_take_all(*hold, err);
    if (code)
        return code;
    (*hold)->until_ns = time_now_ns() + hold_ms * NS_PER_MS;
    *place = TAKE_PTR(*hold);
    hold_tick_locked(table);
    return 0;
}

static int hold_check_request(const char *hold_id, struct volume *const *volumes, size_t count,
                              uint32_t hold_ms, struct error *err)
{
    if (!id_boot_valid(hold_id))
        return error_set(err, E_INVALID_ARGUMENT, "\"%.64s\" is not a hold's id: 32 hex digits", hold_id);
    if (hold_ms == 0 || hold_ms > HOLD_MS_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "a hold of %u ms: it is 1 to %u", hold_ms, HOLD_MS_MAX);
    if (count == 0 || count > HOLD_VOLUMES_MAX)
        return error_set(err, count ? E_EXHAUSTED : E_INVALID_ARGUMENT,
                         "a hold of %zu volumes: it is 1 to %d", count, HOLD_VOLUMES_MAX);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++)
            if (volumes[i] == volumes[j])
                return error_set(err, E_INVALID_ARGUMENT, "volume %s came twice", volume_id(volumes[i]));
    return 0;
}

int hold_begin(struct hold_table *table, const char *hold_id, struct volume *const *volumes, size_t count,
               uint32_t hold_ms, struct error *err)
{
    struct hold *hold = NULL;
    int code = hold_check_request(hold_id, volumes, count, hold_ms, err);
    if (code == 0)
        code = hold_new(&hold, hold_id, volumes, count, err);
    if (code)
        return code;
    hold_table_expire(table, false);
    pthread_mutex_lock(&table->lock);
    code = hold_begin_locked(table, &hold, hold_ms, err);
    pthread_mutex_unlock(&table->lock);
    hold_free(hold);
    return code;
}

/* ---- under it ---- */

/* The hold, if its time is not over. */
static struct hold *hold_standing_locked(struct hold_table *table, const char *hold_id, struct error *err)
{
    struct hold **place = hold_find_locked(table, hold_id);
    if (place && (*place)->until_ns > time_now_ns())
        return *place;
    error_set(err, E_PRECONDITION, "hold %.32s does not stand any more, or never did", hold_id);
    return NULL;
}

int hold_check(struct hold_table *table, const char *hold_id, const struct volume *volume, struct error *err)
{
    int code = 0;
    pthread_mutex_lock(&table->lock);
    const struct hold *hold = hold_standing_locked(table, hold_id, err);
    if (!hold)
        code = E_PRECONDITION;
    else if (!hold_is_of(hold, volume))
        code = error_set(err, E_PRECONDITION, "hold %s is not of volume %s", hold_id, volume_id(volume));
    pthread_mutex_unlock(&table->lock);
    return code;
}

int hold_add_snapshot(struct hold_table *table, const char *hold_id, struct snapshot *snapshot,
                      struct error *err)
{
    int code = 0;
    pthread_mutex_lock(&table->lock);
    struct hold *hold = hold_standing_locked(table, hold_id, err);
    if (!hold)
        code = E_PRECONDITION;
    else if (hold->made_count == hold->count)
        code = error_set(err, E_PRECONDITION, "each volume of hold %s has its snapshot", hold_id);
    else
        hold->made[hold->made_count++] = snapshot_ref(snapshot);
    pthread_mutex_unlock(&table->lock);
    return code;
}

bool hold_has_snapshot(struct hold_table *table, const char *hold_id, const struct snapshot *snapshot)
{
    bool has = false;
    pthread_mutex_lock(&table->lock);
    const struct hold *hold = hold_standing_locked(table, hold_id, NULL);
    for (size_t i = 0; hold && i < hold->made_count; i++)
        has |= hold->made[i] == snapshot;
    pthread_mutex_unlock(&table->lock);
    return has;
}

/* ---- ending ---- */

/* What was deleted meanwhile is missed by whoever commits the group. */
static int hold_mark_snapshots(const struct hold *hold, struct error *err)
{
    for (size_t i = 0; i < hold->made_count; i++) {
        int code = snapshot_mark_held(hold->made[i], err);
        if (code && code != E_NOT_FOUND)
            return code;
        error_done(err);
    }
    return 0;
}

static void hold_did_not_stand(struct hold_table *table, struct hold *hold)
{
    pthread_mutex_lock(&table->lock);
    for (size_t i = 0; i < HOLDS_REMEMBERED; i++)
        if (str_equal(table->ended[i].id, hold->id))
            table->ended[i].stood = false;
    hold_leave_locked(table, hold);
    hold_tick_locked(table);
    pthread_mutex_unlock(&table->lock);
}

static struct hold *hold_take_out(struct hold_table *table, const char *hold_id, struct error *err)
{
    pthread_mutex_lock(&table->lock);
    const struct hold_end *end = hold_find_end_locked(table, hold_id);
    struct hold *hold = NULL;
    if (end && end->stood)
        error_done(err);
    else if (hold_standing_locked(table, hold_id, err))
        hold = hold_end_locked(table, hold_find_locked(table, hold_id), true);
    pthread_mutex_unlock(&table->lock);
    return hold;
}

int hold_release(struct hold_table *table, const char *hold_id, struct error *err)
{
    struct hold *hold = hold_take_out(table, hold_id, err);
    if (!hold)
        return err->code;
    int code = hold_mark_snapshots(hold, err);
    if (code)
        hold_did_not_stand(table, hold);
    else
        hold_free(hold);
    return code;
}
