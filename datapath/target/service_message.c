/* Records of the store as messages of mooring.storage.v1. Worker threads; memory is freed by protobuf-c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "datapath/store/scrub.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

static Mooring__Storage__V1__Content service_content(enum volume_content content)
{
    switch (content) {
    case VOLUME_BLANK:
        return MOORING__STORAGE__V1__CONTENT__BLANK;
    case VOLUME_FORMATTING:
        return MOORING__STORAGE__V1__CONTENT__FORMATTING;
    case VOLUME_DATA:
        break;
    }
    return MOORING__STORAGE__V1__CONTENT__DATA;
}

Mooring__Storage__V1__Attachment *service_attachment_message(const struct attachment *attachment)
{
    Mooring__Storage__V1__Attachment *message = malloc(sizeof(*message));
    if (!message)
        return NULL;
    mooring__storage__v1__attachment__init(message);
    message->node_id = strdup(attachment->node_id);
    message->epoch = attachment->epoch;
    message->access_mode = (Mooring__Storage__V1__AccessMode)attachment->access_mode;
    message->readonly = attachment->readonly;
    message->removing = attachment->removing;
    message->generation = attachment->generation;
    if (!message->node_id) {
        free(message);
        return NULL;
    }
    return message;
}

static bool service_add_parameters(Mooring__Storage__V1__Volume *message, const struct volume_record *record)
{
    message->parameters = calloc(record->parameters_count, sizeof(*message->parameters));
    if (record->parameters_count && !message->parameters)
        return false;
    for (size_t i = 0; i < record->parameters_count; i++) {
        Mooring__Storage__V1__Volume__ParametersEntry *entry = malloc(sizeof(*entry));
        if (!entry)
            return false;
        mooring__storage__v1__volume__parameters_entry__init(entry);
        message->parameters[message->n_parameters++] = entry;
        entry->key = strdup(record->parameters[i].key);
        entry->value = strdup(record->parameters[i].value);
        if (!entry->key || !entry->value)
            return false;
    }
    return true;
}

static bool service_add_attachments(Mooring__Storage__V1__Volume *message, const struct volume_record *record)
{
    message->attachments = calloc(record->attachments_count, sizeof(*message->attachments));
    if (record->attachments_count && !message->attachments)
        return false;
    for (size_t i = 0; i < record->attachments_count; i++) {
        Mooring__Storage__V1__Attachment *entry = service_attachment_message(&record->attachments[i]);
        if (!entry)
            return false;
        message->attachments[message->n_attachments++] = entry;
    }
    return true;
}

static bool service_add_limits(Mooring__Storage__V1__Volume *message, const struct volume_limits *limits)
{
    if (!limits->iops && !limits->bytes_per_s)
        return true;
    message->limits = malloc(sizeof(*message->limits));
    if (!message->limits)
        return false;
    mooring__storage__v1__limits__init(message->limits);
    message->limits->iops = limits->iops;
    message->limits->bytes_per_s = limits->bytes_per_s;
    message->limits->burst_s = limits->burst_s;
    return true;
}

static bool service_add_source(Mooring__Storage__V1__Volume *message, const char *source_id)
{
    if (source_id[0] == '\0')
        return true;
    char **field = id_snapshot_valid(source_id) ? &message->source_snapshot_id : &message->source_volume_id;
    *field = strdup(source_id);
    return *field != NULL;
}

static Mooring__Storage__V1__Volume *service_volume_message(const struct volume_record *record,
                                                            uint64_t used_bytes)
{
    Mooring__Storage__V1__Volume *message = malloc(sizeof(*message));
    if (!message)
        return NULL;
    mooring__storage__v1__volume__init(message);
    message->volume_id = strdup(record->id);
    message->name = strdup(record->name);
    message->size_bytes = record->size_bytes;
    message->block_size_bytes = record->block_size_bytes;
    message->thick = record->thick;
    message->content = service_content(record->content);
    message->write_failed = record->write_failed;
    message->record_generation = record->record_generation;
    message->used_bytes = used_bytes;
    message->created_unix_s = record->created_unix_s;
    if (!message->volume_id || !message->name || !service_add_parameters(message, record) ||
        !service_add_attachments(message, record) || !service_add_limits(message, &record->limits) ||
        !service_add_source(message, record->source_id)) {
        mooring__storage__v1__volume__free_unpacked(message, NULL);
        return NULL;
    }
    return message;
}

/* With its health. unreadable: why, or NULL; a list has what is known of such a volume. */
static Mooring__Storage__V1__Volume *service_message_of(struct storage_service *storage,
                                                        const struct volume_record *record,
                                                        uint64_t used_bytes, const char *unreadable)
{
    Mooring__Storage__V1__Volume *message = service_volume_message(record, used_bytes);
    if (!message)
        return NULL;
    int code = service_volume_health(&storage->server->health, record, unreadable, &message->health,
                                     &message->n_health);
    message->scrubbed_unix_s = store_scrub_read_at(storage->server->store, record->id);
    if (code == 0 && unreadable) {
        message->content = MOORING__STORAGE__V1__CONTENT__CONTENT_UNKNOWN;
        message->unreadable = strdup(unreadable);
        code = message->unreadable ? 0 : -ENOMEM;
    }
    if (code) {
        mooring__storage__v1__volume__free_unpacked(message, NULL);
        return NULL;
    }
    return message;
}

Mooring__Storage__V1__Volume *service_volume_of(struct storage_service *storage, struct volume *volume,
                                                struct error *err)
{
    struct volume_record record = {0};
    uint64_t used_bytes = 0;
    int code = volume_snapshot_record(volume, &record);
    if (code) {
        error_errno(err, ENOMEM, "volume %s", volume_id(volume));
        return NULL;
    }
    Mooring__Storage__V1__Volume *message = NULL;
    _cleanup_error_ struct error unreadable = {0};
    if (volume_check_readable(volume, &unreadable) != 0)
        message = service_message_of(storage, &record, 0, error_text(&unreadable));
    else if (volume_used_bytes(volume, &used_bytes, err) == 0)
        message = service_message_of(storage, &record, used_bytes, NULL);
    if (!message && !err->code)
        error_errno(err, ENOMEM, "volume %s", volume_id(volume));
    volume_record_done(&record);
    return message;
}

int service_portals(const struct server *server, char ***ret_portals, size_t *ret_count)
{
    char **portals = calloc(server->settings->advertise_count, sizeof(*portals));
    if (!portals)
        return -ENOMEM;
    *ret_portals = portals;
    for (unsigned i = 0; i < server->settings->advertise_count; i++) {
        portals[i] = strdup(server->settings->advertise[i]);
        if (!portals[i])
            return -ENOMEM;
        *ret_count = i + 1;
    }
    return 0;
}

char *service_iqn(const char *volume_id)
{
    char iqn[ID_IQN_MAX + 1];
    id_volume_iqn(volume_id, iqn);
    return strdup(iqn);
}
