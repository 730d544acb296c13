/* One SCSI command of a connection, from its PDU to its answer: task.c, data_out.c and task_management.c
 * share it. */
#pragma once

#include "datapath/scsi/scsi.h"
#include "datapath/target/connection.h"

/* A transfer tag is the task's place in the set and, above it, a count that tells an old R2T from a new one.
 */
#define TAG_PLACE_BITS 12
#define TAG_PLACE_MASK ((1u << TAG_PLACE_BITS) - 1)

enum task_state {
    TASK_WAITS_FOR_BUFFER,
    TASK_COLLECTS,  /* data-out */
    TASK_THROTTLED, /* waits for its volume's limits */
    TASK_HELD,      /* complete, but the volume is held */
    TASK_EXECUTES,
    TASK_ANSWERS,
};

struct task {
    struct scsi_task scsi;
    struct connection *connection;
    struct task *next, *previous; /* of those in use */
    struct task *list_next;       /* of those held, starved, or throttled */
    bool starved;
    bool charged; /* its volume's limits know of it */
    enum task_state state;
    bool immediate;                   /* beside the window */
    bool aborted;                     /* gets no answer */
    bool answered;                    /* its answer was built: it has left the window */
    uint64_t serial;                  /* in the order in which they came */
    void (*go_on)(struct task *task); /* after TASK_THROTTLED */
    uint8_t lun[8];
    uint32_t tag;
    uint32_t read_expected, write_expected; /* the PDU's Expected Data Transfer Length, by its R and W bits */

    struct buffer_wait wait;
    void *buffer;
    size_t buffer_size;
    size_t share; /* of the session's buffer_bytes */

    /* data-out */
    uint32_t wanted, received; /* bytes to collect, and those that are here */
    uint32_t burst_end;        /* where the R2T that is out ends */
    uint32_t data_sn, r2t_sn;
    uint32_t transfer_tag;
    struct out r2t;

    /* the answer */
    struct out answer;
    uint32_t data_in_size, data_in_sent, data_in_sn;
    struct iscsi_residual residual;
    uint8_t sense[2 + SCSI_SENSE_LENGTH];
};

/* End a task that is not being carried out; or mark one that is, so that it ends without an answer. */
void task_abort(struct task *task);

/* Answer with what scsi says. */
void task_answer(struct task *task);

/* ---- data_out.c ---- */
void data_out_begin(struct task *task,
                    uint32_t immediate_size); /* its buffer is there; the PDU carries so much */
void data_out_continue(struct task *task);    /* ask for more, or carry it out */
void task_execute(struct task *task);
