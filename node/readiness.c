/*
 * Whether Probe says ready. A thread asks what this host can attach, again and again while it is nothing, and
 * ends; Probe's own thread only looks.
 */
#include "node/readiness.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/host.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/choose.h"
#include "node/iscsi_admin.h"

#define LOOK_PERIOD_MS 5000
#define ISCSI_CHECK_MS 5000

enum readiness_ways { WAYS_UNKNOWN, WAYS_NONE, WAYS_SOME };

struct readiness {
    struct registrar *registrar;
    struct node_config config; /* of it only what the thread needs: libexec_dir, ours */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* locked */
    unsigned references; /* the owner's and the thread's */
    bool stopping;
    bool registered, ready;
    enum readiness_ways ways;
    char why[512]; /* of WAYS_NONE */
};

static void readiness_unref(struct readiness *readiness)
{
    pthread_mutex_lock(&readiness->lock);
    bool last = --readiness->references == 0;
    pthread_mutex_unlock(&readiness->lock);
    if (!last)
        return;
    pthread_cond_destroy(&readiness->wake);
    pthread_mutex_destroy(&readiness->lock);
    free((char *)readiness->config.libexec_dir);
    free(readiness);
}

/* ---- what can be attached ---- */

static int readiness_look_device(const struct readiness *readiness, struct error *err)
{
    _cleanup_free_ char *program = str_format("%s/mooring-device", readiness->config.libexec_dir);
    char way[STAGE_ATTACH_SIZE];

    if (!program)
        return error_errno(err, ENOMEM, "cannot tell how to attach");
    if (access(program, X_OK) < 0)
        return error_set(err, E_PRECONDITION, "%s cannot be run: %s", program, strerror(errno));
    return choose_way(&readiness->config, "auto", way, err);
}

/* Where a device could not be put is no way for it (node/place.h). */
static int readiness_look_network(struct error *err)
{
    int fd = -1, r = host_network_open(&fd);

    if (fd >= 0)
        fd_close(fd);
    if (r)
        return error_set(err, E_PRECONDITION, "the network of the host cannot be seen (%s)", error_name(r));
    return 0;
}

/* The kernel's own initiator is a way of its own, where nothing else works. */
static int readiness_look(const struct readiness *readiness, struct error *err)
{
    _cleanup_error_ struct error iscsi = {0};
    int r = readiness_look_network(err);

    if (!r)
        r = readiness_look_device(readiness, err);

    if (r != E_PRECONDITION)
        return 0; /* there is one, or it cannot be told: the calls will say */
    if (!iscsi_admin_check(time_now_ms() + ISCSI_CHECK_MS, &iscsi)) {
        error_done(err);
        return 0;
    }
    return error_set(err, E_PRECONDITION,
                     "no volume can be attached on this host: %s; nor by the kernel's initiator: %s",
                     error_text(err), error_text(&iscsi));
}

static void readiness_note(struct readiness *readiness, int result, const struct error *err)
{
    pthread_mutex_lock(&readiness->lock);
    bool log = result && readiness->ways != WAYS_NONE;
    readiness->ways = result ? WAYS_NONE : WAYS_SOME;
    str_copy(readiness->why, sizeof(readiness->why), result ? error_text(err) : "");
    pthread_mutex_unlock(&readiness->lock);
    if (log)
        log_error("%s", error_text(err));
}

/* False when it is time to end. */
static bool readiness_wait(struct readiness *readiness)
{
    uint64_t until_ms = time_now_ms() + LOOK_PERIOD_MS;
    const struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                                   .tv_nsec = (long)(until_ms % 1000) * 1000000};

    pthread_mutex_lock(&readiness->lock);
    while (!readiness->stopping &&
           pthread_cond_clockwait(&readiness->wake, &readiness->lock, CLOCK_MONOTONIC, &until) == 0)
        continue;
    bool stopping = readiness->stopping;
    pthread_mutex_unlock(&readiness->lock);
    return !stopping;
}

static void *readiness_run(void *context)
{
    struct readiness *readiness = context;
    int r;

    do {
        _cleanup_error_ struct error err = {0};

        r = readiness_look(readiness, &err);
        readiness_note(readiness, r, &err);
    } while (r && readiness_wait(readiness));
    readiness_unref(readiness);
    return NULL;
}

/* ---- Probe ---- */

int readiness_tell(void *context, bool *ret_ready, struct error *err)
{
    struct readiness *readiness = context;
    bool registered = registrar_has_registered(readiness->registrar);
    int r = 0;

    pthread_mutex_lock(&readiness->lock);
    readiness->registered = readiness->registered || registered;
    readiness->ready = readiness->ready || (readiness->registered && readiness->ways == WAYS_SOME);
    if (readiness->ways == WAYS_NONE)
        r = error_set(err, E_PRECONDITION, "%s", readiness->why);
    else
        *ret_ready = readiness->ready;
    pthread_mutex_unlock(&readiness->lock);
    return r;
}

static bool readiness_has_volumes(const struct node *node)
{
    _cleanup_free_ char *path = str_format("%s/volumes", node->config.state_dir);
    DIR *dir = path ? opendir(path) : NULL;
    bool found = false;

    for (struct dirent *entry; dir && !found && (entry = readdir(dir));)
        found = entry->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return found;
}

int readiness_new(struct readiness **ret, const struct node *node, struct error *err)
{
    struct readiness *readiness = calloc(1, sizeof(*readiness));
    char *libexec_dir = strdup(node->config.libexec_dir);
    pthread_t thread;
    int problem = ENOMEM;

    if (readiness && libexec_dir) {
        readiness->registrar = node->registrar;
        readiness->config = (struct node_config){.attach = "auto", .libexec_dir = libexec_dir};
        readiness->registered = readiness_has_volumes(node);
        readiness->references = 2;
        pthread_mutex_init(&readiness->lock, NULL);
        pthread_cond_init(&readiness->wake, NULL);
        problem = pthread_create(&thread, NULL, readiness_run, readiness);
    }
    if (problem) {
        free(libexec_dir);
        free(readiness);
        return error_errno(err, problem, "cannot tell readiness");
    }
    pthread_detach(thread);
    *ret = readiness;
    return 0;
}

struct readiness *readiness_free(struct readiness *readiness)
{
    if (!readiness)
        return NULL;
    pthread_mutex_lock(&readiness->lock);
    readiness->stopping = true;
    pthread_cond_signal(&readiness->wake);
    pthread_mutex_unlock(&readiness->lock);
    readiness_unref(readiness);
    return NULL;
}
