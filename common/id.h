/*
 * Identifiers: their shapes, making new ones, and checking those of others. Every string that becomes part of
 * a file name or an IQN passes a check here first.
 *
 *   server id   1-32 of [a-z0-9-], begins and ends with a letter or digit         "store-1"
 *   node id     1-128 of [a-z0-9.-], begins and ends with a letter or digit       "worker-3.example"
 *   volume id   <server id> "." <16 lower-case hex digits>                        "store-1.9f86d081884c7d65"
 *   snapshot id the same with "s-" before the digits              "store-1.s-9f86d081884c7d65"
 *   group id    "g-" <16 lower-case hex digits>, of snapshots on any servers      "g-9f86d081884c7d65"
 *   boot id     32 lower-case hex digits (a UUID without dashes)
 *   CHAP name   <volume id> "/" <epoch> "/" <generation>
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define ID_SERVER_MAX 32
#define ID_NODE_MAX 128
#define ID_VOLUME_MAX (ID_SERVER_MAX + 1 + 16)
#define ID_SNAPSHOT_MAX (ID_VOLUME_MAX + 2)
#define ID_GROUP_MAX (2 + 16)
#define ID_BOOT_LENGTH 32
#define ID_IQN_MAX 223 /* RFC 7143, section 4.2.7.1 */
#define ID_CHAP_NAME_MAX 96
#define ID_SECRET_LENGTH 32    /* hex digits: 128 bits */
#define ID_VOLUME_NAME_MAX 128 /* CSI: a name of up to 128 bytes */

#define ID_IQN_PREFIX "iqn.2026-11.storage.mooring:"
#define ID_DRIVER_NAME "csi.mooring.storage"

bool id_server_valid(const char *id);
bool id_node_valid(const char *id);
bool id_volume_valid(const char *id);
bool id_snapshot_valid(const char *id);
bool id_group_valid(const char *id);
bool id_boot_valid(const char *id);

/* The server id that a volume id carries. E_INVALID_ARGUMENT, naming the id, when it is not a volume id. */
int id_volume_server(const char *volume_id, char ret_server[ID_SERVER_MAX + 1], struct error *err);
int id_snapshot_server(const char *snapshot_id, char ret_server[ID_SERVER_MAX + 1], struct error *err);

/* A new random id of this server, or of a group; a new boot id; a new CHAP secret. 0 or -errno. */
int id_volume_new(const char *server_id, char ret_id[ID_VOLUME_MAX + 1]);
int id_snapshot_new(const char *server_id, char ret_id[ID_SNAPSHOT_MAX + 1]);
int id_group_new(char ret_id[ID_GROUP_MAX + 1]);
int id_boot_new(char ret_id[ID_BOOT_LENGTH + 1]);
int id_secret_new(char ret_secret[ID_SECRET_LENGTH + 1]);

void id_volume_iqn(const char *volume_id, char ret_iqn[ID_IQN_MAX + 1]);
void id_node_iqn(const char *node_id, char ret_iqn[ID_IQN_MAX + 1]);

/* The volume id within a volume's IQN, or NULL when it is not one of ours. Points into iqn. */
const char *id_iqn_volume(const char *iqn);

void id_chap_name(const char *volume_id, uint64_t epoch, uint64_t generation,
                  char ret_name[ID_CHAP_NAME_MAX + 1]);
bool id_chap_name_parse(const char *name, char ret_volume_id[ID_VOLUME_MAX + 1], uint64_t *ret_epoch,
                        uint64_t *ret_generation);
