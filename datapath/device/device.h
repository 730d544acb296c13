/*
 * One attached volume: the holder's descriptors, the replay log, the session and the frontend, brought up,
 * kept going, and ended in order. Everything runs on one loop; what blocks (the frontend's jobs) is one job
 * at a time on an offload thread.
 */
#pragma once

#include <sys/signalfd.h>

#include "datapath/device/buffers.h"
#include "datapath/device/capacity.h"
#include "datapath/device/frontend.h"
#include "datapath/device/holder_watch.h"
#include "datapath/device/identify.h"
#include "datapath/device/initiator.h"
#include "datapath/device/path.h"
#include "datapath/device/replay.h"
#include "datapath/device/replay_log.h"
#include "datapath/device/requests.h"
#include "datapath/device/state.h"
#include "datapath/device/status_writer.h"

enum device_phase {                      /* in time order */
                    DEVICE_PHASE_START,  /* until the first session is open */
                    DEVICE_PHASE_OPEN,   /* job: the frontend's open() */
                    DEVICE_PHASE_ATTACH, /* job: its attach() */
                    DEVICE_PHASE_SERVE,
                    DEVICE_PHASE_END_DETACH, /* job: its detach(), until the last user is gone */
                    DEVICE_PHASE_END_FLUSH,  /* a last flush */
                    DEVICE_PHASE_END_CLOSE,  /* job: its close() */
                    DEVICE_PHASE_END_LOGOUT,
                    DEVICE_PHASE_ENDED,
};

struct device {
    struct loop *loop;
    struct device_state *state; /* constant but for the portals and the size */
    struct buffers buffers;
    struct replay_log log;
    struct initiator initiator;
    struct identify identify;
    struct capacity capacity;
    struct requests requests;
    struct replay replay;
    struct path path;
    struct frontend *frontend;
    struct status_writer status;

    enum device_phase phase;
    int holder; /* connection; -1: it has ended, and there is no new one yet */
    struct holder_watch watch;
    int log_fd;
    bool failed;        /* for good */
    bool end_requested; /* SIGTERM, and device.json says "end" */
    bool leaving;       /* SIGTERM without that */
    bool foreign_said;
    unsigned end_attempts;
    char end_error[128]; /* of the last flush; "" is none */
    int exit_code;

    struct loop_work job;
    struct error job_error;
    bool job_running;
    uint64_t attach_bytes, resize_bytes; /* the size at which that job began */
    struct loop_work abort;              /* of the frontend; once */
    struct loop_op retry;
    struct loop_op replay_timer; /* in the gate REFUSED */
    bool replay_timer_armed;
    unsigned replay_wait_ms;
    struct request last_flush;
    int signal_fd;
    struct loop_op signal_op;
    struct signalfd_siginfo signal_info;
    bool portals_bad; /* in device.json, and said so */
};

/* Everything up to the first login; blocks shortly. The caller then runs the loop, and calls device_done().
 */
int device_init(struct device *device, struct loop *loop, struct device_state *state, int signal_fd,
                struct error *err);
void device_start(struct device *device);
void device_done(struct device *device);

/* device_end.c: the orderly end. Goes on serving until the block device's last user is gone. */
void device_end(struct device *device);
void device_end_session_lost(struct device *device);

/* device_resize.c: the volume's size as the server tells it; have the server tell it; the block device is
 * there, made for a volume of made_bytes (0: by a predecessor). */
void device_resize_learn(void *context, uint64_t size_bytes);
void device_resize_ask(void *context);
void device_resize_attached(struct device *device, uint64_t made_bytes);

/* device.c, for device_resize.c: the process ends, the volume stays. */
void device_leave(struct device *device);

/* device.c, for device_end.c: write the status that follows from phase and gate, with words or NULL. */
void device_tell(struct device *device, const char *why);

/* device.c, for device_end.c: run work() on an offload thread, then done(); one job at a time. */
void device_job_start(struct device *device, int (*work)(struct loop_work *work),
                      void (*done)(struct loop_op *op, int res, unsigned flags));
