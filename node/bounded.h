/*
 * Short programs that may hang in the kernel, on storage that does not answer: nobody waits for one longer
 * than he said, and while one hangs no other is started for the same key. Any thread.
 */
#pragma once

#include "common/error.h"

/*
 * As process_run(), for timeout_ms at most. E_UNAVAILABLE when it does not end in that time (it is killed,
 * and forgotten once the kernel lets it go) or when an earlier one of this key (a volume's id) hangs still.
 */
int bounded_run(const char *key, const char *const *argv, unsigned timeout_ms, int *ret_status,
                char **ret_output, struct error *err);
