/*
 * What may change of a volume while it is in use, on a real XFS: its size and its limits; and the kinds of
 * names. Each is kept over a reopening.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"
#include "datapath/store/store_internal.h"
#include "tests/unit/store_fixture.h"

#define MIB_BYTES (UINT64_C(1) << 20)

/* ---- size ---- */

static uint64_t promised(struct store *store)
{
    struct store_capacity capacity;

    assert_int_equal(store_capacity(store, &capacity, NULL), E_OK);
    return capacity.promised_bytes;
}

static off_t data_size(const struct fixture *fixture, const char *id)
{
    char path[256];
    struct stat status;

    snprintf(path, sizeof(path), "%s/volumes/%s/data", fixture->pool, id);
    assert_int_equal(stat(path, &status), 0);
    return status.st_size;
}

static void grows_in_use(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1);
    struct image *image;
    struct volume *volume;
    struct store *store;
    uint64_t length = 0;
    bool mapped;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume = fixture_create(store, &spec);
    assert_int_equal(volume_image(volume, &image, NULL), E_OK);
    assert_int_equal(image_extent(image, MIB_BYTES, 4096, &mapped, &length), E_OUT_OF_RANGE);
    assert_int_equal(volume_expand(volume, 3 * MIB_BYTES, 1, NULL), E_OK);
    assert_int_equal(image_extent(image, 2 * MIB_BYTES, 4096, &mapped, &length), 0);
    assert_int_equal(volume_size_bytes(volume), 3 * MIB_BYTES);
    assert_int_equal(promised(store), 3 * MIB_BYTES);
    assert_int_equal(fixture_generation(volume), 2);
    assert_int_equal(volume_expand(volume, 3 * MIB_BYTES, 1, NULL), E_OK); /* a repeat */
    assert_int_equal(volume_expand(volume, 2 * MIB_BYTES, 99, NULL), E_OK);
    assert_int_equal(fixture_generation(volume), 2);
    volume_unref(volume);
    store_close(store);
    store = fixture_open(fixture);
    volume = store_volume_find(store, spec.id);
    assert_int_equal(volume_size_bytes(volume), 3 * MIB_BYTES);
    assert_int_equal(promised(store), 3 * MIB_BYTES);
    volume_unref(volume);
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_OK);
    assert_int_equal(promised(store), 0);
    store_close(store);
}

static void refuses_to_grow(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1);
    struct store_capacity capacity;
    struct volume *volume;
    struct store *store;

    fixture_empty(fixture);
    fixture->options.overcommit = false;
    store = fixture_open(fixture);
    fixture->options.overcommit = true;
    spec.thick = true;
    volume = fixture_create(store, &spec);
    assert_int_equal(volume_expand(volume, 3 * MIB_BYTES, 2, NULL), E_STALE);
    assert_int_equal(volume_expand(volume, 3 * MIB_BYTES + 512, 1, NULL), E_OUT_OF_RANGE);
    assert_int_equal(volume_expand(volume, UINT64_MAX - 4095, 1, NULL), E_OUT_OF_RANGE);
    assert_int_equal(store_capacity(store, &capacity, NULL), E_OK);
    assert_int_equal(volume_expand(volume, MIB_BYTES + capacity.free_bytes / 4096 * 4096 + 4096, 1, NULL),
                     E_NO_SPACE);
    assert_int_equal(promised(store), MIB_BYTES);
    assert_int_equal(data_size(fixture, spec.id), MIB_BYTES);
    assert_int_equal(volume_size_bytes(volume), MIB_BYTES);
    assert_int_equal(volume_expand(volume, 2 * MIB_BYTES, 1, NULL), E_OK);
    assert_int_equal(store_volume_delete(store, spec.id, NULL), E_OK);
    assert_int_equal(volume_expand(volume, 3 * MIB_BYTES, 2, NULL), E_NOT_FOUND);
    volume_unref(volume);
    store_close(store);
}

/* ---- limits ---- */

static void limits_are_kept(void **state)
{
    const struct volume_limits limits = {.iops = 500, .bytes_per_s = UINT64_C(1) << 40, .burst_s = 7},
                               none = {0};
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1), record;
    struct volume *volume;
    struct store *store;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume = fixture_create(store, &spec);
    assert_int_equal(volume_set_limits(volume, &none, 99, NULL), E_OK); /* changes nothing */
    assert_int_equal(volume_set_limits(volume, &limits, 2, NULL), E_STALE);
    assert_int_equal(volume_set_limits(volume, &limits, 1, NULL), E_OK);
    assert_int_equal(volume_set_limits(volume, &limits, 1, NULL), E_OK);
    assert_int_equal(fixture_generation(volume), 2);
    volume_unref(volume);
    store_close(store);
    store = fixture_open(fixture);
    volume = store_volume_find(store, spec.id);
    assert_int_equal(volume_snapshot_record(volume, &record), 0);
    assert_int_equal(record.limits.iops, limits.iops);
    assert_int_equal(record.limits.bytes_per_s, limits.bytes_per_s);
    assert_int_equal(record.limits.burst_s, limits.burst_s);
    volume_record_done(&record);
    volume_unref(volume);
    store_close(store);
}

static int attach_through(struct volume_record *record, void *context, struct error *err)
{
    const bool *through = context;

    if (record->attachments_count == 0) {
        record->attachments = calloc(1, sizeof(*record->attachments));
        assert_non_null(record->attachments);
        record->attachments_count = 1;
        record->epoch_last = 1;
    }
    record->attachments[0] = (struct attachment){.node_id = "n1",
                                                 .epoch = 1,
                                                 .access_mode = ACCESS_SINGLE_NODE_WRITER,
                                                 .generation = 1,
                                                 .write_through = *through,
                                                 .secret = "00112233445566778899aabbccddeeff",
                                                 .generation_secret = "00112233445566778899aabbccddeeff"};
    (void)err;
    return E_OK;
}

static int format_of(const struct fixture *fixture, const char *id)
{
    _cleanup_json_ json_t *object = NULL;
    char path[256];

    snprintf(path, sizeof(path), "%s/volumes/%s/volume.json", fixture->pool, id);
    object = json_load_file(path, 0, NULL);
    assert_non_null(object);
    return (int)json_integer_value(json_object_get(object, "format"));
}

/* So that an older build reads all that it can read whole, and nothing that it would cut. */
static void a_newer_format_only_where_it_is_needed(void **state)
{
    const struct volume_limits limits = {.iops = 500}, none = {0};
    struct fixture *fixture = fixture_ready(state);
    struct volume_record spec = fixture_spec(1);
    struct volume *volume;
    struct store *store;
    bool through = true;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    volume = fixture_create(store, &spec);
    assert_int_equal(format_of(fixture, spec.id), 1);
    assert_int_equal(volume_set_limits(volume, &limits, 1, NULL), E_OK);
    assert_int_equal(format_of(fixture, spec.id), 2);
    assert_int_equal(volume_set_limits(volume, &none, 2, NULL), E_OK);
    assert_int_equal(format_of(fixture, spec.id), 1);
    assert_int_equal(volume_update(volume, attach_through, &through, NULL), E_OK);
    assert_int_equal(format_of(fixture, spec.id), 2);
    through = false; /* the next generation's, of a device that replays */
    assert_int_equal(volume_update(volume, attach_through, &through, NULL), E_OK);
    assert_int_equal(format_of(fixture, spec.id), 1);
    volume_unref(volume);
    store_close(store);
}

/* ---- names ---- */

static void names_have_kinds(void **state)
{
    static const char *const holders[] = {
        [NAME_VOLUME] = FIXTURE_SERVER ".0000000000000001",
        [NAME_SNAPSHOT] = FIXTURE_SERVER ".s-0000000000000001",
        [NAME_GROUP] = "g-0000000000000001",
    };
    struct fixture *fixture = fixture_ready(state);
    char holder[STORE_HOLDER_MAX + 1], name[ID_VOLUME_NAME_MAX + 1];
    struct store *store;

    fixture_empty(fixture);
    store = fixture_open(fixture);
    for (enum name_kind kind = NAME_VOLUME; kind <= NAME_GROUP; kind++) {
        enum name_kind other = kind == NAME_VOLUME ? NAME_GROUP : NAME_VOLUME;

        assert_false(store_name_find(store, kind, "x", holder));
        assert_int_equal(store_name_claim(store, kind, "x", holders[kind], holder, NULL), E_OK);
        assert_string_equal(holder, holders[kind]);
        assert_int_equal(store_name_claim(store, kind, "y", holders[other], holder, NULL),
                         E_INVALID_ARGUMENT);
    }
    store_close(store);
    store = fixture_open(fixture);
    for (enum name_kind kind = NAME_VOLUME; kind <= NAME_GROUP; kind++) {
        assert_true(store_name_of(store, holders[kind], name));
        assert_string_equal(name, "x");
        assert_true(store_name_find(store, kind, "x", holder));
        assert_string_equal(holder, holders[kind]);
        assert_int_equal(store_name_release(store, kind, "x", holders[kind], NULL), E_OK);
        assert_false(store_name_find(store, kind, "x", holder));
        for (enum name_kind later = kind + 1; later <= NAME_GROUP; later++)
            assert_true(store_name_find(store, later, "x", holder));
    }
    store_close(store);
}

/* As builds wrote it that knew volumes' names only. */
static void an_old_claim_stands(void **state)
{
    struct fixture *fixture = fixture_ready(state);
    const char *id = FIXTURE_SERVER ".0000000000000001";
    char path[256], holder[STORE_HOLDER_MAX + 1];
    struct store *store;
    FILE *file;

    fixture_empty(fixture);
    snprintf(path, sizeof(path), "%s/names/%s.json", fixture->pool, /* SHA-256 of "x" */
             "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881");
    file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "{\"format\": 1, \"name\": \"x\", \"volume_id\": \"%s\"}\n", id);
    fclose(file);
    store = fixture_open(fixture);
    assert_true(store_name_find(store, NAME_VOLUME, "x", holder));
    assert_string_equal(holder, id);
    assert_int_equal(store_name_release(store, NAME_VOLUME, "x", id, NULL), E_OK);
    assert_int_equal(access(path, F_OK), -1);
    store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_in_use),     cmocka_unit_test(refuses_to_grow),
        cmocka_unit_test(limits_are_kept),  cmocka_unit_test(a_newer_format_only_where_it_is_needed),
        cmocka_unit_test(names_have_kinds), cmocka_unit_test(an_old_claim_stands),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
