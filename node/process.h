/*
 * Programs that outlive mooring-node (mooring-device, mooring-holder) and short ones that do not (mkfs,
 * fsck).
 *
 * A long-lived one is known by its pid file: the process holds a lock on it, through a descriptor it
 * inherited, from before its first instruction until the kernel has ended it. So whether it lives is the
 * kernel's word, whoever its parent is, and a reused pid cannot be mistaken for it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"
#include "node/place.h"

/*
 * Start argv[0] in a session of its own, reparented to init, stdin from /dev/null, stdout and stderr appended
 * to log_path; place (may be NULL) says in which cgroup or scope. E_EXISTS when the process of pid_path
 * lives; a program that cannot be executed is an error here.
 */
int process_spawn(const char *pid_path, const char *log_path, const struct place *place,
                  const char *const *argv, struct error *err);

/* 0 and its pid (ret_pid may be NULL) while it lives; E_NOT_FOUND when it does not. E_UNAVAILABLE while it is
 * just starting; an errno when it cannot be told, as without a free descriptor: that proves no end. */
int process_find(const char *pid_path, pid_t *ret_pid, struct error *err);

/* Whether it lives, or may: false is proof that it does not. */
bool process_alive(const char *pid_path);

/* A pidfd of it, or -1 when it does not live. The caller closes. */
int process_open(const char *pid_path);

/* Send signal_number. 0 also when it does not live. */
int process_signal(const char *pid_path, int signal_number, struct error *err);

/* Send signal_number and wait until it is gone. 0 also when it does not live; E_DEADLINE when it is still
 * there; an error also when that cannot be told. */
int process_stop(const char *pid_path, int signal_number, unsigned timeout_ms, struct error *err);

/* What a short program depends on: once fd (a pidfd) is readable, ended() must unblock the program's I/O, and
 * the program is killed. */
struct process_watch {
    int fd;
    void (*ended)(void *context);
    void *context;
    const char *why; /* for the error's text */
};

/* Start argv[0], found by PATH, with output_fd as stdout and stderr. The caller waits for the child. */
int process_start(const char *const *argv, int output_fd, pid_t *ret_pid, struct error *err);

/* Run to the end; ret_status is the exit status; ret_output (may be NULL) the first 4 KiB of what it printed.
 * watch may be NULL; E_UNAVAILABLE when it cut the program short. */
int process_run(const char *const *argv, const struct process_watch *watch, int *ret_status,
                char **ret_output, struct error *err);
