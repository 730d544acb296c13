/* Tests of the records: a round trip keeps all, and each member that is damaged is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/record.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/store/fence.h"

#define VOLUME "store-1.0123456789abcdef"

static struct volume_record full_volume(void)
{
    struct volume_record record = {
        .id = VOLUME,
        .name = "pvc-\xc3\xa4\"\\",
        .size_bytes = UINT64_C(1) << 40,
        .block_size_bytes = 512,
        .thick = true,
        .created_unix_s = 1795430400,
        .record_generation = 12,
        .epoch_last = 4,
        .content = VOLUME_FORMATTING,
        .formatting_epoch = 5,
        .formatting_generation = 1,
        .write_failed = true,
        .limits = {.iops = 1000, .bytes_per_s = UINT64_C(1) << 33, .burst_s = 3},
        .source_id = "store-1.s-0123456789abcdef",
        .parameters_count = 2,
    };
    struct attachment *attachment;

    record.parameters = calloc(2, sizeof(*record.parameters));
    record.parameters[0] = (struct volume_parameter){strdup("a"), strdup("1")};
    record.parameters[1] = (struct volume_parameter){strdup("fs"), strdup("xfs")};
    assert_int_equal(attach_add(&record, "node-a", ACCESS_MULTI_NODE_SINGLE_WRITER, false, &attachment, NULL),
                     E_OK);
    assert_int_equal(attach_grant(&record, "node-a", 5, 0, &attachment, NULL), E_OK);
    attachment->write_through = true;
    assert_int_equal(attach_add(&record, "node-b", ACCESS_MULTI_NODE_SINGLE_WRITER, true, &attachment, NULL),
                     E_OK);
    assert_int_equal(attach_remove_begin(&record, "node-b", 6, NULL), E_OK);
    return record;
}

static void volume_round_trip(void **state)
{
    struct volume_record record = full_volume(), copy = {0}, again = {0};
    _cleanup_json_ json_t *object = NULL, *second = NULL;

    (void)state;
    assert_int_equal(volume_record_to_json(&record, &object), 0);
    json_object_set_new(object, "of_a_later_build", json_integer(1)); /* ignored */
    assert_int_equal(volume_record_from_json(object, &again, NULL), E_OK);
    json_object_del(object, "of_a_later_build");
    assert_int_equal(volume_record_copy(&copy, &again), 0);
    assert_int_equal(volume_record_to_json(&copy, &second), 0);
    assert_true(json_equal(object, second));
    /* Not by JSON alone, which both directions might get wrong alike. */
    assert_memory_equal(copy.attachments, record.attachments, 2 * sizeof(*record.attachments));
    assert_string_equal(copy.name, record.name);
    assert_int_equal(copy.size_bytes, record.size_bytes);
    assert_int_equal(copy.block_size_bytes, 512);
    assert_int_equal(copy.content, VOLUME_FORMATTING);
    assert_int_equal(copy.formatting_epoch, 5);
    assert_int_equal(copy.epoch_last, 6);
    assert_int_equal(copy.record_generation, 12);
    assert_int_equal(copy.created_unix_s, record.created_unix_s);
    assert_true(copy.thick && copy.write_failed);
    assert_string_equal(copy.parameters[1].value, "xfs");
    assert_int_equal(copy.limits.iops, 1000);
    assert_int_equal(copy.limits.bytes_per_s, UINT64_C(1) << 33);
    assert_int_equal(copy.limits.burst_s, 3);
    assert_string_equal(copy.source_id, "store-1.s-0123456789abcdef");
    volume_record_done(&record);
    volume_record_done(&copy);
    volume_record_done(&again);
}

/* A change to the JSON of full_volume(), and the member that the refusal must name. value NULL: removed. */
struct damage {
    const char *member, *value;
};

static void check_damage(json_t *good, json_t *at, const struct damage *damage)
{
    struct volume_record record = {0};
    struct error err = {0};
    json_t *kept = json_incref(json_object_get(at, damage->member));
    int r;

    if (damage->value)
        json_object_set_new(at, damage->member, json_loads(damage->value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(at, damage->member);
    r = volume_record_from_json(good, &record, &err);
    if (r != E_CORRUPT || !strstr(error_text(&err), damage->member))
        fail_msg("%s = %s: %s, %s", damage->member, damage->value ? damage->value : "(gone)", error_name(r),
                 error_text(&err));
    assert_null(record.attachments);
    json_object_set_new(at, damage->member, kept);
    error_done(&err);
}

static void volume_damaged(void **state)
{
    static const struct damage damages[] = {
        {"id", NULL},
        {"id", "1"},
        {"id", "\"../../etc/passwd\""},
        {"id", "\"store-1.0123456789ABCDEF\""},
        {"id", "\"\""},
        {"name", NULL},
        {"name", "\"\""},
        {"name", "[]"},
        {"size_bytes", NULL},
        {"size_bytes", "0"},
        {"size_bytes", "-512"},
        {"limits", "7"},
        {"source_id", "\"../x\""},
        {"size_bytes", "513"},
        {"size_bytes", "1e12"},
        {"block_size_bytes", NULL},
        {"block_size_bytes", "0"},
        {"block_size_bytes", "1024"},
        {"block_size_bytes", "4294967808"},
        {"thick", NULL},
        {"thick", "1"},
        {"created_unix_s", NULL},
        {"created_unix_s", "\"now\""},
        {"record_generation", NULL},
        {"record_generation", "-1"},
        {"epoch_last", NULL},
        {"epoch_last", "5"}, /* below an attachment's */
        {"content", NULL},
        {"content", "\"full\""},
        {"formatting_epoch", NULL},
        {"formatting_epoch", "7"},
        {"formatting_epoch", "0"},
        {"formatting_generation", NULL},
        {"write_failed", NULL},
        {"write_failed", "\"no\""},
        {"parameters", NULL},
        {"parameters", "[]"},
        {"parameters", "{\"a\": 1}"},
        {"attachments", NULL},
        {"attachments", "{}"},
        {"attachments", "[1]"},
    };
    struct volume_record record = full_volume();
    _cleanup_json_ json_t *object = NULL;
    _cleanup_free_ char *long_name = str_format("\"%0*d\"", ID_VOLUME_NAME_MAX + 1, 0);

    (void)state;
    assert_int_equal(volume_record_to_json(&record, &object), 0);
    for (size_t i = 0; i < ARRAY_SIZE(damages); i++)
        check_damage(object, object, &damages[i]);
    check_damage(object, object, &(struct damage){"name", long_name});
    volume_record_done(&record);
}

static void attachment_damaged(void **state)
{
    static const struct damage damages[] = {
        {"node", NULL},
        {"node", "\"\""},
        {"node", "\"a/b\""},
        {"epoch", NULL},
        {"epoch", "0"},
        {"epoch", "7"},
        {"access_mode", NULL},
        {"access_mode", "\"UNKNOWN\""},
        {"access_mode", "\"EXCLUSIVE\""},
        {"access_mode", "1"},
        {"readonly", NULL},
        {"removing", NULL},
        {"generation", NULL},
        {"generation", "-1"},
        {"secret", NULL},
        {"secret", "\"\""},
        {"secret", "\"0123456789abcdef0123456789abcdeg\""},
        {"secret", "\"0123456789abcdef0123456789abcdef0\""},
        {"generation_secret", NULL},
        {"generation_secret", "\"\""},
    };
    struct volume_record record = full_volume();
    _cleanup_json_ json_t *object = NULL;
    json_t *first;

    (void)state;
    assert_int_equal(volume_record_to_json(&record, &object), 0);
    first = json_array_get(json_object_get(object, "attachments"), 0);
    for (size_t i = 0; i < ARRAY_SIZE(damages); i++)
        check_damage(object, first, &damages[i]);
    /* Twice the same node, or the same epoch; a generation's secret without the generation. */
    check_damage(object, first, &(struct damage){"epoch", "6"});
    json_object_set_new(first, "generation", json_integer(0));
    check_damage(object, first,
                 &(struct damage){"generation_secret", "\"0123456789abcdef0123456789abcdef\""});
    json_object_set_new(first, "generation", json_integer(1));
    json_object_set_new(first, "node", json_string("node-b"));
    check_damage(object, object, &(struct damage){"write_failed", "0"});
    assert_int_equal(volume_record_from_json(object, &(struct volume_record){0}, NULL), E_CORRUPT);
    volume_record_done(&record);
}

static void too_many(void **state)
{
    struct volume_record record = full_volume();
    _cleanup_json_ json_t *object = NULL;
    json_t *attachments, *parameters;
    char key[16];

    (void)state;
    assert_int_equal(volume_record_to_json(&record, &object), 0);
    attachments = json_object_get(object, "attachments");
    while (json_array_size(attachments) <= VOLUME_ATTACHMENTS_MAX)
        json_array_append(attachments, json_array_get(attachments, 0));
    assert_int_equal(volume_record_from_json(object, &(struct volume_record){0}, NULL), E_CORRUPT);
    json_array_clear(attachments);
    parameters = json_object_get(object, "parameters");
    for (int i = 0; json_object_size(parameters) <= VOLUME_PARAMETERS_MAX; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        json_object_set_new(parameters, key, json_string(""));
    }
    assert_int_equal(volume_record_from_json(object, &(struct volume_record){0}, NULL), E_CORRUPT);
    volume_record_done(&record);
}

static void node_round_trip(void **state)
{
    const char *const boots[] = {"00000000000000000000000000000001", "00000000000000000000000000000002"};
    struct node_record record = {.id = "node-a", .address = "[2001:db8::1]:7000"}, again = {0}, copy = {0};
    _cleanup_json_ json_t *object = NULL, *second = NULL;

    (void)state;
    assert_int_equal(fence_set(&record, "rack \"4\"", boots, 2, NULL), E_OK);
    assert_int_equal(node_record_to_json(&record, &object), 0);
    assert_int_equal(node_record_from_json(object, &again, NULL), E_OK);
    assert_int_equal(node_record_copy(&copy, &again), 0);
    assert_int_equal(node_record_to_json(&copy, &second), 0);
    assert_true(json_equal(object, second));
    assert_true(copy.fenced);
    assert_string_equal(copy.fenced_boot_ids[1], boots[1]);
    assert_string_equal(copy.fence_reason, "rack \"4\"");
    node_record_done(&record);
    node_record_done(&again);
    node_record_done(&copy);
}

static void node_damaged(void **state)
{
    static const struct damage damages[] = {
        {"id", NULL},
        {"id", "\"A\""},
        {"boot_id", NULL},
        {"boot_id", "\"1\""},
        {"address", NULL},
        {"address", "0"},
        {"fenced", NULL},
        {"fenced", "0"},
        {"fence_reason", NULL},
        {"fenced_boot_ids", NULL},
        {"fenced_boot_ids", "{}"},
        {"fenced_boot_ids", "[\"x\"]"},
        {"fenced_boot_ids", "[1]"},
    };
    struct node_record record = {.id = "node-a"};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
        struct node_record again = {0};
        struct error err = {0};
        json_t *object;

        assert_int_equal(node_record_to_json(&record, &object), 0);
        if (damages[i].value)
            json_object_set_new(object, damages[i].member,
                                json_loads(damages[i].value, JSON_DECODE_ANY, NULL));
        else
            json_object_del(object, damages[i].member);
        assert_int_equal(node_record_from_json(object, &again, &err), E_CORRUPT);
        assert_non_null(strstr(error_text(&err), damages[i].member));
        error_done(&err);
        json_decref(object);
    }
}

static struct snapshot_record full_snapshot(void)
{
    return (struct snapshot_record){
        .id = "store-1.s-0123456789abcdef",
        .name = "before \xc3\xa4\"\\",
        .source_volume_id = VOLUME,
        .group_id = "g-0123456789abcdef",
        .size_bytes = UINT64_C(1) << 40,
        .block_size_bytes = 512,
        .created_unix_ns = 1795430400123456789,
        .sequence = 7,
        .held = true,
        .provisional = true,
    };
}

/* One that is lost is of a format of its own, and only that: an older build would look for its data. */
static void snapshot_round_trip(void **state)
{
    (void)state;
    for (int lost = 0; lost < 2; lost++) {
        struct snapshot_record record = full_snapshot(), again;
        json_t *object, *second;

        if (lost)
            snprintf(record.lost, sizeof(record.lost), "%0*d", SNAPSHOT_LOST_MAX - 1, 0);
        assert_int_equal(snapshot_record_format(&record), lost ? 2 : 1);
        assert_int_equal(snapshot_record_to_json(&record, &object), 0);
        assert_int_equal(snapshot_record_from_json(object, &again, NULL), E_OK);
        assert_string_equal(again.lost, record.lost);
        assert_int_equal(snapshot_record_to_json(&again, &second), 0);
        assert_true(json_equal(object, second));
        assert_int_equal(!json_object_get(object, "lost"), !lost);
        json_decref(object);
        json_decref(second);
    }
}

static void snapshot_damaged(void **state)
{
    static const struct {
        const char *member, *value; /* NULL: left out */
    } damages[] = {
        {"id", "\"x\""},       {"name", "7"},       {"source_volume_id", NULL},
        {"group_id", "\"g\""}, {"size_bytes", "0"}, {"block_size_bytes", "1024"},
        {"sequence", NULL},    {"held", "1"},       {"lost", "\"\""},
        {"lost", "true"},      {"lost", NULL},
    };
    char words[SNAPSHOT_LOST_MAX + 1];

    (void)state;
    memset(words, 'x', sizeof(words));
    words[sizeof(words) - 1] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
        struct snapshot_record record = full_snapshot(), again;
        struct error err = {0};
        json_t *object;

        assert_int_equal(snapshot_record_to_json(&record, &object), 0);
        if (damages[i].value)
            json_object_set_new(object, damages[i].member,
                                json_loads(damages[i].value, JSON_DECODE_ANY, NULL));
        else if (str_equal(damages[i].member, "lost"))
            json_object_set_new(object, "lost", json_string(words)); /* too long */
        else
            json_object_del(object, damages[i].member);
        assert_int_equal(snapshot_record_from_json(object, &again, &err), E_CORRUPT);
        assert_non_null(strstr(error_text(&err), damages[i].member));
        error_done(&err);
        json_decref(object);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(volume_round_trip),   cmocka_unit_test(volume_damaged),
        cmocka_unit_test(attachment_damaged),  cmocka_unit_test(too_many),
        cmocka_unit_test(node_round_trip),     cmocka_unit_test(node_damaged),
        cmocka_unit_test(snapshot_round_trip), cmocka_unit_test(snapshot_damaged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
