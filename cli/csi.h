/* Calls of CSI on the sockets of mooring-controller and mooring-node, and the messages that several commands
 * need. Blocking; the command's timeout and --retry hold here. */
#pragma once

#include "cli/cli.h"
#include "proto/csi.pb-c.h"

/* One call. The response is freed by protobuf_c_message_free_unpacked(…, NULL); ret_response may be NULL. */
int csi_call_controller(const struct cli *cli, const char *method, const ProtobufCMessage *request,
                        ProtobufCMessage **ret_response, struct error *err);
int csi_call_node(const struct cli *cli, const char *method, const ProtobufCMessage *request,
                  ProtobufCMessage **ret_response, struct error *err);

/* The same for another service on mooring-node's socket. */
int csi_call_node_service(const struct cli *cli, const ProtobufCServiceDescriptor *service,
                          const char *method, const ProtobufCMessage *request,
                          ProtobufCMessage **ret_response, struct error *err);

/* A volume as the operator names it, by id or by name. The caller frees the message. */
int csi_find_volume(const struct cli *cli, const char *id_or_name, Csi__V1__ControllerGetVolumeResponse **ret,
                    struct error *err);

/* Every page of ListVolumes is handed to each(); its first code but 0 ends the walk. */
int csi_each_volume(const struct cli *cli,
                    int (*each)(const Csi__V1__ListVolumesResponse__Entry *entry, void *context,
                                struct error *err),
                    void *context, struct error *err);

/* A capability from a command's options. */
struct csi_capability {
    Csi__V1__VolumeCapability message;
    Csi__V1__VolumeCapability__AccessMode mode;
    Csi__V1__VolumeCapability__BlockVolume block;
    Csi__V1__VolumeCapability__MountVolume mount;
};

/* access_mode: NULL, or a name of csi_access_modes. fs_type may be NULL. Fills in place: do not copy. */
int csi_capability_init(struct csi_capability *capability, const char *access_mode, bool block,
                        const char *fs_type, struct error *err);

#define CSI_ACCESS_MODES                                                                                     \
    "single-node-writer, single-node-reader-only, multi-node-reader-only, multi-node-single-writer, "        \
    "multi-node-multi-writer, single-node-single-writer or single-node-multi-writer"

/* Words of a command line, each KEY=VALUE, into a map field; free it by csi_map_free(), after an error too.
 */
int csi_map_fill(void *entries, size_t *count, const ProtobufCMessageDescriptor *entry_descriptor,
                 int words_count, char **words, struct error *err);
void csi_map_free(void *entries, size_t count);

/* A map field as a JSON object. */
json_t *csi_map_to_json(const void *entries, size_t count);
