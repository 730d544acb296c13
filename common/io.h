/*
 * Whole reads and writes, durable replacement of small files, and directories. All block; none is for an
 * event loop. Errors: a negative errno in the code, the path in the text; E_NO_SPACE where a change finds the
 * file system full; E_NOT_FOUND only where it says so.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

/* Exactly length bytes, through EINTR and short transfers. 0, or -errno (-EIO at an early end of file). */
int io_read_full(int fd, void *buffer, size_t length);
int io_write_full(int fd, const void *buffer, size_t length);

/* The whole file as a NUL-terminated string (the NUL not counted in ret_length). E_NOT_FOUND when it is not
 * there; E_OUT_OF_RANGE when it is larger than limit_bytes. ret_length may be NULL. The caller frees. */
int io_read_file(const char *path, size_t limit_bytes, char **ret_text, size_t *ret_length,
                 struct error *err);

/* The same for dir_fd/name; dir_fd may be AT_FDCWD. */
int io_read_file_at(int dir_fd, const char *name, size_t limit_bytes, char **ret_text, size_t *ret_length,
                    struct error *err);

/* The path of dir_fd/name for an error's text, cut to size: nothing is opened by it. */
void io_path(int dir_fd, const char *name, char *ret_path, size_t size);

/* Replace dir_fd/name with text, all or nothing: write `.name.tmp` beside it with mode, fsync, rename, fsync
 * dir. After a return of 0 the new content survives power loss; after anything else, the old or the new is
 * there. One writer at a time for a name: the caller's lock. */
int io_replace_file(int dir_fd, const char *name, const void *text, size_t length, mode_t mode,
                    struct error *err);

/* unlink + fsync of the directory. 0 also when it was not there. */
int io_remove_file(int dir_fd, const char *name, struct error *err);

/* fsync a directory by path or descriptor. */
int io_sync_dir(const char *path, struct error *err);

/* The directory of the socket in "unix:///path", mode 0755: /run is empty after a boot. Other endpoints:
 * nothing. */
int io_make_socket_dir(const char *endpoint, struct error *err);

/* mkdir -p with mode; what exists is left as it is. */
int io_make_dirs(const char *path, mode_t mode, struct error *err);

/* length bytes from getrandom(2). Never fails short; returns -errno when the kernel has none. */
int io_random(void *buffer, size_t length);
