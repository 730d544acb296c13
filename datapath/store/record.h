/*
 * What is durably known of a volume and of a node, as plain structs; and how they become JSON records and
 * back. The decisions on them are in attach.h, content.h and fence.h, as pure functions; the store persists
 * the result.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/id.h"

#define VOLUME_RECORD_FORMAT 2 /* the newest; see volume_record_format() */
#define NODE_RECORD_FORMAT 1
#define POOL_RECORD_FORMAT 1

#define VOLUME_ATTACHMENTS_MAX 64 /* nodes that hold one volume at once */
#define VOLUME_PARAMETERS_MAX 64
#define NODE_BOOT_IDS_MAX 64

enum volume_content {                    /* invariant 5 */
                      VOLUME_BLANK,      /* nothing was ever written */
                      VOLUME_FORMATTING, /* formatting_epoch/_generation is making a file system */
                      VOLUME_DATA,
};

enum access_mode { /* CSI's VolumeCapability.AccessMode.Mode, number by number */
                   ACCESS_UNKNOWN = 0,
                   ACCESS_SINGLE_NODE_WRITER = 1,
                   ACCESS_SINGLE_NODE_READER_ONLY = 2,
                   ACCESS_MULTI_NODE_READER_ONLY = 3,
                   ACCESS_MULTI_NODE_SINGLE_WRITER = 4,
                   ACCESS_MULTI_NODE_MULTI_WRITER = 5,
                   ACCESS_SINGLE_NODE_SINGLE_WRITER = 6,
                   ACCESS_SINGLE_NODE_MULTI_WRITER = 7,
};

/* "SINGLE_NODE_WRITER", …; "UNKNOWN" for anything else. */
const char *access_mode_name(enum access_mode mode);

struct attachment {
    char node_id[ID_NODE_MAX + 1];
    uint64_t epoch;
    enum access_mode access_mode;
    bool readonly;
    bool removing;       /* recorded before the drain; counts as attached until the attachment is gone */
    uint64_t generation; /* the newest granted to the node; 0: none yet */
    bool write_through;  /* that generation replays nothing: each of its changes is stable when it answers */
    char secret[ID_SECRET_LENGTH + 1];            /* CHAP, of generation 0: initiators that are not ours */
    char generation_secret[ID_SECRET_LENGTH + 1]; /* CHAP, of `generation` */
};

struct volume_parameter {
    char *key;
    char *value;
};

struct volume_limits { /* over all sessions of a volume; 0: unlimited */
    uint64_t iops;
    uint64_t bytes_per_s;
    uint32_t burst_s; /* so many seconds' worth at once after an idle time; 0: a tenth of one */
};

struct volume_record {
    char id[ID_VOLUME_MAX + 1];
    char name[ID_VOLUME_NAME_MAX + 1];
    uint64_t size_bytes;
    uint32_t block_size_bytes;
    bool thick;
    int64_t created_unix_s;
    uint64_t record_generation; /* grows with each commit */
    uint64_t epoch_last;        /* the newest epoch ever given: only grows */
    enum volume_content content;
    uint64_t formatting_epoch;      /* while VOLUME_FORMATTING; of VOLUME_DATA: who formatted it, or 0 */
    uint64_t formatting_generation; /* while VOLUME_FORMATTING; of VOLUME_DATA: who formatted it, or 0 */
    bool write_failed;
    struct volume_limits limits;
    char source_id[ID_SNAPSHOT_MAX + 1]; /* the volume or snapshot it was made of; "": of none */
    struct volume_parameter *parameters; /* sorted by key */
    size_t parameters_count;
    struct attachment *attachments;
    size_t attachments_count;
};

void volume_record_done(struct volume_record *record);
int volume_record_copy(struct volume_record *dst, const struct volume_record *src); /* 0 or -ENOMEM */
/* The oldest format that holds all of it, so that an older build reads what it would not lose a part of:
 * 2 has "limits", "source_id", and attachments with "write_through", whose writes an older one would hold
 * back. */
int volume_record_format(const struct volume_record *record);
int volume_record_to_json(const struct volume_record *record, json_t **ret_object);
int volume_record_from_json(json_t *object, struct volume_record *ret_record, struct error *err);

struct attachment *volume_record_attachment(struct volume_record *record, const char *node_id);
struct attachment *volume_record_epoch(struct volume_record *record, uint64_t epoch);

/* More than one attachment of it may write: every command is then served write-through (invariant 1). True as
 * soon as one writes as MULTI_NODE_MULTI_WRITER, so that nothing is unflushed when a second one comes. */
bool volume_record_shared_writers(const struct volume_record *record);

#define SNAPSHOT_RECORD_FORMAT 2 /* the newest; see snapshot_record_format() */
#define SNAPSHOT_LOST_MAX 256

struct snapshot_record {
    char id[ID_SNAPSHOT_MAX + 1];
    char name[ID_VOLUME_NAME_MAX + 1]; /* "" in a group */
    char source_volume_id[ID_VOLUME_MAX + 1];
    char group_id[ID_GROUP_MAX + 1]; /* "": of none */
    uint64_t size_bytes;
    uint32_t block_size_bytes;
    int64_t created_unix_ns;      /* the cut */
    uint64_t sequence;            /* of its volume's cuts: only grows; decides which of two is older */
    bool held, provisional;       /* of a group: see snapshot.h */
    char lost[SNAPSHOT_LOST_MAX]; /* only the cut is recorded: why there is no data. "": there is */
};

/* The oldest format that holds all of it: 2 has "lost", whose data an older build would look for. */
int snapshot_record_format(const struct snapshot_record *record);
int snapshot_record_to_json(const struct snapshot_record *record, json_t **ret_object);
int snapshot_record_from_json(json_t *object, struct snapshot_record *ret_record, struct error *err);

struct node_record {
    char id[ID_NODE_MAX + 1];
    char boot_id[ID_BOOT_LENGTH + 1]; /* of its last registration; "" if it never registered */
    char address[128];
    uint32_t volumes_max; /* that it takes, as it registered; 0: it did not say */
    bool fenced;
    char fence_reason[256];
    /* Every boot id that was known, here or on another server, when the fence was set: refused while it
     * stands. */
    char (*fenced_boot_ids)[ID_BOOT_LENGTH + 1];
    size_t fenced_boot_ids_count;
};

void node_record_done(struct node_record *record);
int node_record_copy(struct node_record *dst, const struct node_record *src);
int node_record_to_json(const struct node_record *record, json_t **ret_object);
int node_record_from_json(json_t *object, struct node_record *ret_record, struct error *err);
