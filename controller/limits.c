/* Limits from text. Owns nothing: pure functions, any thread. Called by parameters.c, request.c,
 * volume_create.c and volume_change.c. */
#include "controller/limits.h"

#include <inttypes.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "proto/map.h"

/* A limit below these would let one large command of a client wait for longer than kernels are patient. */
#define IOPS_MIN 10
#define IOPS_MAX 1000000000
#define BANDWIDTH_MIN MIB
#define BANDWIDTH_MAX (1024 * TIB)
#define BURST_MAX 3600

static bool parse_number(const char *text, uint64_t *ret)
{
    const char *rest;

    return str_parse_uint64(text, ret, &rest) && *rest == '\0';
}

static bool parse_iops(const char *text, uint64_t *ret)
{
    return parse_number(text, ret) && (*ret == 0 || (*ret >= IOPS_MIN && *ret <= IOPS_MAX));
}

static bool parse_bandwidth(const char *text, uint64_t *ret)
{
    return size_parse(text, ret, NULL) == E_OK &&
           (*ret == 0 || (*ret >= BANDWIDTH_MIN && *ret <= BANDWIDTH_MAX));
}

static bool parse_burst(const char *text, uint64_t *ret)
{
    return parse_number(text, ret) && *ret <= BURST_MAX;
}

static const struct limit_rule {
    const char *key;
    bool (*parse)(const char *text, uint64_t *ret);
    const char *allowed;
} rules[LIMIT_COUNT] = {
    [LIMIT_BANDWIDTH] = {"bandwidthLimit", parse_bandwidth,
                         "0 (none), or bytes a second from 1MiB to 1024TiB, with KiB, MiB, GiB or TiB"},
    [LIMIT_BURST] = {"burstSeconds", parse_burst,
                     "a whole number from 0 (a tenth of a second's worth) to 3600"},
    [LIMIT_IOPS] = {"iopsLimit", parse_iops, "0 (none), or a whole number from 10 to 1000000000"},
};

static bool find(const char *key, enum limit *ret)
{
    for (size_t i = 0; i < LIMIT_COUNT; i++) {
        if (str_equal(rules[i].key, key)) {
            *ret = (enum limit)i;
            return true;
        }
    }
    return false;
}

bool limits_is_key(const char *key)
{
    enum limit limit;

    return find(key, &limit);
}

bool limits_any(const struct limits *limits)
{
    for (size_t i = 0; i < LIMIT_COUNT; i++) {
        if (limits->given[i])
            return true;
    }
    return false;
}

int limits_take(struct limits *limits, const char *key, const char *value, struct error *err)
{
    enum limit limit;

    if (!find(key, &limit))
        return error_set(err, E_INVALID_ARGUMENT,
                         "unknown mutable parameter \"%s\"; the parameters are: " LIMIT_KEYS, key);
    if (!rules[limit].parse(value, &limits->value[limit]))
        return error_set(err, E_INVALID_ARGUMENT, "parameter \"%s\" is \"%s\"; allowed: %s", key, value,
                         rules[limit].allowed);
    limits->given[limit] = true;
    return E_OK;
}

int limits_parse(const void *entries, size_t count, struct limits *limits, struct error *err)
{
    struct map_entry *const *list = entries;
    int r = E_OK;

    for (size_t i = 0; r == E_OK && i < count; i++)
        r = limits_take(limits, list[i]->key, list[i]->value, err);
    return r;
}

static uint64_t standing_value(const Mooring__Storage__V1__Limits *standing, enum limit limit)
{
    if (!standing)
        return 0;
    switch (limit) {
    case LIMIT_BANDWIDTH:
        return standing->bytes_per_s;
    case LIMIT_BURST:
        return standing->burst_s;
    case LIMIT_IOPS:
        return standing->iops;
    case LIMIT_COUNT:
        break;
    }
    return 0;
}

static uint64_t chosen_value(const struct limits *limits, const Mooring__Storage__V1__Limits *standing,
                             enum limit limit)
{
    return limits->given[limit] ? limits->value[limit] : standing_value(standing, limit);
}

void limits_fill(const struct limits *limits, const Mooring__Storage__V1__Limits *standing,
                 Mooring__Storage__V1__Limits *ret)
{
    mooring__storage__v1__limits__init(ret);
    ret->bytes_per_s = chosen_value(limits, standing, LIMIT_BANDWIDTH);
    ret->burst_s = (uint32_t)chosen_value(limits, standing, LIMIT_BURST);
    ret->iops = chosen_value(limits, standing, LIMIT_IOPS);
}

int limits_compare(const struct limits *limits, const Mooring__Storage__V1__Limits *standing,
                   struct error *err)
{
    for (size_t i = 0; i < LIMIT_COUNT; i++) {
        uint64_t stands = standing_value(standing, (enum limit)i);

        if (i == LIMIT_BURST && !standing) /* of nothing; a server does not keep it */
            continue;
        if (limits->given[i] && limits->value[i] != stands)
            return error_set(err, E_EXISTS, "it has %s %" PRIu64 ", not %" PRIu64, rules[i].key, stands,
                             limits->value[i]);
    }
    return E_OK;
}
