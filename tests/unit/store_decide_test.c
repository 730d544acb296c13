/* Tests of the decisions: who may attach (also by random sequences against a model), format, and is fenced.
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/store/content.h"
#include "datapath/store/fence.h"

#define BOOT_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define BOOT_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define BOOT_C "cccccccccccccccccccccccccccccccc"

/* ---- attach ---- */

/* The flags of a row and a column: W writes, R is attached readonly. A capital Y: both at once may stand. */
struct kind {
    enum access_mode mode;
    bool readonly;
};

static const struct kind kinds[] = {
    {ACCESS_SINGLE_NODE_WRITER, false},        {ACCESS_SINGLE_NODE_READER_ONLY, true},
    {ACCESS_SINGLE_NODE_SINGLE_WRITER, false}, {ACCESS_SINGLE_NODE_MULTI_WRITER, false},
    {ACCESS_MULTI_NODE_READER_ONLY, false},    {ACCESS_MULTI_NODE_READER_ONLY, true},
    {ACCESS_MULTI_NODE_SINGLE_WRITER, false},  {ACCESS_MULTI_NODE_SINGLE_WRITER, true},
    {ACCESS_MULTI_NODE_MULTI_WRITER, false},   {ACCESS_MULTI_NODE_MULTI_WRITER, true},
};

static const char *const allowed[] = {
    /*            SW SR SS SM MR Mr W1 r1 WN rN */
    /* SW */ "..........", /* SR */ "..........", /* SS */ "..........", /* SM */ "..........",
    /* MR */ "....YY.Y.Y",
    /* Mr */ "....YY.Y.Y",
    /* W1 */ ".......Y.Y",
    /* r1 */ "....YYYYYY",
    /* WN */ ".......YYY",
    /* rN */ "....YYYYYY",
};

static void attach_matrix(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(kinds); j++) {
            struct volume_record record = {.id = "store-1.0000000000000001"};
            struct attachment *attachment;
            struct error err = {0};
            int r;

            assert_int_equal(attach_add(&record, "a", kinds[i].mode, kinds[i].readonly, &attachment, NULL),
                             0);
            r = attach_add(&record, "b", kinds[j].mode, kinds[j].readonly, &attachment, &err);
            if (r != (allowed[i][j] == 'Y' ? E_OK : E_PRECONDITION))
                fail_msg("kinds %zu and %zu: %s", i, j, error_name(r));
            if (r != E_OK)
                assert_non_null(strstr(error_text(&err), "node a"));
            assert_int_equal(record.attachments_count, r == E_OK ? 2 : 1);
            assert_int_equal(record.epoch_last, record.attachments_count);
            error_done(&err);
            volume_record_done(&record);
        }
    }
}

static void attach_repeats(void **state)
{
    struct volume_record record = {.id = "store-1.0000000000000001"};
    struct attachment *attachment, first;

    (void)state;
    assert_int_equal(attach_add(&record, "a", ACCESS_SINGLE_NODE_WRITER, false, &attachment, NULL), E_OK);
    first = *attachment;
    assert_int_equal(strlen(first.secret), ID_SECRET_LENGTH);
    assert_int_equal(attach_add(&record, "a", ACCESS_SINGLE_NODE_WRITER, false, &attachment, NULL), E_OK);
    assert_memory_equal(&first, attachment, sizeof(first));
    assert_int_equal(attach_add(&record, "a", ACCESS_SINGLE_NODE_WRITER, true, &attachment, NULL), E_EXISTS);
    assert_int_equal(attach_add(&record, "a", ACCESS_MULTI_NODE_MULTI_WRITER, false, &attachment, NULL),
                     E_EXISTS);
    assert_int_equal(attach_add(&record, "a", ACCESS_UNKNOWN, false, &attachment, NULL), E_INVALID_ARGUMENT);
    assert_int_equal(attach_add(&record, "a", (enum access_mode)8, false, &attachment, NULL),
                     E_INVALID_ARGUMENT);
    assert_int_equal(attach_add(&record, "../a", ACCESS_SINGLE_NODE_WRITER, false, &attachment, NULL),
                     E_INVALID_ARGUMENT);
    volume_record_done(&record);
}

static void attach_removal_counts_until_it_ends(void **state)
{
    struct volume_record record = {.id = "store-1.0000000000000001"};
    struct attachment *attachment;
    char secret[ID_SECRET_LENGTH + 1];

    (void)state;
    assert_int_equal(attach_remove_begin(&record, "a", 0, NULL), E_NOT_FOUND);
    assert_int_equal(attach_add(&record, "a", ACCESS_SINGLE_NODE_WRITER, false, &attachment, NULL), E_OK);
    memcpy(secret, attachment->secret, sizeof(secret));
    assert_int_equal(attach_remove_finish(&record, 1, NULL), E_PRECONDITION);
    assert_int_equal(attach_remove_begin(&record, "a", 2, NULL), E_STALE);
    assert_int_equal(attach_remove_begin(&record, "a", 1, NULL), E_OK);
    assert_int_equal(attach_remove_begin(&record, "a", 0, NULL), E_OK);
    assert_int_equal(attach_add(&record, "b", ACCESS_SINGLE_NODE_WRITER, false, &attachment, NULL),
                     E_PRECONDITION);
    assert_int_equal(attach_add(&record, "a", ACCESS_SINGLE_NODE_WRITER, false, &attachment, NULL), E_BUSY);
    assert_int_equal(attach_remove_finish(&record, 1, NULL), E_OK);
    assert_int_equal(attach_remove_finish(&record, 1, NULL), E_NOT_FOUND);
    assert_int_equal(attach_add(&record, "a", ACCESS_SINGLE_NODE_WRITER, false, &attachment, NULL), E_OK);
    assert_int_equal(attachment->epoch, 2);
    assert_string_not_equal(attachment->secret, secret);
    volume_record_done(&record);
}

static void attach_is_bounded(void **state)
{
    struct volume_record record = {.id = "store-1.0000000000000001"};
    struct attachment *attachment;
    char node[8];

    (void)state;
    for (int i = 0; i <= VOLUME_ATTACHMENTS_MAX; i++) {
        snprintf(node, sizeof(node), "n%d", i);
        assert_int_equal(attach_add(&record, node, ACCESS_MULTI_NODE_READER_ONLY, true, &attachment, NULL),
                         i < VOLUME_ATTACHMENTS_MAX ? E_OK : E_EXHAUSTED);
    }
    volume_record_done(&record);
}

static void attach_generations(void **state)
{
    struct volume_record record = {.id = "store-1.0000000000000001"};
    const struct attachment *admitted;
    struct attachment *attachment;
    char secret[ID_SECRET_LENGTH + 1];

    (void)state;
    assert_int_equal(attach_add(&record, "a", ACCESS_SINGLE_NODE_WRITER, false, &attachment, NULL), E_OK);
    assert_int_equal(attach_admits(&record, 1, 0, &admitted), E_OK);
    assert_int_equal(attach_admits(&record, 1, 1, &admitted), E_PERMISSION);
    assert_int_equal(attach_admits(&record, 2, 0, &admitted), E_PERMISSION);
    assert_int_equal(attach_grant(&record, "a", 1, 1, &attachment, NULL), E_STALE);
    assert_int_equal(attach_grant(&record, "b", 1, 0, &attachment, NULL), E_NOT_FOUND);
    assert_int_equal(attach_grant(&record, "a", 2, 0, &attachment, NULL), E_NOT_FOUND);
    assert_int_equal(attach_grant(&record, "a", 1, 0, &attachment, NULL), E_OK);
    assert_int_equal(attachment->generation, 1);
    memcpy(secret, attachment->generation_secret, sizeof(secret));
    assert_int_equal(attach_admits(&record, 1, 0, &admitted), E_PERMISSION);
    assert_int_equal(attach_admits(&record, 1, 1, &admitted), E_OK);
    assert_int_equal(attach_grant(&record, "a", 1, 0, &attachment, NULL), E_STALE);
    assert_int_equal(attach_grant(&record, "a", 1, 1, &attachment, NULL), E_OK);
    assert_string_not_equal(attachment->generation_secret, secret);
    assert_int_equal(attach_admits(&record, 1, 1, &admitted), E_PERMISSION);
    assert_true(attach_write_through(&record, attachment, 0));
    assert_false(attach_write_through(&record, attachment, 2));
    attachment->write_through = true;
    assert_true(attach_write_through(&record, attachment, 2));
    assert_int_equal(attach_grant(&record, "a", 1, 2, &attachment, NULL), E_OK);
    assert_false(attach_write_through(&record, attachment, 3));
    assert_int_equal(attach_remove_begin(&record, "a", 1, NULL), E_OK);
    assert_int_equal(attach_grant(&record, "a", 1, 3, &attachment, NULL), E_PRECONDITION);
    assert_int_equal(attach_admits(&record, 1, 3, &admitted), E_PERMISSION);
    volume_record_done(&record);
}

static void shared_writers(void **state)
{
    struct volume_record record = {.id = "store-1.0000000000000001"};
    struct attachment *attachment;

    (void)state;
    assert_false(volume_record_shared_writers(&record));
    assert_int_equal(attach_add(&record, "a", ACCESS_MULTI_NODE_SINGLE_WRITER, false, &attachment, NULL), 0);
    assert_int_equal(attach_add(&record, "b", ACCESS_MULTI_NODE_SINGLE_WRITER, true, &attachment, NULL), 0);
    assert_false(volume_record_shared_writers(&record));
    volume_record_done(&record);
    assert_int_equal(attach_add(&record, "a", ACCESS_MULTI_NODE_MULTI_WRITER, true, &attachment, NULL), 0);
    assert_false(volume_record_shared_writers(&record));
    assert_int_equal(attach_add(&record, "b", ACCESS_MULTI_NODE_MULTI_WRITER, false, &attachment, NULL), 0);
    assert_true(volume_record_shared_writers(&record));
    volume_record_done(&record);
}

/* ---- attach against a model ---- */

#define MODEL_NODES 4
#define MODEL_STEPS 4000

/* What must hold, said another way than attach.c says it: a table of who stands, and rules over all of it. */
struct model {
    struct {
        bool attached, removing;
        uint64_t epoch, generation;
    } nodes[MODEL_NODES];
    uint64_t epochs_given;
};

static void check_model(struct volume_record *record, const struct model *model, const char *where)
{
    size_t attached = 0, writers = 0, single = 0;

    for (size_t i = 0; i < MODEL_NODES; i++) {
        const char node[] = {(char)('a' + i), 0};
        const struct attachment *attachment = volume_record_attachment(record, node);
        const struct attachment *admitted;

        if (!!attachment != model->nodes[i].attached)
            fail_msg("%s: node %s", where, node);
        if (!attachment)
            continue;
        attached++;
        assert_int_equal(attachment->epoch, model->nodes[i].epoch);
        assert_int_equal(attachment->generation, model->nodes[i].generation);
        writers += attach_may_write(attachment->access_mode, attachment->readonly);
        single += attachment->access_mode != ACCESS_MULTI_NODE_READER_ONLY &&
                  attachment->access_mode != ACCESS_MULTI_NODE_MULTI_WRITER &&
                  attachment->access_mode != ACCESS_MULTI_NODE_SINGLE_WRITER;
        for (uint64_t generation = 0; generation <= attachment->generation + 1; generation++)
            assert_int_equal(attach_admits(record, attachment->epoch, generation, &admitted) == E_OK,
                             !model->nodes[i].removing && generation == model->nodes[i].generation);
    }
    assert_int_equal(record->attachments_count, attached);
    assert_int_equal(record->epoch_last, model->epochs_given);
    if (single > 0)
        assert_int_equal(attached, 1);
    if (writers > 1) {
        for (size_t i = 0; i < record->attachments_count; i++) {
            if (attach_may_write(record->attachments[i].access_mode, record->attachments[i].readonly))
                assert_int_equal(record->attachments[i].access_mode, ACCESS_MULTI_NODE_MULTI_WRITER);
        }
    }
}

static void model_attach(struct volume_record *record, struct model *model, size_t i)
{
    const char node[] = {(char)('a' + i), 0};
    enum access_mode mode = (enum access_mode)(1 + random() % 7);
    bool readonly = random() % 2;
    struct attachment *attachment;
    int r = attach_add(record, node, mode, readonly, &attachment, NULL);

    if (model->nodes[i].attached) {
        assert_true(r == E_EXISTS || r == (model->nodes[i].removing ? E_BUSY : E_OK));
    } else if (r == E_OK) {
        model->nodes[i].attached = true;
        model->nodes[i].removing = false;
        model->nodes[i].generation = 0;
        model->nodes[i].epoch = ++model->epochs_given;
    } else {
        assert_int_equal(r, E_PRECONDITION);
        assert_true(record->attachments_count > 0);
    }
}

static void model_step(struct volume_record *record, struct model *model)
{
    size_t i = (size_t)random() % MODEL_NODES;
    const char node[] = {(char)('a' + i), 0};
    uint64_t epoch = model->nodes[i].epoch - (uint64_t)(random() % 4 == 0 && model->nodes[i].epoch > 1);
    uint64_t holding = (uint64_t)(random() % 3);
    bool current = model->nodes[i].attached && epoch == model->nodes[i].epoch;
    struct attachment *attachment;
    int r;

    switch (random() % 4) {
    case 0:
        model_attach(record, model, i);
        break;
    case 1:
        r = attach_remove_begin(record, node, epoch, NULL);
        assert_int_equal(r == E_OK, model->nodes[i].attached && (epoch == 0 || current));
        model->nodes[i].removing |= r == E_OK;
        break;
    case 2:
        /* The epoch alone names the attachment, whichever node's it is. */
        for (i = 0; i < MODEL_NODES && !(model->nodes[i].attached && model->nodes[i].epoch == epoch); i++)
            ;
        r = attach_remove_finish(record, epoch, NULL);
        assert_int_equal(r == E_OK, i < MODEL_NODES && model->nodes[i].removing);
        if (r == E_OK)
            model->nodes[i].attached = false;
        break;
    case 3:
        r = attach_grant(record, node, epoch, holding, &attachment, NULL);
        assert_int_equal(r == E_OK,
                         current && !model->nodes[i].removing && holding == model->nodes[i].generation);
        model->nodes[i].generation += r == E_OK;
        break;
    }
}

static void attach_random(void **state)
{
    struct volume_record record = {.id = "store-1.0000000000000001"};
    const char *given = getenv("MOORING_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    struct model model = {0};
    char where[64];

    (void)state;
    print_message("seed %u (MOORING_SEED repeats it)\n", seed);
    srandom(seed);
    for (int step = 0; step < MODEL_STEPS; step++) {
        snprintf(where, sizeof(where), "seed %u, step %d", seed, step);
        model_step(&record, &model);
        check_model(&record, &model, where);
    }
    volume_record_done(&record);
}

/* ---- content ---- */

static void attached_with_generation(struct volume_record *record, const char *node, enum access_mode mode,
                                     bool readonly)
{
    struct attachment *attachment;

    assert_int_equal(attach_add(record, node, mode, readonly, &attachment, NULL), E_OK);
    assert_int_equal(attach_grant(record, node, attachment->epoch, 0, &attachment, NULL), E_OK);
}

static void format_once(void **state)
{
    struct volume_record record = {.id = "store-1.0000000000000001"};
    bool discard = true;

    (void)state;
    attached_with_generation(&record, "a", ACCESS_SINGLE_NODE_WRITER, false);
    assert_true(content_write_marks(&record, 1, 1));
    assert_int_equal(content_format_end(&record, "a", 1, 1, NULL), E_PRECONDITION);
    assert_int_equal(content_format_begin(&record, "a", 1, 0, &discard, NULL), E_STALE);
    assert_int_equal(content_format_begin(&record, "a", 1, 2, &discard, NULL), E_STALE);
    assert_int_equal(content_format_begin(&record, "a", 2, 1, &discard, NULL), E_STALE);
    assert_int_equal(content_format_begin(&record, "b", 1, 1, &discard, NULL), E_STALE);
    assert_int_equal(record.content, VOLUME_BLANK);
    assert_int_equal(content_format_begin(&record, "a", 1, 1, &discard, NULL), E_OK);
    assert_false(discard);
    assert_false(content_write_marks(&record, 1, 1));
    assert_true(content_write_marks(&record, 1, 0));
    assert_true(content_write_marks(&record, 2, 1));
    assert_int_equal(content_format_end(&record, "a", 1, 1, NULL), E_OK);
    assert_int_equal(record.content, VOLUME_DATA);
    assert_int_equal(content_format_end(&record, "a", 1, 1, NULL), E_OK);
    assert_int_equal(content_format_begin(&record, "a", 1, 1, &discard, NULL), E_PRECONDITION);
    assert_false(content_write_marks(&record, 7, 7));
    volume_record_done(&record);
}

static void format_taken_over(void **state)
{
    struct volume_record record = {.id = "store-1.0000000000000001"};
    struct attachment *attachment;
    bool discard = false;

    (void)state;
    attached_with_generation(&record, "a", ACCESS_SINGLE_NODE_WRITER, false);
    assert_int_equal(content_format_begin(&record, "a", 1, 1, &discard, NULL), E_OK);
    assert_int_equal(attach_grant(&record, "a", 1, 1, &attachment, NULL), E_OK);
    assert_int_equal(content_format_end(&record, "a", 1, 1, NULL), E_STALE);
    assert_int_equal(content_format_end(&record, "a", 1, 2, NULL), E_STALE);
    assert_int_equal(content_format_begin(&record, "a", 1, 2, &discard, NULL), E_OK);
    assert_true(discard);
    assert_int_equal(attach_remove_begin(&record, "a", 0, NULL), E_OK);
    assert_int_equal(content_format_end(&record, "a", 1, 2, NULL), E_STALE);
    assert_int_equal(attach_remove_finish(&record, 1, NULL), E_OK);
    attached_with_generation(&record, "b", ACCESS_SINGLE_NODE_WRITER, false);
    discard = false;
    assert_int_equal(content_format_begin(&record, "b", 2, 1, &discard, NULL), E_OK);
    assert_true(discard);
    content_mark_data(&record); /* a write of another */
    assert_int_equal(content_format_end(&record, "b", 2, 1, NULL), E_PRECONDITION);
    volume_record_done(&record);
}

static void format_needs_a_writer(void **state)
{
    struct volume_record record = {.id = "store-1.0000000000000001"};
    bool discard;

    (void)state;
    attached_with_generation(&record, "a", ACCESS_MULTI_NODE_READER_ONLY, false);
    attached_with_generation(&record, "b", ACCESS_MULTI_NODE_SINGLE_WRITER, true);
    assert_int_equal(content_format_begin(&record, "a", 1, 1, &discard, NULL), E_PRECONDITION);
    assert_int_equal(content_format_begin(&record, "b", 2, 1, &discard, NULL), E_PRECONDITION);
    assert_int_equal(record.content, VOLUME_BLANK);
    volume_record_done(&record);
}

/* ---- fence ---- */

static void fence_holds_for_known_boots(void **state)
{
    const char *const others[] = {BOOT_B, "", BOOT_A};
    struct node_record record = {.id = "a"};
    bool changed;

    (void)state;
    assert_int_equal(fence_register(&record, BOOT_A, "192.0.2.1", &changed, NULL), E_OK);
    assert_true(changed);
    assert_int_equal(fence_register(&record, BOOT_A, "192.0.2.1", &changed, NULL), E_OK);
    assert_false(changed);
    assert_int_equal(fence_set(&record, "lost", others, ARRAY_SIZE(others), NULL), E_OK);
    assert_true(record.fenced);
    assert_int_equal(record.fenced_boot_ids_count, 2);
    assert_int_equal(fence_register(&record, BOOT_A, "192.0.2.1", &changed, NULL), E_OK);
    assert_true(record.fenced);
    assert_int_equal(fence_register(&record, BOOT_B, "192.0.2.1", &changed, NULL), E_OK);
    assert_true(record.fenced);
    assert_int_equal(fence_register(&record, BOOT_C, "192.0.2.1", &changed, NULL), E_OK);
    assert_true(changed);
    assert_false(record.fenced);
    assert_int_equal(record.fenced_boot_ids_count, 0);
    node_record_done(&record);
}

static void fence_adds_and_clears(void **state)
{
    const char *const more[] = {BOOT_B}, *const bad[] = {BOOT_C, "nonsense"};
    struct node_record record = {.id = "a"};
    bool changed;

    (void)state;
    assert_int_equal(fence_set(&record, "never seen", NULL, 0, NULL), E_OK);
    assert_int_equal(fence_set(&record, "twice", more, 1, NULL), E_OK);
    assert_int_equal(record.fenced_boot_ids_count, 1);
    assert_string_equal(record.fence_reason, "twice");
    assert_int_equal(fence_set(&record, "bad", bad, 2, NULL), E_INVALID_ARGUMENT);
    assert_int_equal(record.fenced_boot_ids_count, 1);
    assert_string_equal(record.fence_reason, "twice");
    assert_int_equal(fence_register(&record, BOOT_B, "x", &changed, NULL), E_OK);
    assert_true(record.fenced);
    assert_int_equal(fence_register(&record, "nonsense", "x", &changed, NULL), E_INVALID_ARGUMENT);
    fence_clear(&record);
    assert_false(record.fenced);
    assert_string_equal(record.boot_id, BOOT_B);
    node_record_done(&record);
}

/* Nobody knows which life of the host was meant: no boot id lifts it. */
static void fence_without_boot_ids_stays(void **state)
{
    struct node_record record = {.id = "node-a"};
    bool changed = false;

    (void)state;
    assert_int_equal(fence_set(&record, "never seen", NULL, 0, NULL), E_OK);
    assert_int_equal(fence_register(&record, BOOT_A, "x", &changed, NULL), E_OK);
    assert_true(record.fenced);
    assert_true(changed); /* the address, and the boot id that stays fenced if it is fenced again */
    assert_string_equal(record.boot_id, BOOT_A);
    assert_int_equal(fence_register(&record, BOOT_B, "x", &changed, NULL), E_OK);
    assert_true(record.fenced);
    fence_clear(&record);
    assert_int_equal(fence_register(&record, BOOT_B, "x", &changed, NULL), E_OK);
    assert_false(record.fenced);
    node_record_done(&record);
}

static void fence_is_bounded(void **state)
{
    char ids[NODE_BOOT_IDS_MAX + 1][ID_BOOT_LENGTH + 1];
    const char *pointers[NODE_BOOT_IDS_MAX + 1];
    struct node_record record = {.id = "a"};

    (void)state;
    for (unsigned i = 0; i <= NODE_BOOT_IDS_MAX; i++) {
        snprintf(ids[i], sizeof(ids[i]), "%032x", i);
        pointers[i] = ids[i];
    }
    assert_int_equal(fence_set(&record, "", pointers, NODE_BOOT_IDS_MAX + 1, NULL), E_EXHAUSTED);
    assert_false(record.fenced);
    assert_int_equal(fence_set(&record, "", pointers, NODE_BOOT_IDS_MAX, NULL), E_OK);
    node_record_done(&record);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attach_matrix),
        cmocka_unit_test(attach_repeats),
        cmocka_unit_test(attach_removal_counts_until_it_ends),
        cmocka_unit_test(attach_is_bounded),
        cmocka_unit_test(attach_generations),
        cmocka_unit_test(shared_writers),
        cmocka_unit_test(attach_random),
        cmocka_unit_test(format_once),
        cmocka_unit_test(format_taken_over),
        cmocka_unit_test(format_needs_a_writer),
        cmocka_unit_test(fence_holds_for_known_boots),
        cmocka_unit_test(fence_adds_and_clears),
        cmocka_unit_test(fence_without_boot_ids_stays),
        cmocka_unit_test(fence_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
