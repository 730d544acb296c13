/*
 * The limits on a volume's I/O as a CO gives them: keys of a StorageClass's parameters and of a
 * VolumeAttributesClass (CSI: mutable_parameters), each checked. Only the keys that are given count (CSI,
 * ControllerModifyVolume: nothing is modified by a key's absence). Pure functions.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "proto/storage.pb-c.h"

enum limit {
    LIMIT_BANDWIDTH, /* "bandwidthLimit": bytes a second; 0: unlimited */
    LIMIT_BURST,     /* "burstSeconds"; 0: the server's own */
    LIMIT_IOPS,      /* "iopsLimit"; 0: unlimited */
    LIMIT_COUNT,
};

#define LIMIT_KEYS "bandwidthLimit, burstSeconds, iopsLimit"

struct limits {
    bool given[LIMIT_COUNT];
    uint64_t value[LIMIT_COUNT];
};

bool limits_is_key(const char *key);
bool limits_any(const struct limits *limits);

/* One key and its value. E_INVALID_ARGUMENT naming key, value and what is allowed. */
int limits_take(struct limits *limits, const char *key, const char *value, struct error *err);

/* A map field of such keys (…->mutable_parameters, cast); another key is E_INVALID_ARGUMENT, naming it. What
 * limits held before and the map does not name stays. */
int limits_parse(const void *entries, size_t count, struct limits *limits, struct error *err);

/* What the Storage service is to set: `standing` (NULL: none) with the given ones put over it. */
void limits_fill(const struct limits *limits, const Mooring__Storage__V1__Limits *standing,
                 Mooring__Storage__V1__Limits *ret);

/* Are the given ones those that stand? E_EXISTS, naming the first that is not. */
int limits_compare(const struct limits *limits, const Mooring__Storage__V1__Limits *standing,
                   struct error *err);
