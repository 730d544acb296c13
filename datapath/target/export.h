/*
 * What one volume shows to initiators: the list of its sessions, kept by the volume's owner loop alone.
 * Admission is registered first and checked after, both here, so that no login slips past a removal
 * (invariant 2); a session leaves the list when its last command has ended, and only then does a drain
 * complete or a reinstating login go on (invariant 4).
 *
 * Functions are for the owner loop's thread unless they say otherwise.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "datapath/loop/loop.h"
#include "datapath/scsi/scsi.h"
#include "datapath/store/store.h"
#include "datapath/target/limits.h"
#include "datapath/target/session.h"

struct round;

#define EXPORT_DEBTS 64 /* an owner's: of the oldest one more, nothing is known any more */

/* What the sessions of an export that is gone owe their volume's limits. */
struct export_debt {
    char volume_id[ID_VOLUME_MAX + 1]; /* "": none */
    struct limits_debt debt;
};

struct export
{
    struct reactor *owner;
    struct volume *volume; /* a reference */
    struct image *image;   /* NULL until it was opened */
    struct scsi_unit unit;
    struct limits limits;
    struct limits_debt debt;      /* of the sessions before; taken up with the limits */
    struct session *first, *last; /* in the order in which they asked */
    unsigned sessions_count;
    struct drain *drains;
    unsigned holds; /* nothing is admitted meanwhile */
    unsigned users; /* what is under way and needs the export to stay */
    bool opening;
    struct loop_work open_work;
    struct export *next, *previous; /* of the owner's */
};

void export_admit(struct session *session);
void export_session_ended(struct session *session);

/*
 * Close the sessions that match and wait until the last command of each has ended. Whoever wants them to stay
 * away has committed that to the record before. done() follows on the owner loop.
 */
struct drain {
    uint64_t epoch;            /* 0: any */
    uint64_t generation_below; /* 0: any */
    void (*done)(struct drain *drain);

    struct export *export; /* export's own */
    struct drain *next;
    struct loop_message message;
};
int export_drain(struct reactor *owner, struct volume *volume,
                 struct drain *drain); /* 0 or -ENOMEM: no done() */

/* The volume's export if it has one: for what only looks. */
struct export *export_find(struct volume *volume);

/* The volume's export, made if need be; released by export_check_unused(). NULL: no memory. */
struct export *export_get(struct reactor *owner, struct volume *volume);

/* The record has another size or other limits: from here on its sessions go by them, and each is told of the
 * new size. 0 or -ENOMEM. */
int export_record_changed(struct export *export);

/* Free the export if nothing needs it. */
void export_check_unused(struct export *export);

/* Decide on the sessions that wait. */
void export_consider(struct export *export);
