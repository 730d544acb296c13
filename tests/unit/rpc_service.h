/* A test service with a handler for each thing that a call can do, over descriptors of the real protocols. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "rpc/rpc.h"

struct test_service {
    atomic_int running, ended; /* handlers of the slow method */
    atomic_bool release;       /* lets the slow method go on */
    atomic_bool saw_cancel;
    atomic_int sent;  /* responses of the stream that were taken */
    atomic_int noted; /* calls of GetServer whose particulars follow; the last one's stay */
    struct rpc_peer peer;
    char id[80];
    int64_t remaining_ms;
};

/*
 * mooring.storage.v1.Storage: GetServer answers; GetVolume fails with the code in its volume_id ("17", "-5");
 * ListVolumes answers as many bytes as it is asked for entries; DeleteVolume waits for release or a cancel.
 */
extern const struct rpc_method test_storage_methods[4];
/* csi.v1.SnapshotMetadata: GetMetadataAllocated streams max_results responses, GetMetadataDelta without end.
 */
extern const struct rpc_method test_metadata_methods[2];
/* csi.v1.Identity: Probe. */
extern const struct rpc_method test_identity_methods[1];

/* The three as a server's services, all with the same context. authorize is the first one's. */
void test_services(struct test_service *test, struct rpc_service ret_services[3]);
