/*
 * READ CAPACITY(16) while the volume is in use: its size may have grown (SBC-4, section 4.5: a unit attention
 * says so, and mooring-node asks when it knows). Runs on the device's loop; called by device_resize.c.
 */
#pragma once

#include "datapath/device/initiator.h"

struct capacity {
    struct initiator *initiator;
    void (*known)(void *context, uint64_t size_bytes); /* of blocks of the volume's size */
    void *context;

    struct scsi_task *task; /* under way, or NULL */
    bool again;             /* asked for meanwhile: that answer may be too old */
    unsigned retries;
};

void capacity_init(struct capacity *capacity, struct initiator *initiator,
                   void (*known)(void *context, uint64_t size_bytes), void *context);

/* On a session that is open, also from libiscsi's callbacks. Without a good answer known() is not called: the
 * next session, and the next asking, begin anew. */
void capacity_ask(struct capacity *capacity);

/* The session is gone. */
void capacity_lost(struct capacity *capacity);
