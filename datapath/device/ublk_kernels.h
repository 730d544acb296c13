/* Kernels whose ublk driver Mooring does not use, and why. */
#pragma once

/* Words for a person, with where to read on; NULL for a kernel that is not known to be bad. release: uname
 * -r; one that cannot be understood is taken for a good one, as the driver's own features decide then. */
const char *ublk_kernels_problem(const char *release);
