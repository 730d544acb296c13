/*
 * Records of volumes and nodes from a pool that anyone may have written: what is refused leaves nothing
 * behind, and what is taken can be written, read back as the same, and changed by every decision into what
 * can be read again.
 */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>

#include "datapath/store/attach.h"
#include "datapath/store/content.h"
#include "datapath/store/fence.h"
#include "datapath/store/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

static void volume_reread(const struct volume_record *record)
{
    struct volume_record again = {0};
    json_t *object, *second;

    check(volume_record_to_json(record, &object) == 0);
    check(volume_record_from_json(object, &again, NULL) == E_OK);
    check(volume_record_to_json(&again, &second) == 0);
    check(json_equal(object, second));
    json_decref(object);
    json_decref(second);
    volume_record_done(&again);
}

static void volume_decide(struct volume_record *record)
{
    struct attachment *attachment;
    bool discard;

    if (attach_add(record, "node-a", ACCESS_MULTI_NODE_SINGLE_WRITER, false, &attachment, NULL) == E_OK &&
        attach_grant(record, "node-a", attachment->epoch, attachment->generation, &attachment, NULL) ==
            E_OK) {
        volume_reread(record);
        if (content_format_begin(record, "node-a", attachment->epoch, attachment->generation, &discard,
                                 NULL) == E_OK) {
            volume_reread(record);
            check(content_format_end(record, "node-a", attachment->epoch, attachment->generation, NULL) ==
                  E_OK);
        }
    }
    volume_reread(record);
    while (record->attachments_count > 0) {
        uint64_t epoch = record->attachments[0].epoch;

        check(attach_remove_begin(record, record->attachments[0].node_id, epoch, NULL) == E_OK);
        check(attach_remove_finish(record, epoch, NULL) == E_OK);
    }
    content_mark_data(record);
    volume_reread(record);
}

static void node_decide(struct node_record *record)
{
    struct node_record again = {0};
    json_t *object;
    bool changed;

    fence_set(record, "fuzz", NULL, 0, NULL);
    check(fence_register(record, "0123456789abcdef0123456789abcdef", "address", &changed, NULL) == E_OK);
    check(node_record_to_json(record, &object) == 0);
    check(node_record_from_json(object, &again, NULL) == E_OK);
    json_decref(object);
    node_record_done(&again);
}

static void snapshot_reread(const struct snapshot_record *record)
{
    struct snapshot_record again;
    json_t *object;

    check(snapshot_record_to_json(record, &object) == 0);
    check(snapshot_record_from_json(object, &again, NULL) == E_OK);
    json_decref(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *object = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    struct volume_record volume = {0};
    struct snapshot_record snapshot;
    struct node_record node = {0};

    if (volume_record_from_json(object, &volume, NULL) == E_OK) {
        volume_reread(&volume);
        volume_decide(&volume);
        volume_record_done(&volume);
    }
    if (node_record_from_json(object, &node, NULL) == E_OK) {
        node_decide(&node);
        node_record_done(&node);
    }
    if (snapshot_record_from_json(object, &snapshot, NULL) == E_OK)
        snapshot_reread(&snapshot);
    json_decref(object);
    return 0;
}
