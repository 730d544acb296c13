/* The coalescing writer of status.json. Runs on the device's loop and an offload thread; called by device.c.
 */
#include "datapath/device/status_writer.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/log.h"

#define COUNT_PAUSE_MS 1000u

static int write_work(struct loop_work *work)
{
    struct status_writer *writer = container_of(work, struct status_writer, work);
    _cleanup_error_ struct error err = {0};
    int r = device_status_save(writer->dir_fd, &writer->written, &err);
    if (r)
        log_warning("cannot write status.json: %s", error_text(&err));
    return 0;
}

static void write_start(struct status_writer *writer)
{
    if (writer->running) {
        writer->again = true;
        return;
    }
    writer->running = true;
    writer->again = false;
    writer->written = writer->status;
    loop_offload(writer->loop, &writer->work);
}

static void write_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct status_writer *writer = container_of(op, struct status_writer, work.op);
    writer->running = false;
    if (writer->again)
        write_start(writer);
}

static void pause_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct status_writer *writer = container_of(op, struct status_writer, pause);
    writer->pause_armed = false;
    write_start(writer);
}

void status_writer_init(struct status_writer *writer, struct loop *loop, int dir_fd, uint64_t generation)
{
    *writer = (struct status_writer){.loop = loop, .dir_fd = dir_fd};
    writer->status.generation = generation;
    writer->status.since_unix_s = time(NULL);
    writer->work.work = write_work;
    writer->work.op.done = write_done;
    writer->pause.done = pause_done;
}

void status_writer_set(struct status_writer *writer, enum device_status_code code, const char *error)
{
    struct device_status *status = &writer->status;
    const char *words = error ? error : "";
    if (status->code == code && strncmp(status->error, words, sizeof status->error - 1) == 0)
        return;
    if (status->code != code) {
        status->since_unix_s = time(NULL);
        log_info("%s%s%s", device_status_name(code), words[0] ? ": " : "", words);
    }
    status->code = code;
    snprintf(status->error, sizeof status->error, "%s", words);
    write_start(writer);
}

void status_writer_set_size(struct status_writer *writer, uint64_t size_bytes, const char *error)
{
    writer->status.size_bytes = size_bytes;
    snprintf(writer->status.resize_error, sizeof writer->status.resize_error, "%s", error);
    write_start(writer);
}

void status_writer_count_errors(struct status_writer *writer, uint64_t errors)
{
    writer->status.io_errors = errors;
    writer->status.io_error_unix_s = time(NULL);
    if (writer->pause_armed)
        return;
    writer->pause_armed = true;
    loop_timeout(writer->loop, &writer->pause, COUNT_PAUSE_MS);
}

void status_writer_set_failed(struct status_writer *writer, unsigned requests, uint64_t took_us)
{
    writer->status.failed_requests = requests;
    writer->status.failed_in_us = took_us;
    write_start(writer);
}

void status_writer_set_device(struct status_writer *writer, const char *block_device, bool take_over)
{
    snprintf(writer->status.block_device, sizeof writer->status.block_device, "%s", block_device);
    writer->status.take_over = take_over;
    write_start(writer);
}

void status_writer_flush(struct status_writer *writer)
{
    writer->written = writer->status;
    write_work(&writer->work);
}
