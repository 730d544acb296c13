/*
 * The sessions of one volume: admission, reinstatement, drains. Runs on the volume's owner loop; asked by
 * session.c, by the jobs (removal.c, grant.c, format.c) and by service_attachments.c through messages.
 */
#include "datapath/target/export.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/target/reactor.h"
#include "datapath/target/server.h"

static int export_open_work(struct loop_work *work);
static void export_open_done(struct loop_op *op, int res, unsigned flags);
static void export_check_drains(struct export *export);

/* ---- life ---- */

struct export *export_find(struct volume *volume)
{
    return volume_owner_data(volume);
}

static void export_keep_debt(const struct export *export)
{
    struct reactor *owner = export->owner;
    struct export_debt *place = &owner->debts[owner->debts_next % EXPORT_DEBTS];
    uint64_t now_ns = loop_now_ns(owner->loop);
    struct limits_debt debt;
    if (!limits_owe(&export->limits, now_ns, &debt))
        debt = export->debt; /* which nobody took up: no session was admitted */
    if (debt.operations_ns <= now_ns && debt.bytes_ns <= now_ns)
        return;
    owner->debts_next++;
    place->debt = debt;
    str_copy(place->volume_id, sizeof(place->volume_id), export->unit.volume_id);
}

static void export_take_debt(struct export *export)
{
    struct reactor *owner = export->owner;
    for (unsigned i = 0; i < EXPORT_DEBTS; i++) {
        if (str_equal(owner->debts[i].volume_id, export->unit.volume_id)) {
            export->debt = owner->debts[i].debt;
            owner->debts[i].volume_id[0] = '\0';
        }
    }
}

struct export *export_get(struct reactor *owner, struct volume *volume)
{
    struct export *export = export_find(volume);
    if (export)
        return export;
    export = calloc(1, sizeof(*export));
    if (!export)
        return NULL;
    *export = (struct export){.owner = owner,
                              .volume = volume_ref(volume),
                              .unit = {.volume = volume,
                                       .block_size_bytes = volume_block_size_bytes(volume),
                                       .thick = volume_is_thick(volume),
                                       .blocks = volume_size_bytes(volume) / volume_block_size_bytes(volume),
                                       .volume_id = volume_id(volume),
                                       .boot_id = owner->server->boot_id,
                                       .refused = &owner->server->health.refused},
                              .open_work = {.work = export_open_work, .op = {.done = export_open_done}}};
    export->next = owner->exports;
    if (owner->exports)
        owner->exports->previous = export;
    owner->exports = export;
    volume_set_owner_data(volume, export);
    export_take_debt(export);
    return export;
}

void export_check_unused(struct export *export)
{
    if (export->first || export->drains || export->holds || export->users || export->opening)
        return;
    struct reactor *owner = export->owner;
    if (export->previous)
        export->previous->next = export->next;
    else
        owner->exports = export->next;
    if (export->next)
        export->next->previous = export->previous;
    export_keep_debt(export);
    volume_set_owner_data(export->volume, NULL);
    volume_unref(export->volume);
    free(export);
    reactor_check_stopped(owner);
}

/* ---- the list ---- */

static void export_link(struct export *export, struct session *session)
{
    session->export = export;
    session->previous = export->last;
    if (export->last)
        export->last->next = session;
    else
        export->first = session;
    export->last = session;
    export->sessions_count++;
}

static void export_unlink(struct session *session)
{
    struct export *export = session->export;
    if (session->previous)
        session->previous->next = session->next;
    else
        export->first = session->next;
    if (session->next)
        session->next->previous = session->previous;
    else
        export->last = session->previous;
    session->next = session->previous = NULL;
    session->export = NULL;
    session->standing = SESSION_OUT;
    export->sessions_count--;
}

static void export_decide(struct session *session, enum session_verdict verdict)
{
    session->verdict = verdict;
    loop_post(session->reactor->loop, &session->decision);
}

static void export_close_session(struct session *session)
{
    if (session->closing)
        return;
    session->closing = true;
    loop_post(session->reactor->loop, &session->close);
}

/* The same I_T nexus (RFC 7143, section 6.3.5); there is one target portal group. */
static bool session_same_nexus(const struct session *a, const struct session *b)
{
    return memcmp(a->isid, b->isid, sizeof(a->isid)) == 0 && str_equal(a->initiator_name, b->initiator_name);
}

/* ---- admission: registered first, checked after ---- */

/* A fence holds from its record on, whatever still keeps the removal of the node's attachments waiting. */
static enum session_verdict export_judge_node(const struct session *session, const char *node_id)
{
    struct node_record node = {0};
    int code = store_node_get(session->owner->server->store, node_id, &node, NULL);
    if (code == E_NOT_FOUND)
        return SESSION_GRANTED;
    if (code)
        return SESSION_UNAVAILABLE;
    bool fenced = node.fenced;
    node_record_done(&node);
    return fenced ? SESSION_FORBIDDEN : SESSION_GRANTED;
}

/* From the records as they are now. ret_attachment: the record's. */
static enum session_verdict export_judge(const struct session *session, const struct volume_record *record,
                                         const struct attachment **ret_attachment)
{
    if (attach_admits(record, session->epoch, session->generation, ret_attachment) != 0)
        return SESSION_FORBIDDEN;
    return export_judge_node(session, (*ret_attachment)->node_id);
}

/* What will be refused ends nobody's session: a login that was stopped before its last request may be of a
 * generation that is not the newest any more, under the newest one's nexus. */
static enum session_verdict export_judge_newcomer(struct export *export, const struct session *session)
{
    struct volume_record record = {0};
    const struct attachment *attachment;
    if (volume_snapshot_record(export->volume, &record) != 0)
        return SESSION_UNAVAILABLE;
    enum session_verdict verdict = export_judge(session, &record, &attachment);
    volume_record_done(&record);
    return verdict;
}

static enum session_verdict export_register(struct export *export, struct session *session)
{
    enum session_verdict verdict = export_judge_newcomer(export, session);
    unsigned others = 0;
    if (verdict != SESSION_GRANTED)
        return verdict;
    for (struct session *other = export->first; other; other = other->next) {
        if (!session_same_nexus(other, session)) {
            others += !other->closing;
            continue;
        }
        /* Another attachment's initiator under this one's name would end sessions that are not its own. Which
         * of the two borrowed the name cannot be told: neither hears what is final for it. */
        if (other->epoch != session->epoch && !other->closing)
            return SESSION_UNAVAILABLE;
    }
    if (others >= export->owner->server->settings->sessions_per_volume_max)
        return SESSION_EXHAUSTED;
    for (struct session *other = export->first; other; other = other->next)
        if (session_same_nexus(other, session))
            export_close_session(other);
    export_link(export, session);
    return SESSION_GRANTED;
}

void export_admit(struct session *session)
{
    struct volume *volume = store_volume_find(session->owner->server->store, session->volume_id);
    session->standing = SESSION_OUT;
    if (!volume) {
        export_decide(session, SESSION_UNKNOWN);
        return;
    }
    struct export *export = export_get(session->owner, volume);
    volume_unref(volume);
    if (!export) {
        export_decide(session, SESSION_UNAVAILABLE);
        return;
    }
    session->standing = SESSION_WAITING;
    enum session_verdict verdict = export_register(export, session);
    if (verdict != SESSION_GRANTED) {
        session->standing = SESSION_OUT;
        export_decide(session, verdict);
    }
    export_consider(export);
}

static void export_refuse(struct session *session, enum session_verdict verdict)
{
    export_unlink(session);
    export_decide(session, verdict);
}

static bool export_nexus_busy(const struct session *session)
{
    for (const struct session *other = session->previous; other; other = other->previous)
        if (session_same_nexus(other, session))
            return true;
    return false;
}

/* By this record, which is not older than what was gone by before. */
static void export_go_by(struct export *export, const struct volume_record *record)
{
    struct scsi_unit *unit = &export->unit;
    unit->blocks = record->size_bytes / unit->block_size_bytes;
    if (!limits_set(&export->limits, &record->limits, loop_now_ns(export->owner->loop)))
        return;
    limits_resume(&export->limits, &export->debt);
    export->debt = (struct limits_debt){0};
    for (struct session *session = export->first; session; session = session->next)
        if (session->standing == SESSION_ADMITTED)
            session_limits_changed(session);
}

int export_record_changed(struct export *export)
{
    struct volume_record record = {0};
    int code = volume_snapshot_record(export->volume, &record);
    if (code)
        return code;
    export_go_by(export, &record);
    volume_record_done(&record);
    return 0;
}

static void export_grant(struct session *session, const struct volume_record *record,
                         const struct attachment *attachment)
{
    export_go_by(session->export, record);
    session->nexus = (struct scsi_nexus){
        .unit = &session->export->unit,
        .epoch = session->epoch,
        .generation = session->generation,
        .read_only = !attach_may_write(attachment->access_mode, attachment->readonly),
        .write_through = attach_write_through(record, attachment, session->generation),
        .blocks = session->export->unit.blocks,
    };
    session->limits = &session->export->limits;
    str_copy(session->node_id, sizeof(session->node_id), attachment->node_id);
    session->standing = SESSION_ADMITTED;
    export_decide(session, SESSION_GRANTED);
}

/* The decision on one session that waits, from the record as it is now. */
static void export_consider_session(struct session *session, const struct volume_record *record)
{
    struct export *export = session->export;
    const struct attachment *attachment;
    enum session_verdict verdict = export_judge(session, record, &attachment);
    if (verdict != SESSION_GRANTED) {
        export_refuse(session, verdict);
        return;
    }
    if (session->closing || export->holds || export_nexus_busy(session))
        return;
    if (export->image) {
        export_grant(session, record, attachment);
        return;
    }
    if (!export->opening) {
        export->opening = true;
        loop_offload(export->owner->loop, &export->open_work);
    }
}

static bool export_has_waiting(const struct export *export)
{
    for (const struct session *session = export->first; session; session = session->next)
        if (session->standing == SESSION_WAITING)
            return true;
    return false;
}

void export_consider(struct export *export)
{
    export->users++;
    if (export_has_waiting(export)) {
        struct volume_record record = {0};
        int code = volume_snapshot_record(export->volume, &record);
        for (struct session *session = export->first, *next; session; session = next) {
            next = session->next;
            if (session->standing != SESSION_WAITING)
                continue;
            if (code)
                export_refuse(session, SESSION_UNAVAILABLE);
            else
                export_consider_session(session, &record);
        }
        if (code == 0)
            volume_record_done(&record);
    }
    export_check_drains(export);
    export->users--;
    export_check_unused(export);
}

static int export_open_work(struct loop_work *work)
{
    struct export *export = container_of(work, struct export, open_work);
    _cleanup_error_ struct error err = {0};
    int code = volume_image(export->volume, &export->unit.image, &err);
    if (code)
        log_error("volume %s: %s", export->unit.volume_id, error_text(&err));
    return code;
}

static void export_open_done(struct loop_op *op, int res, unsigned flags)
{
    struct export *export = container_of(op, struct export, open_work.op);
    (void)flags;
    export->opening = false;
    if (res == 0)
        export->image = export->unit.image;
    for (struct session *session = export->first, *next; res && session; session = next) {
        next = session->next;
        if (session->standing == SESSION_WAITING)
            export_refuse(session, SESSION_UNAVAILABLE);
    }
    export_consider(export);
}

void export_session_ended(struct session *session)
{
    struct export *export = session->export;
    if (!export)
        return;
    export_unlink(session);
    export_consider(export);
}

/* ---- drains ---- */

static bool drain_matches(const struct drain *drain, const struct session *session)
{
    if (drain->epoch && session->epoch != drain->epoch)
        return false;
    return !drain->generation_below || session->generation < drain->generation_below;
}

static bool drain_complete(const struct drain *drain)
{
    for (const struct session *session = drain->export->first; session; session = session->next)
        if (drain_matches(drain, session))
            return false;
    return true;
}

static void drain_run(struct loop_message *message)
{
    struct drain *drain = container_of(message, struct drain, message);
    struct export *export = drain->export;
    export->users--;
    drain->next = export->drains;
    export->drains = drain;
    for (struct session *session = export->first; session; session = session->next)
        if (session->standing == SESSION_ADMITTED && drain_matches(drain, session))
            export_close_session(session);
    export_consider(export); /* those that wait are refused by the record */
}

int export_drain(struct reactor *owner, struct volume *volume, struct drain *drain)
{
    struct export *export = export_get(owner, volume);
    if (!export)
        return -ENOMEM;
    export->users++;
    drain->export = export;
    drain->message.run = drain_run;
    loop_post(owner->loop, &drain->message);
    return 0;
}

static void export_check_drains(struct export *export)
{
    for (struct drain **at = &export->drains; *at;) {
        struct drain *drain = *at;
        if (!drain_complete(drain)) {
            at = &drain->next;
            continue;
        }
        *at = drain->next;
        drain->done(drain);
    }
}
