/*
 * The iSCSI session's life: connect, log in, serve the socket, lose it, back off. Owns the libiscsi context.
 * Runs on the device's loop; called by device.c (start, stop), requests.c and identify.c (sending).
 *
 * libiscsi calls back from within iscsi_service(); what ends a session there only sets `broken`, and
 * session_after_service() acts on it.
 */
#include "datapath/device/initiator.h"

#include <assert.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/device/login_status.h"

#define TICK_MS 250u
#define CONNECT_LIMIT_MS 3000u
#define LOGIN_LIMIT_MS 60000u        /* a login waits for the old session's last command */
#define LOGIN_SILENCE_LIMIT_MS 3000u /* but the first of its answers, CHAP's challenge, waits for nothing */
#define LOGOUT_LIMIT_MS 2000u
#define NOP_INTERVAL_MS 1500u
#define NOPS_UNANSWERED_MAX 3
#define TCP_USER_TIMEOUT_MS 5000 /* also for probes that nobody answers */
#define LEASE_OVER "the lease ran out: the storage server has not answered in time"
#define KEEPALIVE_S 1
#define KEEPALIVE_PROBES 3

static void session_open(struct initiator *initiator);
static void session_connected(struct iscsi_context *iscsi, int status, void *data, void *private_data);
static void session_logged_in(struct iscsi_context *iscsi, int status, void *data, void *private_data);
static void session_service(struct initiator *initiator, int events);
static void session_after_service(struct initiator *initiator);
static void session_close(struct initiator *initiator);
static void session_closed(struct initiator *initiator);

static void phase_set(struct initiator *initiator, enum initiator_phase phase)
{
    initiator->phase = phase;
    initiator->phase_since_ms = time_now_ms();
}

static uint64_t lease_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool initiator_lease_holds(const struct initiator *initiator)
{
    uint64_t lease_ms = initiator->state->lease_ms;
    return lease_ms == 0 || lease_now_ms() - initiator->reached_ms < lease_ms;
}

void initiator_drop(struct initiator *initiator, const char *why)
{
    if (!initiator->broken)
        snprintf(initiator->why, sizeof initiator->why, "%s", why);
    initiator->broken = true;
    if (!initiator->in_service && initiator->iscsi)
        session_close(initiator);
}

/* ---- the polls ---- */

static void poll_in_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct initiator *initiator = container_of(op, struct initiator, poll_in);
    initiator->poll_in_armed = false;
    if (initiator->phase == INITIATOR_CLOSING) {
        session_closed(initiator);
        return;
    }
    if (initiator->phase == INITIATOR_UP && !initiator_lease_holds(initiator)) {
        initiator_drop(initiator, LEASE_OVER);
        return;
    }
    initiator->heard_ms = time_now_ms();
    int events = res < 0 ? POLLERR : res & (POLLIN | POLLERR | POLLHUP);
    if (events & POLLIN) /* what was said before the end comes first: it may be why the login is refused */
        events = POLLIN;
    session_service(initiator, events);
}

static void poll_out_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct initiator *initiator = container_of(op, struct initiator, poll_out);
    initiator->poll_out_armed = false;
    if (initiator->phase == INITIATOR_CLOSING) {
        session_closed(initiator);
        return;
    }
    session_service(initiator, res < 0 ? POLLERR : res & (POLLOUT | POLLERR | POLLHUP));
}

static void polls_arm(struct initiator *initiator)
{
    int fd = iscsi_get_fd(initiator->iscsi);
    int events = iscsi_which_events(initiator->iscsi);
    if ((events & POLLIN) && !initiator->poll_in_armed) {
        initiator->poll_in_armed = true;
        loop_poll(initiator->loop, &initiator->poll_in, fd, POLLIN);
    }
    if ((events & POLLOUT) && !initiator->poll_out_armed) {
        initiator->poll_out_armed = true;
        loop_poll(initiator->loop, &initiator->poll_out, fd, POLLOUT);
    }
}

/* ---- one session ---- */

static void isid_set(struct iscsi_context *iscsi, const uint8_t isid[6])
{
    uint32_t middle = (uint32_t)isid[1] << 16 | (uint32_t)isid[2] << 8 | isid[3];
    uint32_t qualifier = (uint32_t)isid[4] << 8 | isid[5];
    if (isid[0] == 0x80)
        iscsi_set_isid_random(iscsi, middle, qualifier);
    else if (isid[0] == 0x40)
        iscsi_set_isid_en(iscsi, middle, qualifier);
    else
        iscsi_set_isid_oui(iscsi, (uint32_t)isid[0] << 16 | (uint32_t)isid[1] << 8 | isid[2],
                           (uint32_t)isid[3] << 16 | qualifier);
}

static struct iscsi_context *context_new(const struct device_state *state)
{
    struct iscsi_context *iscsi = iscsi_create_context(state->initiator_name);
    if (!iscsi)
        return NULL;
    iscsi_set_noautoreconnect(iscsi, 1);
    isid_set(iscsi, state->isids[0]);
    iscsi_set_targetname(iscsi, state->target_name);
    iscsi_set_session_type(iscsi, ISCSI_SESSION_NORMAL);
    iscsi_set_header_digest(iscsi,
                            state->header_digest ? ISCSI_HEADER_DIGEST_CRC32C : ISCSI_HEADER_DIGEST_NONE);
    iscsi_set_tcp_user_timeout(iscsi, TCP_USER_TIMEOUT_MS);
    /* A login may wait long, and no NOP-Out can be sent in it: a server without power is found out by TCP. */
    iscsi_set_tcp_keepidle(iscsi, KEEPALIVE_S);
    iscsi_set_tcp_keepintvl(iscsi, KEEPALIVE_S);
    iscsi_set_tcp_keepcnt(iscsi, KEEPALIVE_PROBES);
    iscsi_set_timeout(iscsi, 0);
    if (state->chap_name && state->chap_secret)
        iscsi_set_initiator_username_pwd(iscsi, state->chap_name, state->chap_secret);
    return iscsi;
}

static void session_open(struct initiator *initiator)
{
    const char *portal = initiator->state->portals[initiator->portal];
    initiator->portal = (initiator->portal + 1) % initiator->state->portals_count;
    initiator->broken = initiator->announce_up = false;
    phase_set(initiator, INITIATOR_CONNECTING);
    initiator->iscsi = context_new(initiator->state);
    if (!initiator->iscsi) {
        snprintf(initiator->why, sizeof initiator->why, "no memory for a session");
        session_close(initiator);
        return;
    }
    if (iscsi_connect_async(initiator->iscsi, portal, session_connected, initiator) != 0) {
        initiator_drop(initiator, iscsi_get_error(initiator->iscsi));
        return;
    }
    polls_arm(initiator);
}

static void session_connected(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    (void)data;
    struct initiator *initiator = private_data;
    if (status != SCSI_STATUS_GOOD) {
        initiator_drop(initiator, iscsi_get_error(iscsi));
        return;
    }
    phase_set(initiator, INITIATOR_LOGIN);
    initiator->probe_sent_ms = lease_now_ms();
    if (iscsi_login_async(iscsi, session_logged_in, initiator) != 0)
        initiator_drop(initiator, iscsi_get_error(iscsi));
}

static void session_logged_in(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    (void)data;
    struct initiator *initiator = private_data;
    if (initiator->phase != INITIATOR_LOGIN)
        return;
    if (status != SCSI_STATUS_GOOD) {
        initiator->fatal = login_status_classify(iscsi_get_error(iscsi)) == LOGIN_FATAL;
        initiator_drop(initiator, iscsi_get_error(iscsi));
        return;
    }
    phase_set(initiator, INITIATOR_UP);
    initiator->heard_ms = initiator->nop_sent_ms = time_now_ms();
    initiator->reached_ms = initiator->probe_sent_ms;
    initiator->probe_in_flight = false;
    initiator->announce_up = true;
}

/* libiscsi has no words for a peer that closes the connection. */
static const char *loss_words(const struct initiator *initiator)
{
    if (initiator->phase == INITIATOR_LOGIN)
        return "the storage server closed the connection during login";
    return "the connection to the storage server was lost";
}

static void session_service(struct initiator *initiator, int events)
{
    if (!initiator->iscsi || initiator->in_service)
        return;
    initiator->in_service = true;
    int r = iscsi_service(initiator->iscsi, events);
    initiator->in_service = false;
    if (r < 0)
        initiator_drop(initiator, loss_words(initiator));
    session_after_service(initiator);
}

static void session_after_service(struct initiator *initiator)
{
    if (!initiator->iscsi)
        return;
    if (initiator->broken) {
        session_close(initiator);
        return;
    }
    if (initiator->announce_up) {
        initiator->announce_up = false;
        initiator->events->up(initiator->context);
    }
    initiator_kick(initiator);
}

static void session_close(struct initiator *initiator)
{
    struct iscsi_context *iscsi = TAKE_PTR(initiator->iscsi);
    initiator->announce_up = false;
    phase_set(initiator, INITIATOR_CLOSING);
    if (iscsi)
        iscsi_destroy_context(iscsi); /* calls back for each command, as cancelled: nobody acts on that */
    if (initiator->poll_in_armed)
        loop_cancel(initiator->loop, &initiator->poll_in);
    if (initiator->poll_out_armed)
        loop_cancel(initiator->loop, &initiator->poll_out);
    initiator->events->lost(initiator->context, initiator->why, initiator->fatal);
    session_closed(initiator);
}

static void backoff_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct initiator *initiator = container_of(op, struct initiator, backoff_timer);
    initiator->backoff_armed = false;
    if (initiator->phase != INITIATOR_BACKOFF)
        return;
    if (initiator->stopping)
        phase_set(initiator, INITIATOR_STOPPED);
    else
        session_open(initiator);
}

/* The kernel holds the socket until the last poll has come back; only then does the next attempt begin. */
static void session_closed(struct initiator *initiator)
{
    if (initiator->phase != INITIATOR_CLOSING || initiator->poll_in_armed || initiator->poll_out_armed)
        return;
    if (initiator->fatal || initiator->stopping) {
        phase_set(initiator, INITIATOR_STOPPED);
        return;
    }
    phase_set(initiator, INITIATOR_BACKOFF);
    initiator->backoff_armed = true;
    loop_timeout(initiator->loop, &initiator->backoff_timer,
                 backoff_next_ms(&initiator->backoff, initiator->state->portals_count));
}

/* ---- the tick: limits of each phase, and the search for a dead peer ---- */

static void nop_answered(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    (void)iscsi;
    (void)status;
    (void)data;
    (void)private_data;
}

static void probe_answered(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    (void)iscsi;
    (void)data;
    struct initiator *initiator = private_data;
    initiator->probe_in_flight = false;
    if (status == SCSI_STATUS_GOOD)
        initiator->reached_ms = initiator->probe_sent_ms;
}

static void lease_probe(struct initiator *initiator)
{
    uint64_t now_ms = lease_now_ms(), lease_ms = initiator->state->lease_ms;
    if (lease_ms == 0 || initiator->probe_in_flight || now_ms - initiator->reached_ms < lease_ms / 4)
        return;
    initiator->probe_sent_ms = now_ms;
    initiator->probe_in_flight =
        iscsi_nop_out_async(initiator->iscsi, probe_answered, NULL, 0, initiator) == 0;
    initiator_kick(initiator);
}

static void up_check(struct initiator *initiator, uint64_t now_ms)
{
    if (!initiator_lease_holds(initiator)) {
        initiator_drop(initiator, LEASE_OVER);
        return;
    }
    lease_probe(initiator);
    if (initiator->phase != INITIATOR_UP)
        return;
    if (now_ms - initiator->heard_ms < NOP_INTERVAL_MS || now_ms - initiator->nop_sent_ms < NOP_INTERVAL_MS)
        return;
    if (iscsi_get_nops_in_flight(initiator->iscsi) >= NOPS_UNANSWERED_MAX) {
        initiator_drop(initiator, "the storage server does not answer");
        return;
    }
    initiator->nop_sent_ms = now_ms;
    if (iscsi_nop_out_async(initiator->iscsi, nop_answered, NULL, 0, initiator) == 0)
        initiator_kick(initiator);
}

/* What accepted the connection may be no server at all, or one that stands still. */
static bool login_is_silent(const struct initiator *initiator)
{
    return initiator->state->chap_name && initiator->heard_ms < initiator->phase_since_ms;
}

static void phase_check(struct initiator *initiator, uint64_t now_ms)
{
    uint64_t age_ms = now_ms - initiator->phase_since_ms;
    switch (initiator->phase) {
    case INITIATOR_CONNECTING:
        if (age_ms > CONNECT_LIMIT_MS)
            initiator_drop(initiator, "connecting to the storage server takes too long");
        break;
    case INITIATOR_LOGIN:
        if (login_is_silent(initiator) && age_ms > LOGIN_SILENCE_LIMIT_MS)
            initiator_drop(initiator, "the storage server does not answer the login");
        else if (age_ms > LOGIN_LIMIT_MS)
            initiator_drop(initiator, "logging in to the storage server takes too long");
        break;
    case INITIATOR_UP:
        up_check(initiator, now_ms);
        break;
    case INITIATOR_LOGOUT:
        if (age_ms > LOGOUT_LIMIT_MS)
            initiator_drop(initiator, "logout was not answered");
        break;
    case INITIATOR_IDLE:
    case INITIATOR_CLOSING:
    case INITIATOR_BACKOFF:
    case INITIATOR_STOPPED:
        break;
    }
}

static void tick_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct initiator *initiator = container_of(op, struct initiator, tick);
    phase_check(initiator, time_now_ms());
    if (initiator->phase == INITIATOR_STOPPED) {
        initiator->tick_armed = false;
        return;
    }
    loop_timeout(initiator->loop, &initiator->tick, TICK_MS);
}

/* ---- for the layers above ---- */

int initiator_init(struct initiator *initiator, struct loop *loop, const struct device_state *state,
                   const struct initiator_events *events, void *context, struct error *err)
{
    const uint8_t *isid = state->isids[0];
    if (isid[0] != 0x80 && isid[0] != 0x40 && isid[0] > 0x3f)
        return error_set(err, E_CORRUPT, "isid: the first two digits must be 80 (random), 40 (EN) or below");
    *initiator = (struct initiator){.loop = loop, .state = state, .events = events, .context = context};
    initiator->poll_in.done = poll_in_done;
    initiator->poll_out.done = poll_out_done;
    initiator->tick.done = tick_done;
    initiator->backoff_timer.done = backoff_done;
    int r = io_random(&initiator->backoff.seed, sizeof initiator->backoff.seed);
    return r ? error_errno(err, -r, "no randomness") : 0;
}

void initiator_start(struct initiator *initiator)
{
    initiator->reached_ms = lease_now_ms(); /* by the predecessor, perhaps; it is not known when */
    initiator->tick_armed = true;
    loop_timeout(initiator->loop, &initiator->tick, TICK_MS);
    session_open(initiator);
}

bool initiator_send(struct initiator *initiator, struct scsi_task *task, iscsi_command_cb done,
                    void *private_data)
{
    initiator->queued++;
    initiator->queued_data |= task->xfer_dir == SCSI_XFER_WRITE;
    return initiator->iscsi && iscsi_scsi_command_async(initiator->iscsi, (int)initiator->state->lun, task,
                                                        done, NULL, private_data) == 0;
}

/* libiscsi sends each PDU's header and data by calls of their own, with TCP_NODELAY: a packet each, unless
 * they are held together. */
static void socket_cork(int fd, int on)
{
    setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
}

/* But for one command without data there is nothing to hold it for. */
static int session_write(struct initiator *initiator)
{
    bool alone = initiator->queued == 1 && !initiator->queued_data && !initiator->poll_out_armed;
    int fd = iscsi_get_fd(initiator->iscsi);
    initiator->queued = 0;
    initiator->queued_data = false;
    initiator->in_service = true;
    if (!alone)
        socket_cork(fd, 1);
    int r = iscsi_service(initiator->iscsi, POLLOUT);
    if (!alone)
        socket_cork(fd, 0);
    initiator->in_service = false;
    return r;
}

void initiator_kick(struct initiator *initiator)
{
    if (!initiator->iscsi || initiator->in_service || initiator->broken)
        return;
    bool connected = initiator->phase != INITIATOR_CONNECTING;
    if (connected && (iscsi_which_events(initiator->iscsi) & POLLOUT)) {
        int r = session_write(initiator);
        if (r < 0 || initiator->broken) {
            initiator_drop(initiator, loss_words(initiator));
            if (initiator->iscsi)
                session_close(initiator);
            return;
        }
    }
    polls_arm(initiator);
}

void initiator_settled(struct initiator *initiator)
{
    backoff_reset(&initiator->backoff);
}

void initiator_portals_changed(struct initiator *initiator)
{
    initiator->portal = 0;
    backoff_reset(&initiator->backoff);
    if (initiator->phase == INITIATOR_BACKOFF && initiator->backoff_armed)
        loop_cancel(initiator->loop, &initiator->backoff_timer);
    else if (initiator->phase == INITIATOR_CONNECTING)
        initiator_drop(initiator, "the storage server has other portals now");
}

static void initiator_rest(struct initiator *initiator, const char *why)
{
    initiator->stopping = true;
    if (initiator->phase == INITIATOR_BACKOFF)
        loop_cancel(initiator->loop, &initiator->backoff_timer);
    if (initiator->iscsi)
        initiator_drop(initiator, why);
    else
        initiator->events->lost(initiator->context, why, initiator->fatal);
}

void initiator_abandon(struct initiator *initiator)
{
    assert(!initiator->in_service);
    initiator_rest(initiator, "given up");
}

static void session_logged_out(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    (void)iscsi;
    (void)status;
    (void)data;
    initiator_drop(private_data, "logged out");
}

void initiator_stop(struct initiator *initiator)
{
    if (initiator->phase == INITIATOR_UP &&
        iscsi_logout_async(initiator->iscsi, session_logged_out, initiator) == 0) {
        initiator->stopping = true;
        phase_set(initiator, INITIATOR_LOGOUT);
        initiator_kick(initiator);
        return;
    }
    initiator_rest(initiator, "stopped");
}
