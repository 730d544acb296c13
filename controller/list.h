/*
 * Lists over all storage servers: in the order of server ids, then of the items' ids. A page begins after the
 * item that its token names, so a token needs no memory here and outlives restarts.
 */
#pragma once

#include "controller/controller.h"

/* Entries of a page at most, whatever was asked for: a volume with the longest parameters and all attachments
 * that it may have takes 11 KiB, and a page has to fit gRPC's 4 MiB. */
#define LIST_PAGE_MAX 350
#define LIST_TOKEN_MAX (ID_SNAPSHOT_MAX + 8)

enum list_kind {
    LIST_VOLUMES,       /* Mooring__Storage__V1__Volume */
    LIST_VOLUME_HEALTH, /* the same, only those whose health has something to say (health.h) */
    LIST_SNAPSHOTS,     /* Mooring__Storage__V1__Snapshot */
};

struct list_request {
    enum list_kind kind;
    uint32_t max_entries; /* 0: LIST_PAGE_MAX, which is also the most */
    const char *token;
    struct storage_server *server; /* this one's alone; NULL: all servers' */
    const char *source_volume_id;  /* LIST_SNAPSHOTS: of this volume; "": of any */
};

struct list_page {
    ProtobufCMessage **items; /* owned */
    size_t count;
    char next_token[LIST_TOKEN_MAX + 1]; /* "" at the end */
};

/* A token for what comes after id, and back. "" is the beginning; E_BUSY (CSI: ABORTED) for a token that we
 * never gave for this kind. */
void list_token_format(const char *id, char ret_token[LIST_TOKEN_MAX + 1]);
int list_token_parse(enum list_kind kind, const char *token, char ret_id[ID_SNAPSHOT_MAX + 1],
                     struct error *err);

/* One page. E_UNAVAILABLE when a server that may hold an entry of it does not answer and is not declared
 * gone. */
int list_page_get(struct controller *controller, const struct list_request *request, uint64_t deadline_ms,
                  struct list_page *ret_page, struct error *err);
void list_page_done(struct list_page *page);
