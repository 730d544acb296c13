/* What health.c found, as messages of mooring.storage.v1. Worker threads; memory is freed by protobuf-c. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/store/scrub.h"
#include "datapath/target/health.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

#define MESSAGES_MAX 4

/* *count grows; text is the message's, and NULL is no memory. */
static int service_health_message(Mooring__Storage__V1__Health ***list, size_t *count,
                                  Mooring__Storage__V1__Health__Kind kind, char *text)
{
    if (!*list)
        *list = calloc(MESSAGES_MAX, sizeof(**list));
    Mooring__Storage__V1__Health *message = *list && text ? malloc(sizeof(*message)) : NULL;
    if (!message) {
        free(text);
        return -ENOMEM;
    }
    mooring__storage__v1__health__init(message);
    message->kind = kind;
    message->message = text;
    (*list)[(*count)++] = message;
    return 0;
}

static int service_health_pool_message(const struct health_findings *found,
                                       Mooring__Storage__V1__Health ***ret, size_t *count)
{
    if (found->pool == HEALTH_POOL_GOOD)
        return 0;
    _cleanup_free_ char *words = health_pool_words(found->pool, &found->capacity);
    return service_health_message(ret, count,
                                  found->pool == HEALTH_POOL_FULL
                                      ? MOORING__STORAGE__V1__HEALTH__KIND__POOL_FULL
                                      : MOORING__STORAGE__V1__HEALTH__KIND__POOL_FILLING,
                                  words ? str_format("the pool %s", words) : NULL);
}

/* A pool that has what it promised may be nearly used up, for years, without harm to any volume: only where
 * writes can come to be refused does it concern them. */
static bool service_health_pool_concerns_volumes(const struct health_findings *found)
{
    return found->pool == HEALTH_POOL_FULL || found->capacity.overcommitted;
}

static int service_health_count_message(const struct health_count *found,
                                        Mooring__Storage__V1__Health__Kind kind, const char *what,
                                        Mooring__Storage__V1__Health ***ret, size_t *count)
{
    if (!found->count)
        return 0;
    return service_health_message(ret, count, kind,
                                  str_format("%s: %zu, the first is %s", what, found->count, found->first));
}

static int service_health_read_errors(struct store *store, const char *volume_id,
                                      Mooring__Storage__V1__Health ***ret, size_t *count)
{
    struct scrub_error first;
    size_t ranges = store_scrub_errors(store, volume_id, &first, 1);
    if (!ranges)
        return 0;
    return service_health_message(
        ret, count, MOORING__STORAGE__V1__HEALTH__KIND__READ_ERRORS,
        str_format("the disk cannot read %zu ranges of its data, the first of %" PRIu64
                   " bytes at offset %" PRIu64 " (%s): restore the volume, or write them anew",
                   ranges, first.length, first.offset, error_name(-first.errnum)));
}

int service_server_health(struct health *health, Mooring__Storage__V1__Health ***ret, size_t *ret_count)
{
    const struct health_findings found = health_find(health);
    int code = service_health_pool_message(&found, ret, ret_count);
    if (code == 0)
        code = service_health_count_message(&found.write_failed,
                                            MOORING__STORAGE__V1__HEALTH__KIND__WRITE_FAILED,
                                            "volumes that are write-failed", ret, ret_count);
    if (code == 0)
        code = service_health_count_message(&found.unreadable, MOORING__STORAGE__V1__HEALTH__KIND__UNREADABLE,
                                            "volumes that cannot be read", ret, ret_count);
    if (code == 0)
        code = service_health_count_message(
            &found.read_errors, MOORING__STORAGE__V1__HEALTH__KIND__READ_ERRORS,
            "volumes and snapshots with data that the disk cannot read", ret, ret_count);
    return code;
}

int service_volume_health(struct health *health, const struct volume_record *record, const char *unreadable,
                          Mooring__Storage__V1__Health ***ret, size_t *ret_count)
{
    int code = 0;
    if (unreadable)
        return service_health_message(ret, ret_count, MOORING__STORAGE__V1__HEALTH__KIND__UNREADABLE,
                                      strdup(unreadable));
    if (record->write_failed)
        code = service_health_message(
            ret, ret_count, MOORING__STORAGE__V1__HEALTH__KIND__WRITE_FAILED,
            strdup("its disk failed to make writes stable; it takes no writes until an "
                   "operator clears it"));
    if (code == 0)
        code = service_health_read_errors(health->server->store, record->id, ret, ret_count);
    const struct health_findings found = health_find(health);
    if (code == 0 && service_health_pool_concerns_volumes(&found))
        code = service_health_pool_message(&found, ret, ret_count);
    return code;
}
