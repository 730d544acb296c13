/* CDBs: READ(16), WRITE(16), SYNCHRONIZE CACHE(10), WRITE SAME(16), UNMAP. Called by requests.c. */
#include "datapath/device/request_command.h"

#include <stdlib.h>
#include <string.h>

#include "common/size.h"

#define CDB_FUA 0x08
#define CDB_SAME_UNMAP 0x08

static void put_u16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put_u32(uint8_t *at, uint32_t value)
{
    put_u16(at, (uint16_t)(value >> 16));
    put_u16(at + 2, (uint16_t)value);
}

static void put_u64(uint8_t *at, uint64_t value)
{
    put_u32(at, (uint32_t)(value >> 32));
    put_u32(at + 4, (uint32_t)value);
}

static struct scsi_task *task_new(const uint8_t *cdb, int cdb_size, int direction, struct request *request,
                                  void *data, uint64_t length)
{
    struct scsi_task *task = &request->command;
    *task = (struct scsi_task){.cdb_size = cdb_size, .xfer_dir = direction, .expxferlen = (int)length};
    memcpy(task->cdb, cdb, (size_t)cdb_size);
    request->iov = (struct scsi_iovec){.iov_base = data, .iov_len = length};
    if (direction == SCSI_XFER_READ)
        scsi_task_set_iov_in(task, &request->iov, 1);
    else if (direction == SCSI_XFER_WRITE)
        scsi_task_set_iov_out(task, &request->iov, 1);
    return task;
}

/* The 16-byte CDBs share one shape: opcode, flags, LBA, length in blocks. */
static void cdb16(uint8_t cdb[16], uint8_t opcode, uint8_t flags, const struct request *request,
                  uint32_t block_size)
{
    memset(cdb, 0, 16);
    cdb[0] = opcode;
    cdb[1] = flags;
    put_u64(cdb + 2, (request->offset + request->progress) / block_size);
    put_u32(cdb + 10, (uint32_t)(request->piece / block_size));
}

static struct scsi_task *read_write(struct request *request, const struct volume_limits *limits)
{
    uint8_t cdb[16];
    bool write = request->verb == REQUEST_WRITE;
    bool fua = write && (request->fua || limits->write_through);
    request->piece = MIN(request->length - request->progress, (uint64_t)limits->transfer_max_bytes);
    cdb16(cdb, write ? SCSI_OPCODE_WRITE16 : SCSI_OPCODE_READ16, fua ? CDB_FUA : 0, request,
          limits->block_size_bytes);
    return task_new(cdb, 16, write ? SCSI_XFER_WRITE : SCSI_XFER_READ, request,
                    (uint8_t *)request->data + request->progress, request->piece);
}

static struct scsi_task *flush(struct request *request)
{
    static const uint8_t cdb[10] = {SCSI_OPCODE_SYNCHRONIZECACHE10}; /* LBA 0, 0 blocks: all of it */
    request->piece = 0;
    return task_new(cdb, 10, SCSI_XFER_NONE, request, NULL, 0);
}

static struct scsi_task *unmap(struct request *request, const struct volume_limits *limits)
{
    static const uint8_t cdb[10] = {SCSI_OPCODE_UNMAP, 0, 0, 0, 0, 0, 0, 0, sizeof request->parameters, 0};
    uint8_t *list = request->parameters;
    request->piece = MIN(request->length - request->progress, limits->unmap_max_bytes);
    memset(list, 0, sizeof request->parameters);
    put_u16(list, sizeof request->parameters - 2);
    put_u16(list + 2, 16); /* one descriptor */
    put_u64(list + 8, (request->offset + request->progress) / limits->block_size_bytes);
    put_u32(list + 16, (uint32_t)(request->piece / limits->block_size_bytes));
    return task_new(cdb, 10, SCSI_XFER_WRITE, request, list, sizeof request->parameters);
}

static struct scsi_task *write_same(struct request *request, const struct volume_limits *limits, bool unmaps,
                                    void *zeroes)
{
    uint8_t cdb[16];
    request->piece = MIN(request->length - request->progress, limits->same_max_bytes);
    cdb16(cdb, SCSI_OPCODE_WRITE_SAME16, unmaps ? CDB_SAME_UNMAP : 0, request, limits->block_size_bytes);
    return task_new(cdb, 16, SCSI_XFER_WRITE, request, zeroes, limits->block_size_bytes);
}

struct scsi_task *request_command_next(struct request *request, const struct volume_limits *limits,
                                       void *zeroes)
{
    switch (request->verb) {
    case REQUEST_READ:
    case REQUEST_WRITE:
        return read_write(request, limits);
    case REQUEST_FLUSH:
        return flush(request);
    case REQUEST_DISCARD:
        if (limits->unmap_max_bytes)
            return unmap(request, limits);
        if (limits->same_max_bytes)
            return write_same(request, limits, limits->same_unmaps, zeroes);
        break;
    case REQUEST_ZERO:
        if (limits->same_max_bytes)
            return write_same(request, limits, false, zeroes);
        break;
    }
    return NULL;
}

void request_command_done(struct request *request)
{
    if (request->task)
        free(request->task->datain.data);
    request->task = NULL;
}
