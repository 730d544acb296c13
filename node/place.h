/*
 * Where a long-lived program runs, so that the end of mooring-node's service, cgroup or container spares it:
 * in a systemd scope of its own, or in a cgroup beside ours; and from a container always in the host's
 * network, since the container's own loses its links with it. Prepared before a start, released after it; no
 * state.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

enum place_kind {
    PLACE_AUTO,    /* systemd where it runs this host, else a cgroup */
    PLACE_SYSTEMD, /* a transient scope; from a pod too, when it shares the host's PID namespace */
    PLACE_CGROUP,  /* "mooring-devices" beside our own cgroup, in each hierarchy where that is not the root */
    PLACE_FORK,    /* where mooring-node is: for tests, and where nothing else can be */
};

#define PLACE_ARGV_MAX 32
#define PLACE_CGROUPS_MAX 16

struct place {
    char *argv[PLACE_ARGV_MAX]; /* goes before the program's own; on the heap */
    size_t argc;
    int procs_fds[PLACE_CGROUPS_MAX]; /* cgroup.procs: who writes "0" there moves */
    size_t procs_count;
    int network_fd; /* of the host, to be entered by setns(2) */
    bool network_enters;
    bool locked; /* against place_tidy() */
};

/* "auto", "systemd", "cgroup" or "fork"; E_INVALID_ARGUMENT otherwise. */
int place_parse(const char *name, enum place_kind *ret, struct error *err);

/* What auto comes to on this host. */
enum place_kind place_resolve(enum place_kind kind);

/*
 * program: for the name of the unit ("device", "holder"); volume_id: likewise. E_PRECONDITION when systemd
 * was asked for and does not run this host, or when it cannot be told which network is the host's. Cgroups
 * that cannot be left are told in the log.
 */
int place_prepare(struct place *place, enum place_kind kind, const char *program, const char *volume_id,
                  struct error *err);
void place_done(struct place *place);
#define _cleanup_place_ __attribute__((cleanup(place_done)))

/* Remove the cgroups beside ours when nobody is in them any more. Not between place_prepare() and
 * place_done() of the same thread. */
void place_tidy(enum place_kind kind);
