/*
 * Snapshots: CreateSnapshot, DeleteSnapshot and finding one. A snapshot is on its volume's storage server and
 * is reached from where that is. All of it blocks, as controller.h says.
 */
#pragma once

#include "controller/controller.h"

struct snapshot_request {
    const char *name;
    const char *source_volume_id;
    struct topology_wish wish;
};

/*
 * CreateSnapshot, idempotent by name. Returns when the snapshot is ready, or shortly before deadline_ms with
 * one that is cut and not ready yet: its server has recorded that, and when it is lost after all, a repeat is
 * E_CORRUPT until it was deleted. *ret_snapshot is freed by protobuf_c_message_free_unpacked. E_EXISTS
 * when the name is another volume's snapshot's; E_EXHAUSTED when it cannot be where it was wished.
 */
int snapshot_create(struct controller *controller, const struct snapshot_request *request,
                    uint64_t deadline_ms, Mooring__Storage__V1__Snapshot **ret_snapshot, struct error *err);

/* E_CORRUPT, saying why and what to do, for one that will never be ready. */
int snapshot_check_lost(const Mooring__Storage__V1__Snapshot *snapshot, struct error *err);

/* Look until *snapshot, of this server, is ready, replacing it; E_OK also at until_ms, when it is not. E_BUSY
 * when there is none any more; E_CORRUPT when it is lost. */
int snapshot_wait(struct storage_server *server, Mooring__Storage__V1__Snapshot **snapshot, uint64_t until_ms,
                  struct error *err);

/* When to stop waiting, so that an answer is in time. */
uint64_t snapshot_wait_until(uint64_t deadline_ms);

/* DeleteSnapshot: OK only when it is gone, or its absence proven, and its name is released everywhere.
 * E_INVALID_ARGUMENT for one of a group; E_PRECONDITION while a volume is being made of it. */
int snapshot_delete(struct controller *controller, const char *snapshot_id, uint64_t deadline_ms,
                    struct error *err);

/* GetSnapshot wherever it is; E_NOT_FOUND is proven. One of a group that is not made yet is not there. */
int snapshot_find(struct controller *controller, const char *snapshot_id, uint64_t deadline_ms,
                  Mooring__Storage__V1__Snapshot **ret_snapshot, struct error *err);
