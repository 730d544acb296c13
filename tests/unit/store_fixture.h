/*
 * For the tests of the store: a real XFS, in an image file mounted by a loop device within a temporary
 * directory, with an empty pool on it. Where that cannot be made (not root, no loop device, no mkfs.xfs),
 * fixture_ready() skips the test that asks, by name.
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "datapath/store/store.h"

#define FIXTURE_SERVER "store-1"

struct fixture {
    char dir[64];
    char image[96];
    char pool[96];
    char uuid[37];
    char why_not[512]; /* "" when all is there */
    struct store_options options;
};

/* cmocka group setup and teardown: *state becomes a struct fixture. */
int fixture_setup(void **state);
int fixture_teardown(void **state);

/* The fixture; skips the running test when there is no XFS. */
struct fixture *fixture_ready(void **state);

/* Open the store, or fail the test with the error's words. */
struct store *fixture_open(struct fixture *fixture);

/* Remove all volumes, nodes and names: the pool as new. No store may be open. */
void fixture_empty(struct fixture *fixture);

/* Volume id number n of FIXTURE_SERVER. */
const char *fixture_id(unsigned n, char ret_id[ID_VOLUME_MAX + 1]);

/* A thin 1 MiB volume's spec, with static strings. */
struct volume_record fixture_spec(unsigned n);

/* All paths in the pool, sorted, one a line; directories end with "/". free() it. */
char *fixture_listing(const struct fixture *fixture);

void fixture_assert_listing(const struct fixture *fixture, const char *expected);

/* Create the volume, or fail the test with the error's words; a reference. */
struct volume *fixture_create(struct store *store, const struct volume_record *spec);

/* Register the node, so that it may attach. */
void fixture_register(struct store *store, const char *node_id);
uint64_t fixture_generation(struct volume *volume); /* of its record */

/* All that the pool holds, as text, as a new process finds it. No store may be open; free() it. */
char *fixture_state(struct fixture *fixture);
