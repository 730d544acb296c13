/* The servers and controllers of the controller's tests. */
#include "tests/unit/controller_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/strings.h"
#include "common/time.h"

static const char *const server_ids[SERVERS] = {"s1", "s2", "s3"};

static void open_controller(struct fixture *fixture, struct controller *controller)
{
    assert_int_equal(operations_new(&controller->operations), E_OK);
    assert_int_equal(storage_new(&controller->storage, &fixture->list, NULL, NULL), E_OK);
}

static void close_controller(struct controller *controller)
{
    storage_free(controller->storage);
    operations_free(controller->operations);
}

int fixture_setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));

    str_copy(fixture->dir, sizeof(fixture->dir), "/tmp/mooring-ctl-XXXXXX");
    assert_non_null(mkdtemp(fixture->dir));
    for (size_t i = 0; i < SERVERS; i++) {
        peer_start(&fixture->peers[i], server_ids[i], fixture->dir);
        fixture->configs[i] = (struct server_config){.id = server_ids[i],
                                                     .address = fixture->peers[i].endpoint,
                                                     .pool_uuid = "6f1f9f36-5f0e-4d0c-9a3b-000000000001"};
    }
    fixture->list = (struct server_list){fixture->configs, SERVERS};
    open_controller(fixture, &fixture->a);
    open_controller(fixture, &fixture->b);
    *state = fixture;
    return 0;
}

int fixture_teardown(void **state)
{
    struct fixture *fixture = *state;

    close_controller(&fixture->a);
    close_controller(&fixture->b);
    for (size_t i = 0; i < SERVERS; i++)
        peer_stop(&fixture->peers[i]);
    rmdir(fixture->dir);
    free(fixture);
    return 0;
}

/* The same servers, with one of them declared gone: what an operator's restart of the controller does. */
void fixture_declare_gone(struct fixture *fixture, size_t index)
{
    close_controller(&fixture->a);
    fixture->configs[index].gone = true;
    open_controller(fixture, &fixture->a);
}

/* ---- calls ---- */

uint64_t fixture_soon(void)
{
    return time_now_ms() + 20000;
}

int fixture_create(struct controller *controller, const char *name, uint64_t size_bytes, const char *fs_type,
                   char ret_id[ID_VOLUME_MAX + 1], struct error *err)
{
    struct create_request request = {.name = name,
                                     .range = {.required_bytes = size_bytes, .limit_bytes = size_bytes}};
    Mooring__Storage__V1__Volume *volume = NULL;
    int r;

    request.parameters.text[PARAMETER_FS_TYPE] = fs_type;
    r = volume_create(controller, &request, fixture_soon(), &volume, err);
    if (r != E_OK)
        return r;
    str_copy(ret_id, ID_VOLUME_MAX + 1, volume->volume_id);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return E_OK;
}

int fixture_find(struct controller *controller, const char *id, struct error *err)
{
    Mooring__Storage__V1__Volume *volume = NULL;
    int r = volume_find(controller, id, fixture_soon(), &volume, err);

    if (r == E_OK)
        protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}

int fixture_publish(struct controller *controller, const char *id, const char *node_id, struct error *err)
{
    struct capability capability = {.block = true, .mode = 1, .fs_type = ""};
    Mooring__Storage__V1__AttachVolumeResponse *response = NULL;
    struct storage_server *server;
    int r =
        publish_volume(controller, id, node_id, &capability, false, fixture_soon(), &response, &server, err);

    if (r == E_OK)
        protobuf_c_message_free_unpacked(&response->base, NULL);
    return r;
}

size_t fixture_count_volumes(struct fixture *fixture)
{
    size_t count = 0;

    for (size_t i = 0; i < SERVERS; i++)
        count += peer_count_volumes(&fixture->peers[i]);
    return count;
}

void fixture_expect_claims(struct fixture *fixture, const char *name, const char *id)
{
    for (size_t i = 0; i < SERVERS; i++) {
        const struct peer_name *claim = peer_name(&fixture->peers[i], name);

        if (id) {
            assert_non_null(claim);
            assert_string_equal(claim->volume_id, id);
        } else {
            assert_null(claim);
        }
    }
}
