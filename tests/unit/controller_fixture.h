/*
 * Three storage servers (controller_peer.h) and two controllers over them, for the controller's tests.
 */
#pragma once

#include "controller/controller.h"
#include "tests/unit/controller_peer.h"

#define SERVERS 3
#define MIB_BYTES UINT64_C(1048576)
#define OLD_ID_1 "s1.00000000000000aa"
#define OLD_ID_2 "s2.00000000000000aa"
#define OLD_ID_3 "s3.00000000000000aa"

struct fixture {
    char dir[32];
    struct peer peers[SERVERS];
    struct server_config configs[SERVERS];
    struct server_list list;
    struct controller a, b;
};

int fixture_setup(void **state);
int fixture_teardown(void **state);

/* The same servers, with one of them declared gone: what an operator's restart of controller A does. */
void fixture_declare_gone(struct fixture *fixture, size_t index);

/* A deadline that only a call that hangs reaches. */
uint64_t fixture_soon(void);

/* Calls with what most tests do not care for; results are freed. */
int fixture_create(struct controller *controller, const char *name, uint64_t size_bytes, const char *fs_type,
                   char ret_id[ID_VOLUME_MAX + 1], struct error *err);
int fixture_find(struct controller *controller, const char *id, struct error *err);
int fixture_publish(struct controller *controller, const char *id, const char *node_id, struct error *err);

/* What the servers hold. id NULL: no claim anywhere. */
size_t fixture_count_volumes(struct fixture *fixture);
void fixture_expect_claims(struct fixture *fixture, const char *name, const char *id);
