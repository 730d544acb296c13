/*
 * The node as a client of mooring.storage.v1: plain structs in and out, protobuf stays in here. Every call
 * blocks until timeout_ms at most; thread-safe. A server that is not configured is E_INVALID_ARGUMENT, naming
 * it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/id.h"
#include "node/config.h"

struct storage;

int storage_new(struct storage **ret, const struct node_config *config, struct error *err);
struct storage *storage_free(struct storage *storage);

enum storage_content { STORAGE_BLANK, STORAGE_FORMATTING, STORAGE_DATA };

struct storage_attachment {
    char volume_id[ID_VOLUME_MAX + 1];
    uint64_t epoch;
    uint64_t generation; /* the newest granted */
    bool removing;
    bool readonly;
    bool write_failed; /* the volume is: a flush failed, and every write will until an operator clears it */
    enum storage_content content;
    uint64_t size_bytes;
    uint32_t block_size_bytes;
    uint32_t lun;
    char target_name[ID_IQN_MAX + 1];
    char **portals;
    size_t portals_count;
};

void storage_attachment_done(struct storage_attachment *attachment);
#define _cleanup_attachment_ __attribute__((cleanup(storage_attachment_done)))

/* This node's attachment of the volume. E_NOT_FOUND when it has none. */
int storage_attachment_get(struct storage *storage, const char *volume_id, unsigned timeout_ms,
                           struct storage_attachment *ret, struct error *err);

/* A new generation for our device process: older ones are drained when this returns 0. */
struct storage_grant {
    uint64_t generation;
    char chap_name[ID_CHAP_NAME_MAX + 1];
    char chap_secret[ID_SECRET_LENGTH + 1];
};
int storage_generation_grant(struct storage *storage, const char *volume_id, uint64_t epoch, uint64_t holding,
                             bool write_through, unsigned timeout_ms, struct storage_grant *ret,
                             struct error *err);

int storage_format_begin(struct storage *storage, const char *volume_id, uint64_t epoch, uint64_t generation,
                         unsigned timeout_ms, struct error *err);
int storage_format_end(struct storage *storage, const char *volume_id, uint64_t epoch, uint64_t generation,
                       unsigned timeout_ms, struct error *err);

/* Register with (or heartbeat to) server number `index` of the configuration. */
int storage_register(struct storage *storage, size_t index, unsigned timeout_ms, bool *ret_fenced,
                     struct error *err);
