/*
 * ListVolumes over all storage servers: in the order of server ids, then of volume ids. A page begins after
 * the volume that its token names, so a token needs no memory here and outlives restarts.
 */
#pragma once

#include "controller/controller.h"

/* Entries of a page at most, whatever was asked for: a volume with the longest parameters and all attachments
 * that it may have takes 11 KiB, and a page has to fit gRPC's 4 MiB. */
#define LIST_PAGE_MAX 350
#define LIST_TOKEN_MAX (ID_VOLUME_MAX + 8)

struct list_page {
    Mooring__Storage__V1__ListVolumesResponse **parts; /* owned; one answer of one server each */
    size_t parts_count;
    size_t volumes_count;                /* in all parts */
    char next_token[LIST_TOKEN_MAX + 1]; /* "" at the end */
};

/* A token for what comes after volume_id, and back. "" is the beginning; E_BUSY (CSI: ABORTED) for a token
 * that we never gave. */
void list_token_format(const char *volume_id, char ret_token[LIST_TOKEN_MAX + 1]);
int list_token_parse(const char *token, char ret_volume_id[ID_VOLUME_MAX + 1], struct error *err);

/* One page of at most max_entries (0: LIST_PAGE_MAX, which is also the most). E_UNAVAILABLE when a server
 * that may hold an entry of it does not answer and is not declared gone. */
int list_volumes(struct controller *controller, uint32_t max_entries, const char *token, uint64_t deadline_ms,
                 struct list_page *ret_page, struct error *err);
void list_page_done(struct list_page *page);
