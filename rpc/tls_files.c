/*
 * Which files a server's or client's TLS is made from, and their stamps. Asked at each handshake of a server
 * and each call of a client, by gRPC's threads and callers.
 */
#include "rpc/tls_files.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/log.h"

#define FILES_COUNT 3

/* Of the file that a path leads to now; all 0 when it leads to none. */
struct stamp {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec modified;
    struct timespec changed; /* its owner or mode too: what could not be read may be readable now */
};

struct tls_files {
    char *paths[FILES_COUNT];
    struct rpc_tls tls; /* the same paths */
    pthread_mutex_t lock;
    struct stamp stamps[FILES_COUNT];
    bool refused;  /* what was there at the last look */
    char why[512]; /* said of it */
};

static struct stamp stamp_of(const char *path)
{
    struct stat status;

    if (!path || stat(path, &status) < 0)
        return (struct stamp){0};
    return (struct stamp){.dev = status.st_dev,
                          .ino = status.st_ino,
                          .size = status.st_size,
                          .modified = status.st_mtim,
                          .changed = status.st_ctim};
}

static bool time_equal(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool stamp_equal(const struct stamp *a, const struct stamp *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
           time_equal(&a->modified, &b->modified) && time_equal(&a->changed, &b->changed);
}

int tls_files_new(struct tls_files **ret, const struct rpc_tls *tls, struct error *err)
{
    const char *const paths[FILES_COUNT] = {tls->ca_file, tls->cert_file, tls->key_file};
    struct tls_files *files = calloc(1, sizeof(*files));

    if (!files)
        return error_errno(err, ENOMEM, "TLS files");
    pthread_mutex_init(&files->lock, NULL);
    for (size_t i = 0; i < FILES_COUNT; i++) {
        files->paths[i] = paths[i] ? strdup(paths[i]) : NULL;
        if (paths[i] && !files->paths[i]) {
            tls_files_free(files);
            return error_errno(err, ENOMEM, "TLS files");
        }
    }
    files->tls = (struct rpc_tls){
        .ca_file = files->paths[0], .cert_file = files->paths[1], .key_file = files->paths[2]};
    *ret = files;
    return 0;
}

struct tls_files *tls_files_free(struct tls_files *files)
{
    if (!files)
        return NULL;
    for (size_t i = 0; i < FILES_COUNT; i++)
        free(files->paths[i]);
    pthread_mutex_destroy(&files->lock);
    free(files);
    return NULL;
}

const struct rpc_tls *tls_files_paths(const struct tls_files *files)
{
    return &files->tls;
}

bool tls_files_changed(struct tls_files *files)
{
    pthread_mutex_lock(&files->lock);
    bool changed = files->refused;
    for (size_t i = 0; i < FILES_COUNT; i++) {
        struct stamp now = stamp_of(files->paths[i]);

        changed |= !stamp_equal(&now, &files->stamps[i]);
        files->stamps[i] = now;
    }
    pthread_mutex_unlock(&files->lock);
    return changed;
}

void tls_files_refused(struct tls_files *files, const struct error *why)
{
    pthread_mutex_lock(&files->lock);
    bool said = files->refused && strncmp(files->why, error_text(why), sizeof(files->why) - 1) == 0;
    files->refused = true;
    snprintf(files->why, sizeof(files->why), "%s", error_text(why));
    pthread_mutex_unlock(&files->lock);
    if (!said)
        log_warning("new TLS files are not taken, those from before stay in use: %s", error_text(why));
}

void tls_files_taken(struct tls_files *files)
{
    pthread_mutex_lock(&files->lock);
    files->refused = false;
    pthread_mutex_unlock(&files->lock);
}
