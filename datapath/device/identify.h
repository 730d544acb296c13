/*
 * What a session asks before anything else goes over it: is the unit ready, is it this volume (of a
 * mooring-target: its serial number is the volume's id), is it the size that was granted,
 * what are its limits, which boot of the target is this. Runs on the loop, at each login.
 */
#pragma once

#include "datapath/device/initiator.h"
#include "datapath/device/limits.h"

enum identify_step {
    IDENTIFY_READY,
    IDENTIFY_CAPACITY,
    IDENTIFY_PAGES,
    IDENTIFY_SERIAL,
    IDENTIFY_LIMITS,
    IDENTIFY_PROVISIONING,
    IDENTIFY_BOOT_ID,
    IDENTIFY_DONE,
};

struct identify {
    struct initiator *initiator;
    /* Everything is known. Not called when the session is lost first. */
    void (*done)(void *context, const struct volume_limits *limits, const char *boot_id);
    void *context;

    enum identify_step step;
    bool running;
    unsigned retries;
    struct scsi_task *task;
    struct loop_op pause;
    bool pause_armed;
    bool has_limits_page, has_provisioning_page, has_boot_id_page, has_serial_page;
    struct volume_limits limits;
    char boot_id[ID_BOOT_LENGTH + 1];
};

void identify_init(struct identify *identify, struct initiator *initiator,
                   void (*done)(void *context, const struct volume_limits *limits, const char *boot_id),
                   void *context);
void identify_start(struct identify *identify);

/* The session is gone. */
void identify_lost(struct identify *identify);

/* For tests: the pages as raw bytes. */
bool identify_is_volume(const uint8_t *page, size_t length, const char *volume_id);
bool identify_parse_capacity(const uint8_t *data, size_t length, struct volume_limits *limits);
void identify_parse_limits(const uint8_t *page, size_t length, struct volume_limits *limits);
void identify_parse_provisioning(const uint8_t *page, size_t length, struct volume_limits *limits);
