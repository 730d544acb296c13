/*
 * StorageClass parameters: each one checked, an unknown one refused by name. Pure functions. The keys that
 * the node needs are those of the volume context (proto/context.h); "provisioning", "blockSize", "zone" and
 * the limits (controller/limits.h) are for the controller and the storage server. Keys under
 * csi.storage.k8s.io/pvc/ and …/pv/, which the provisioner adds for people, are let through and forgotten.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "controller/limits.h"
#include "proto/map.h"

/* The ones that are kept as text with the volume, in the order of their keys. */
enum parameter_text {
    PARAMETER_ATTACH,
    PARAMETER_FS_TYPE,
    PARAMETER_LEASE,
    PARAMETER_MKFS_OPTIONS,
    PARAMETER_MOUNT_OPTIONS,
    PARAMETER_PATH_TIMEOUT,
    PARAMETER_SESSIONS,
    PARAMETER_ZONE,
    PARAMETER_TEXT_COUNT,
};

struct parameters {
    const char *text[PARAMETER_TEXT_COUNT]; /* NULL where not given; borrowed */
    bool thick;
    uint32_t block_size_bytes; /* 0: not given */
    struct limits limits;
};

/* The key of a text parameter, and whether the node is told of it (volume context). */
const char *parameter_key(enum parameter_text which);
bool parameter_for_node(const char *key);

/* Read a map field (…->parameters, cast). E_INVALID_ARGUMENT naming key, value and what is allowed. */
int parameters_parse(const void *entries, size_t count, struct parameters *ret, struct error *err);

/* A mount capability's file system type: the same as fsType, or it becomes fsType. "" is fine. */
int parameters_set_fs_type(struct parameters *parameters, const char *fs_type, struct error *err);

/* Are these, with which a volume is asked for, those that it was made with? E_EXISTS, naming the difference.
 * entries: the Storage service's Volume.parameters, cast. */
int parameters_compare(const struct parameters *parameters, const void *entries, size_t count, bool thick,
                       uint32_t block_size_bytes, struct error *err);
