/*
 * Group snapshots: one moment over volumes of several storage servers (CSI, GroupController). The servers
 * keep the members; a group is what all of them together have of one group id. Members are provisional until
 * CommitSnapshots, which comes only after every server's hold stood until all were cut.
 */
#pragma once

#include "controller/controller.h"

#define GROUP_VOLUMES_MAX 128
#define GROUP_SERVER_VOLUMES_MAX 64 /* of them on one storage server: its limit of one hold */
#define GROUP_ATTEMPT_DIGITS 8

struct group_request {
    const char *name;
    char *const *source_volume_ids;
    size_t sources_count;
};

struct group {
    char id[ID_SNAPSHOT_MAX + 1];
    Mooring__Storage__V1__Snapshot **snapshots; /* owned, and each of them; in the order of servers and ids */
    size_t count;                               /* 0: there is no such group */
};

void group_done(struct group *group);

/* What all servers have of it, provisional members included. E_UNAVAILABLE when one does not answer. */
int group_find(struct controller *controller, const char *group_id, uint64_t deadline_ms,
               struct group *ret_group, struct error *err);

/* What one server has of it, added to the group, whose id is set. */
int group_find_on(struct storage_server *server, struct group *group, uint64_t deadline_ms,
                  struct error *err);

/* The first digits of a member's id, which all members of one attempt to make the group have. */
char *group_attempt_of(char *snapshot_id);
bool group_same_attempt(char *snapshot_id, char *other_id);

/* CommitSnapshots of all of the group's members, server by server. */
int group_commit(struct controller *controller, struct group *group, uint64_t deadline_ms, struct error *err);

/* Delete one member. provisional_only: E_PRECONDITION when it is committed. */
int group_delete_member(struct controller *controller, const char *snapshot_id, bool provisional_only,
                        uint64_t deadline_ms, struct error *err);

/* CreateVolumeGroupSnapshot, idempotent by name: whole, or an error and nothing. E_EXISTS when the name is
 * that of a group of other volumes. */
int group_create(struct controller *controller, const struct group_request *request, uint64_t deadline_ms,
                 struct group *ret_group, struct error *err);

/* GetVolumeGroupSnapshot. E_INVALID_ARGUMENT when snapshot_ids are not its members. */
int group_get(struct controller *controller, const char *group_id, char *const *snapshot_ids,
              size_t snapshots_count, uint64_t deadline_ms, struct group *ret_group, struct error *err);

/* DeleteVolumeGroupSnapshot. OK when there is none. E_INVALID_ARGUMENT when a member is not in snapshot_ids,
 * or one of those is another group's or none's. */
int group_delete(struct controller *controller, const char *group_id, char *const *snapshot_ids,
                 size_t snapshots_count, uint64_t deadline_ms, struct error *err);
