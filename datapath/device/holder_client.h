/*
 * The device's side of holder.h. Blocking, short: for the start and for offload threads, never on the I/O
 * path. One caller at a time.
 */
#pragma once

#include "common/error.h"

/* Connect to <dir>/holder.sock, waiting up to timeout_ms while the holder answers BUSY: the predecessor has
 * not ended yet. E_BUSY, naming its pid, after that; -errno when there is no holder. */
int holder_client_connect(int dir_fd, unsigned timeout_ms, int *ret_connection, struct error *err);

/* Hand the holder a copy of fd. */
int holder_client_put(int connection, const char *name, int fd, struct error *err);

/* A copy of the descriptor of that name (close-on-exec); E_NOT_FOUND when the holder has none. */
int holder_client_get(int connection, const char *name, int *ret_fd, struct error *err);

/* The holder closes everything and exits. */
int holder_client_end(int connection, struct error *err);
