/*
 * For the tests of snapshots and copies: a volume on a real XFS (store_fixture.h), with commands on a loop
 * (store_io.h).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/size.h"
#include "datapath/store/snapshot.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/store_io.h"

#define RANGE (64 * KIB) /* what a change waits for */

struct bench {
    struct fixture *fixture;
    struct store *store;
    struct volume *volume; /* number 1 */
    struct image *image;
    struct test_loop loop;
};

/* On an empty pool, with blocks of 4096 bytes. Skips the test when there is no XFS. */
void bench_open(struct bench *bench, void **state, uint64_t size_bytes);
void bench_close(struct bench *bench);
void bench_reopen(struct bench *bench);
void bench_write(struct bench *bench, uint64_t offset, uint64_t length, int byte);

struct snapshot_record bench_snapshot_spec(unsigned n);
struct snapshot *bench_snapshot(struct bench *bench, unsigned n); /* of the volume; a reference */
void bench_wait_ready(struct snapshot *snapshot);

/* The bytes of <pool>/<kind>/<id>/data, past the page cache; free() them. */
char *bench_data(const struct fixture *fixture, const char *kind, const char *id, size_t *ret_size);
