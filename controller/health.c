/* Health from the Storage service's words to CSI's. Owns nothing; run by worker threads, called by list.c and
 * service_change.c. */
#include "controller/health.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/error.h"
#include "common/strings.h"

typedef Mooring__Storage__V1__Health__Kind health_kind;

static Csi__V1__VolumeHealthErrorType status_of(health_kind kind)
{
    switch (kind) {
    case MOORING__STORAGE__V1__HEALTH__KIND__WRITE_FAILED:
        return CSI__V1__VOLUME_HEALTH_ERROR_TYPE__INACCESSIBLE;
    case MOORING__STORAGE__V1__HEALTH__KIND__UNREADABLE:
    case MOORING__STORAGE__V1__HEALTH__KIND__READ_ERRORS:
        return CSI__V1__VOLUME_HEALTH_ERROR_TYPE__DATA_LOSS;
    case MOORING__STORAGE__V1__HEALTH__KIND__POOL_FILLING:
    case MOORING__STORAGE__V1__HEALTH__KIND__POOL_FULL:
    case MOORING__STORAGE__V1__HEALTH__KIND__KIND_UNKNOWN:
    case _MOORING__STORAGE__V1__HEALTH__KIND_IS_INT_SIZE:
        break;
    }
    return CSI__V1__VOLUME_HEALTH_ERROR_TYPE__DEGRADED; /* a newer server's kind too */
}

static const char *reason_of(health_kind kind)
{
    switch (kind) {
    case MOORING__STORAGE__V1__HEALTH__KIND__WRITE_FAILED:
        return "WriteFailed";
    case MOORING__STORAGE__V1__HEALTH__KIND__UNREADABLE:
        return "Unreadable";
    case MOORING__STORAGE__V1__HEALTH__KIND__READ_ERRORS:
        return "ReadErrors";
    case MOORING__STORAGE__V1__HEALTH__KIND__POOL_FILLING:
        return "PoolFilling";
    case MOORING__STORAGE__V1__HEALTH__KIND__POOL_FULL:
        return "PoolFull";
    case MOORING__STORAGE__V1__HEALTH__KIND__KIND_UNKNOWN:
    case _MOORING__STORAGE__V1__HEALTH__KIND_IS_INT_SIZE:
        break;
    }
    return "Other";
}

bool health_speaks(const Mooring__Storage__V1__Volume *volume)
{
    return volume->n_health > 0 || volume->write_failed || *volume->unreadable != '\0';
}

static bool has_entry(const Csi__V1__VolumeHealth *health, Csi__V1__VolumeHealthErrorType status,
                      const char *reason)
{
    for (size_t i = 0; i < health->n_health_statuses; i++) {
        const Csi__V1__VolumeHealth__VolumeHealthEntry *one = health->health_statuses[i];

        if (one && one->status == status && str_equal(one->reason, reason))
            return true;
    }
    return false;
}

/* The array has room for it. */
static int add_entry(Csi__V1__VolumeHealth *health, health_kind kind, const char *message)
{
    Csi__V1__VolumeHealth__VolumeHealthEntry *entry;
    char *reason, *text;

    if (has_entry(health, status_of(kind), reason_of(kind)))
        return E_OK;
    entry = malloc(sizeof(*entry));
    reason = strdup(reason_of(kind));
    text = strdup(message);
    if (!entry || !reason || !text) {
        free(entry);
        free(reason);
        free(text);
        return -ENOMEM;
    }
    csi__v1__volume_health__volume_health_entry__init(entry);
    entry->status = status_of(kind);
    entry->reason = reason;
    entry->message = text;
    health->health_statuses[health->n_health_statuses++] = entry;
    return E_OK;
}

int health_fill(const Mooring__Storage__V1__Volume *volume, Csi__V1__VolumeHealth **ret)
{
    Csi__V1__VolumeHealth *health = malloc(sizeof(*health));
    int r = E_OK;

    if (!health)
        return -ENOMEM;
    csi__v1__volume_health__init(health);
    *ret = health;
    health->volume_id = strdup(volume->volume_id);
    health->health_statuses = calloc(volume->n_health + 2, sizeof(*health->health_statuses));
    if (!health->volume_id || !health->health_statuses)
        return -ENOMEM;
    for (size_t i = 0; r == E_OK && i < volume->n_health; i++)
        r = add_entry(health, volume->health[i]->kind, volume->health[i]->message);
    if (r == E_OK && *volume->unreadable != '\0')
        r = add_entry(health, MOORING__STORAGE__V1__HEALTH__KIND__UNREADABLE, volume->unreadable);
    if (r == E_OK && volume->write_failed)
        r = add_entry(health, MOORING__STORAGE__V1__HEALTH__KIND__WRITE_FAILED,
                      "a flush failed: writes are refused until an operator clears it "
                      "(mooring volume clear-failed)");
    return r;
}
