/*
 * Successors for device processes that died. A thread a storage server, so that one that hangs delays no
 * other's volumes: it watches a pidfd of each, and starts the next generation when one ends while its volume
 * stays staged. A volume that an RPC is working on is left to that RPC, unless it lends us its lock because
 * it waits for the volume's I/O. While a device waits for its server, it asks the server which portals it has
 * now.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach.h"
#include "node/node.h"

#define SUPERVISOR_RETRY_MS 500
#define SUPERVISOR_BACKOFF_MAX_MS 30000
#define SUPERVISOR_BACKOFF_SERVED_MAX_MS 2000
#define SUPERVISOR_PROVEN_MS 3000
#define SUPERVISOR_IDLE_MS 5000
#define SUPERVISOR_ASK_MS 3000 /* for portals, all volumes in one round */
#define SUPERVISOR_ASK_CALL_MS 1000
#define SUPERVISOR_VOLUMES_MAX 4096

/* What is remembered of a volume whose device process ended. */
struct supervisor_volume {
    char id[ID_VOLUME_MAX + 1];
    bool visited; /* in this round */
    bool lost;    /* said so */

    uint64_t started_ms; /* its newest successor; 0: none yet */
    unsigned pause_ms;   /* from that start to the next */
    bool ended;          /* it did, too early: the pause is set */
};

/* One thread, with the volumes of one server. */
struct supervisor_server {
    struct supervisor *supervisor;
    struct node *node;
    size_t index; /* in the configuration */
    pthread_t thread;
    int wake_fd;

    struct pollfd watched[1 + 2 * SUPERVISOR_VOLUMES_MAX]; /* wake_fd; of a volume, device and holder */
    size_t watched_count;
    bool retry; /* a volume has no live process yet */

    bool waits;        /* a device waits for the server */
    bool asking;       /* in this round, and it has answered so far */
    uint64_t asked_ms; /* the newest round that asked; 0: none yet */

    struct supervisor_volume ended[SUPERVISOR_VOLUMES_MAX];
    size_t ended_count;
};

struct supervisor {
    atomic_bool stopping;
    size_t count;
    struct supervisor_server *servers[];
};

static struct supervisor_volume *supervisor_find(struct supervisor_server *server, const char *volume_id)
{
    for (size_t i = 0; i < server->ended_count; i++) {
        if (str_equal(server->ended[i].id, volume_id)) {
            server->ended[i].visited = true;
            return &server->ended[i];
        }
    }
    return NULL;
}

/* NULL when there are too many. */
static struct supervisor_volume *supervisor_remember(struct supervisor_server *server, const char *volume_id)
{
    struct supervisor_volume *volume = supervisor_find(server, volume_id);

    if (volume || server->ended_count == SUPERVISOR_VOLUMES_MAX)
        return volume;
    volume = &server->ended[server->ended_count++];
    *volume = (struct supervisor_volume){.visited = true};
    str_copy(volume->id, sizeof(volume->id), volume_id);
    return volume;
}

/* Forget those that this round did not come by. */
static void supervisor_forget(struct supervisor_server *server)
{
    size_t kept = 0;

    for (size_t i = 0; i < server->ended_count; i++) {
        if (!server->ended[i].visited)
            continue;
        server->ended[kept] = server->ended[i];
        server->ended[kept++].visited = false;
    }
    server->ended_count = kept;
}

static int supervisor_restart(struct node *node, const char *volume_id, bool lent, struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};

    int r = stage_record_load(node->config.state_dir, volume_id, &record, err);
    if (r)
        return r;
    if (!record.complete && !lent) /* an interrupted staging is its repeat's to go on with */
        return E_NOT_FOUND;
    return attach_restart(&node->config, node->storage, volume_id, err);
}

/* A lost volume stays lost until it is unstaged: that is said once. */
static void supervisor_report(struct supervisor_volume *volume, const char *volume_id, int r,
                              const struct error *err)
{
    bool lost = r == E_PRECONDITION;

    if (!r || r == E_NOT_FOUND || (lost && volume && volume->lost))
        return;
    if (lost)
        log_error("%s", error_text(err));
    else
        log_warning("volume %s: mooring-device has ended, and no successor yet: %s", volume_id,
                    error_text(err));
    if (volume)
        volume->lost = lost;
}

/*
 * Whether a successor's time has come. One that ends before it serves is followed ever later, so that what
 * ends them all does not use up generations; one that had served for a while is followed at once.
 */
static bool supervisor_may_start(struct supervisor_server *server, struct supervisor_volume *volume)
{
    uint64_t now_ms = time_now_ms();

    if (!volume || !volume->started_ms)
        return true;
    if (!volume->ended) {
        bool served = attach_has_served(&server->node->config, volume->id);
        unsigned longest_ms = served ? SUPERVISOR_BACKOFF_SERVED_MAX_MS : SUPERVISOR_BACKOFF_MAX_MS;

        if (served && now_ms - volume->started_ms >= SUPERVISOR_PROVEN_MS)
            return true;
        volume->ended = true;
        volume->pause_ms = MIN(MAX(2 * volume->pause_ms, SUPERVISOR_RETRY_MS), longest_ms);
    }
    return now_ms - volume->started_ms >= volume->pause_ms;
}

static void supervisor_started(struct supervisor_volume *volume)
{
    if (!volume)
        return;
    if (!volume->ended) /* the first, or after one that did well */
        volume->pause_ms = 0;
    volume->started_ms = time_now_ms();
    volume->ended = false;
}

/* Also of a call that lends it. false: somebody is at work. */
static bool supervisor_lock(struct volume_locks *locks, const char *volume_id, const char *what,
                            bool *ret_lent)
{
    bool lent = volume_lock_try_round(locks, volume_id, what, NULL) != 0;

    if (lent && !volume_lock_borrow(locks, volume_id))
        return false;
    *ret_lent = lent;
    return true;
}

static void supervisor_unlock(struct volume_locks *locks, const char *volume_id, bool lent)
{
    if (lent)
        volume_lock_return(locks, volume_id);
    else
        volume_lock_release(locks, volume_id);
}

static void supervisor_revive(struct supervisor_server *server, const char *volume_id)
{
    struct volume_locks *locks = server->node->locks;
    bool lent;
    struct supervisor_volume *volume = supervisor_remember(server, volume_id);
    _cleanup_error_ struct error err = {0};

    server->retry = true;
    if (!supervisor_may_start(server, volume))
        return;
    if (!supervisor_lock(locks, volume_id, "a device's restart", &lent))
        return;
    int r = supervisor_restart(server->node, volume_id, lent, &err);
    supervisor_unlock(locks, volume_id, lent);
    if (!r)
        supervisor_started(volume);
    supervisor_report(volume, volume_id, r, &err);
}

/* Volumes of a server that is not configured any more go to the first: for them every call fails at once. */
static bool supervisor_serves(const struct supervisor_server *server, const char *volume_id)
{
    const struct server_list *servers = &server->node->config.servers;
    char id[ID_SERVER_MAX + 1];

    if (id_volume_server(volume_id, id, NULL))
        return false;
    for (size_t i = 0; i < servers->count; i++) {
        if (str_equal(servers->items[i].id, id))
            return i == server->index;
    }
    return server->index == 0;
}

/* A device lives on without its holder, but would not survive its own end. */
static int supervisor_keep_holder(struct supervisor_server *server, const char *volume_id)
{
    struct volume_locks *locks = server->node->locks;
    const struct node_config *config = &server->node->config;
    _cleanup_error_ struct error err = {0};

    int fd = attach_watch_holder(config, volume_id);
    if (fd >= 0)
        return fd;
    server->retry = true;
    if (volume_lock_try_round(locks, volume_id, "a holder's restart", NULL))
        return -1;
    if (attach_keep_holder(config, volume_id, &err))
        log_warning("volume %s: no other mooring-holder yet: %s", volume_id, error_text(&err));
    volume_lock_release(locks, volume_id);
    return attach_watch_holder(config, volume_id);
}

/* A server that came back elsewhere is found by its gRPC address; its devices know only its old portals. The
 * call is made without the volume's lock. A server that does not answer is asked for one volume a round. */
static void supervisor_ask(struct supervisor_server *server, const char *volume_id)
{
    const struct node *node = server->node;
    _cleanup_attachment_ struct storage_attachment attachment = {0};
    _cleanup_error_ struct error err = {0};
    bool lent;

    if (!attach_waits(&node->config, volume_id))
        return;
    server->waits = true;
    if (!server->asking)
        return;
    int r = storage_attachment_get(node->storage, volume_id, SUPERVISOR_ASK_CALL_MS, &attachment, &err);
    if (r) {
        server->asking = r != E_UNAVAILABLE && r != E_DEADLINE;
        return;
    }
    if (!supervisor_lock(node->locks, volume_id, "telling a device its portals", &lent))
        return;
    r = attach_tell_portals(&node->config, &attachment, &err);
    supervisor_unlock(node->locks, volume_id, lent);
    if (r)
        log_warning("volume %s: its device cannot be told its server's portals: %s", volume_id,
                    error_text(&err));
}

static void supervisor_watch(struct supervisor_server *server, int fd)
{
    if (fd < 0)
        return;
    if (server->watched_count == ARRAY_SIZE(server->watched))
        fd_close(fd);
    else
        server->watched[server->watched_count++] = (struct pollfd){.fd = fd, .events = POLLIN};
}

static void supervisor_visit(const char *volume_id, void *context)
{
    struct supervisor_server *server = context;

    if (atomic_load(&server->supervisor->stopping) || !supervisor_serves(server, volume_id))
        return; /* each volume may wait for its server */
    if (!attach_has_process(&server->node->config, volume_id)) {
        supervisor_revive(server, volume_id); /* the kernel's own: nothing tells us when to look after it */
        return;
    }
    int fd = attach_watch(&server->node->config, volume_id);
    struct supervisor_volume *volume = supervisor_find(server, volume_id);

    if (fd >= 0 && volume)
        volume->lost = false;
    if (fd < 0) {
        supervisor_revive(server, volume_id);
        fd = attach_watch(&server->node->config, volume_id);
    }
    if (fd < 0)
        return;
    supervisor_watch(server, fd);
    supervisor_watch(server, supervisor_keep_holder(server, volume_id));
    supervisor_ask(server, volume_id);
}

static void supervisor_round(struct supervisor_server *server)
{
    uint64_t now_ms = time_now_ms();

    server->watched[0] = (struct pollfd){.fd = server->wake_fd, .events = POLLIN};
    server->watched_count = 1;
    server->retry = server->waits = false;
    server->asking = !server->asked_ms || now_ms - server->asked_ms >= SUPERVISOR_ASK_MS;
    bool asked = server->asking;
    stage_record_each(server->node->config.state_dir, supervisor_visit, server, NULL);
    if (asked && server->waits)
        server->asked_ms = now_ms;
    supervisor_forget(server);
}

static int supervisor_pause_ms(const struct supervisor_server *server)
{
    if (server->retry)
        return SUPERVISOR_RETRY_MS;
    return server->waits ? SUPERVISOR_ASK_MS : SUPERVISOR_IDLE_MS;
}

static void *supervisor_run(void *context)
{
    struct supervisor_server *server = context;

    while (!atomic_load(&server->supervisor->stopping)) {
        uint64_t count;

        supervisor_round(server);
        poll(server->watched, server->watched_count, supervisor_pause_ms(server));
        if (server->watched[0].revents)
            (void)!read(server->wake_fd, &count, sizeof(count));
        for (size_t i = 1; i < server->watched_count; i++)
            fd_close(server->watched[i].fd);
    }
    return NULL;
}

static int supervisor_start(struct supervisor *supervisor, struct node *node, size_t index, struct error *err)
{
    struct supervisor_server *server = calloc(1, sizeof(*server));

    if (!server)
        return error_errno(err, ENOMEM, "cannot start the supervisor");
    server->supervisor = supervisor;
    server->node = node;
    server->index = index;
    server->wake_fd = eventfd(0, EFD_CLOEXEC);
    int problem = server->wake_fd < 0 ? errno : pthread_create(&server->thread, NULL, supervisor_run, server);
    if (problem) {
        fd_close(server->wake_fd);
        free(server);
        return error_errno(err, problem, "cannot start the supervisor");
    }
    supervisor->servers[supervisor->count++] = server;
    return 0;
}

int supervisor_new(struct supervisor **ret, struct node *node, struct error *err)
{
    size_t count = node->config.servers.count;
    struct supervisor *supervisor = calloc(1, sizeof(*supervisor) + count * sizeof(supervisor->servers[0]));
    int r = 0;

    if (!supervisor)
        return error_errno(err, ENOMEM, "cannot start the supervisor");
    for (size_t i = 0; i < count && !r; i++)
        r = supervisor_start(supervisor, node, i, err);
    if (r) {
        supervisor_free(supervisor);
        return r;
    }
    *ret = supervisor;
    return 0;
}

struct supervisor *supervisor_free(struct supervisor *supervisor)
{
    if (!supervisor)
        return NULL;
    atomic_store(&supervisor->stopping, true);
    supervisor_wake(supervisor);
    for (size_t i = 0; i < supervisor->count; i++) {
        pthread_join(supervisor->servers[i]->thread, NULL);
        fd_close(supervisor->servers[i]->wake_fd);
        free(supervisor->servers[i]);
    }
    free(supervisor);
    return NULL;
}

void supervisor_wake(struct supervisor *supervisor)
{
    static const uint64_t one = 1;

    for (size_t i = 0; supervisor && i < supervisor->count; i++)
        (void)!write(supervisor->servers[i]->wake_fd, &one, sizeof(one));
}
