/*
 * What a new volume is made of: another volume, or a snapshot (CSI, VolumeContentSource). It is made on the
 * source's storage server, with the source's block size, and no smaller.
 */
#pragma once

#include "controller/controller.h"

struct volume_source {
    struct storage_server *server; /* NULL: the volume is made of nothing */
    uint64_t size_bytes;           /* 0: it is not there */
    uint32_t block_size_bytes;
};

/*
 * Look at the request's source. One that is not there is no error yet, since the volume may have been made
 * before: *ret_absent then says so (code E_NOT_FOUND). E_INVALID_ARGUMENT when the request's parameters do
 * not go with it; E_NOT_FOUND when it never can have been there.
 */
int volume_source_find(struct controller *controller, const struct create_request *request,
                       uint64_t deadline_ms, struct volume_source *ret, struct error *ret_absent,
                       struct error *err);

/* The size to make. E_OUT_OF_RANGE also for one below the source's. */
int volume_source_size(const struct volume_source *source, const struct size_range *range,
                       uint64_t *ret_size_bytes, struct error *err);

/* Was this volume made of what the request names? E_EXISTS when not. */
int volume_source_compare(const struct create_request *request, const Mooring__Storage__V1__Volume *volume,
                          struct error *err);
