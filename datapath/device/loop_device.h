/*
 * The loop device over the FUSE file: direct I/O, the volume's block size. Blocking: for offload threads,
 * while the loop thread serves the file. Only devices whose backing file is ours are ever touched.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

#define LOOP_DEVICE_PATH_MAX 32

/* The loop device whose backing file is `file`; E_NOT_FOUND when there is none. */
int loop_device_find(const char *file, char ret_path[LOOP_DEVICE_PATH_MAX], struct error *err);

/* A new one. An error when direct I/O does not stick: nothing is left behind then. */
int loop_device_create(const char *file, uint32_t block_size_bytes, bool read_only,
                       char ret_path[LOOP_DEVICE_PATH_MAX], struct error *err);

/* Have it look at its file's size again; an error when it is not size_bytes at least then. */
int loop_device_resize(const char *path, const char *file, uint64_t size_bytes, struct error *err);

/* Detach it. E_BUSY while someone holds it open (it then goes away with the last user). 0 also when it is
 * gone. */
int loop_device_clear(const char *path, const char *file, struct error *err);
