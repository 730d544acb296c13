/* ValidateVolumeCapabilities and the check of a volume context that a CO hands back. */
#pragma once

#include "controller/controller.h"
#include "proto/csi.pb-c.h"

/* The context of a volume never changes: E_INVALID_ARGUMENT when a key of ours differs from the volume's.
 * Keys of others (provisioners add some) are none of our business. */
int validate_context(const Mooring__Storage__V1__Volume *volume, const void *entries, size_t count,
                     struct error *err);

/* Fill the response: "confirmed" with an echo of what was asked, or a message why not. E_NOT_FOUND when the
 * volume is proven not to exist. */
int validate_capabilities(struct controller *controller,
                          const Csi__V1__ValidateVolumeCapabilitiesRequest *request, uint64_t deadline_ms,
                          Csi__V1__ValidateVolumeCapabilitiesResponse *response, struct error *err);
