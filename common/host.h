/*
 * Whether this process is in a container, and where the host is then: pid 1 of our /proc is the host's, also
 * in a pod that shares its PID namespace; in one that does not it is the container's own, and nothing of the
 * host is seen. Looks only; any thread. Errors are negative errnos: without CAP_SYS_PTRACE pid 1 may not be
 * looked at.
 */
#pragma once

#include <stdbool.h>

/* Whether a namespace of ours is pid 1's too: "ipc", "mnt", "net", "cgroup", as in /proc/PID/ns. */
int host_shares(const char *space, bool *ret);

/*
 * The host's network, for setns(2), where we are in a container with another; the caller closes. ret_fd is -1
 * where there is nothing to enter: one network for all, or one that was given to us outside of a container
 * (NetworkNamespacePath=, say), which does not end with us.
 */
int host_network_open(int *ret_fd);
