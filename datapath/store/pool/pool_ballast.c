/*
 * Space kept for records: a file of its own in the pool that volumes' data cannot take. A record that does
 * not fit gets a slice of it, so that a pool filled to its last block still detaches, fences and deletes; the
 * slices are taken back as soon as there is space. Blocks; any thread, one commit at a time once space is
 * short.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "datapath/store/pool/pool_internal.h"

#define BALLAST_FILE "ballast"
#define BALLAST_BYTES (INT64_C(16) << 20)
#define SLICE_BYTES (INT64_C(1) << 20) /* what is lent at once: many times what a record takes */
#define PIECE_BYTES INT64_C(16384)     /* what is taken back at once, at least */

/* Take back what there is of the ballast's space, in pieces: fallocate() gives all it is asked for or
 * nothing. False while some is missing. */
static bool ballast_fill_locked(struct backend *backend)
{
    int64_t piece = BALLAST_BYTES;

    while (backend->ballast_fd >= 0 && backend->ballast_bytes < BALLAST_BYTES && piece >= PIECE_BYTES) {
        int64_t length = MIN(piece, BALLAST_BYTES - backend->ballast_bytes);

        if (fallocate(backend->ballast_fd, 0, backend->ballast_bytes, length) == 0)
            backend->ballast_bytes += length;
        else
            piece /= 2;
    }
    return backend->ballast_bytes == BALLAST_BYTES;
}

void pool_ballast_open(struct backend *backend)
{
    struct stat status;

    backend->ballast_fd =
        openat(backend->dir_fd, BALLAST_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (backend->ballast_fd >= 0 && fstat(backend->ballast_fd, &status) == 0)
        backend->ballast_bytes = MIN((int64_t)status.st_size, (int64_t)status.st_blocks * 512);
    pthread_mutex_lock(&backend->ballast_lock);
    atomic_store(&backend->ballast_short, !ballast_fill_locked(backend));
    if (backend->ballast_bytes < BALLAST_BYTES)
        log_warning("pool %s: %" PRId64 " of %" PRId64 " bytes are kept for records: it is full",
                    backend->path, backend->ballast_bytes, BALLAST_BYTES);
    pthread_mutex_unlock(&backend->ballast_lock);
}

/* False when nothing is left. */
static bool ballast_cut_locked(struct backend *backend)
{
    int64_t left = backend->ballast_bytes > SLICE_BYTES ? backend->ballast_bytes - SLICE_BYTES : 0;

    if (backend->ballast_fd < 0 || backend->ballast_bytes == 0 || ftruncate(backend->ballast_fd, left) < 0)
        return false;
    backend->ballast_bytes = left;
    return true;
}

int pool_with_ballast(struct backend *backend,
                      int (*commit)(struct backend *backend, void *context, struct error *err), void *context,
                      struct error *err)
{
    int r;

    if (!atomic_load(&backend->ballast_short)) {
        r = commit(backend, context, err);
        if (r != E_NO_SPACE)
            return r;
    }
    pthread_mutex_lock(&backend->ballast_lock);
    do
        r = commit(backend, context, err);
    while (r == E_NO_SPACE && ballast_cut_locked(backend));
    atomic_store(&backend->ballast_short, !ballast_fill_locked(backend));
    pthread_mutex_unlock(&backend->ballast_lock);
    if (r == E_OK && err)
        error_done(err); /* the words of the attempts that found no space */
    return r;
}
