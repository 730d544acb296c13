/*
 * Configuration: one JSON file a program, given by --config, each key checked: an unknown key, a wrong type
 * or a value out of range is refused, naming file, key and what is allowed. Strings of the result live as
 * long as the object.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

enum config_type { CONFIG_STRING, CONFIG_UINT, CONFIG_BOOL, CONFIG_OBJECT, CONFIG_ARRAY };

struct config_key {
    const char *name;
    enum config_type type;
    bool required;
    uint64_t min, max; /* for CONFIG_UINT; max 0 means no limit */
    void *value;       /* const char **, uint64_t *, bool *, json_t ** by type; left alone when absent */
};

/* Load a file (E_NOT_FOUND when absent). The caller decrefs. */
int config_load(const char *path, json_t **ret_object, struct error *err);

/* Check object against keys and fill the values. where names file and place in errors. */
int config_read(json_t *object, const char *where, const struct config_key *keys, size_t keys_count,
                struct error *err);

/* Where a CSI plugin listens: CSI_ENDPOINT of the environment, or what the configuration says. Borrowed.
 * CSI 1.13, "CSI_ENDPOINT". */
const char *config_csi_endpoint(const char *configured);

/* An object of topology keys and segments in the shape that CSI demands (CSI 1.13, Topology):
 * E_INVALID_ARGUMENT, naming the key, for one that is not, and for two keys that differ in letter case alone.
 */
int config_check_topology(json_t *topology, const char *where, struct error *err);
