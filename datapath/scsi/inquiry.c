/*
 * INQUIRY (SPC-5 section 6.7) and the vital product data: 00h, 80h, 83h (SPC-5 section 7.7), B0h, B1h, B2h
 * (SBC-4 section 6.6), and C0h, ours: the boot id of this mooring-target, which tells an initiator of ours
 * that answered but unflushed writes may be gone. Answered from memory, on the session's loop.
 */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/scsi/command.h"

#define INQUIRY_VENDOR "MOORING "
#define INQUIRY_PRODUCT "VOLUME          "
#define INQUIRY_DATA_MAX 512

/* Peripheral qualifier 011b, device type 1Fh: nothing can be there. */
#define INQUIRY_NO_UNIT 0x7f

struct vpd_page {
    uint8_t code;
    size_t (*fill)(const struct scsi_unit *unit,
                   uint8_t *data); /* after the 4-byte header; returns the length */
};

static size_t vpd_supported(const struct scsi_unit *unit, uint8_t *data);
static size_t vpd_serial(const struct scsi_unit *unit, uint8_t *data);
static size_t vpd_identification(const struct scsi_unit *unit, uint8_t *data);
static size_t vpd_limits(const struct scsi_unit *unit, uint8_t *data);
static size_t vpd_characteristics(const struct scsi_unit *unit, uint8_t *data);
static size_t vpd_provisioning(const struct scsi_unit *unit, uint8_t *data);
static size_t vpd_boot_id(const struct scsi_unit *unit, uint8_t *data);

static const struct vpd_page vpd_pages[] = {
    {0x00, vpd_supported},       {0x80, vpd_serial},       {0x83, vpd_identification}, {0xb0, vpd_limits},
    {0xb1, vpd_characteristics}, {0xb2, vpd_provisioning}, {0xc0, vpd_boot_id},
};

static const struct vpd_page *vpd_find(uint8_t code)
{
    for (size_t i = 0; i < ARRAY_SIZE(vpd_pages); i++) {
        if (vpd_pages[i].code == code)
            return &vpd_pages[i];
    }
    return NULL;
}

static bool inquiry_unit_there(const struct scsi_task *task)
{
    return task->lun == 0 && task->nexus->unit;
}

bool inquiry_parse(struct scsi_task *task)
{
    bool evpd = task->cdb[1] & 0x01;
    uint8_t page = task->cdb[2];

    if (task->cdb[1] & ~0x01) /* CMDDT is obsolete, the rest reserved */
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    if (evpd && !inquiry_unit_there(task))
        return command_refuse(task, SENSE_LUN_NOT_SUPPORTED);
    if (evpd ? !vpd_find(page) : page != 0)
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    return command_expect_data_in(task, get_be16(&task->cdb[3]));
}

static size_t inquiry_standard(const struct scsi_task *task, uint8_t *data)
{
    static const uint16_t versions[] = {0x00a0, 0x0960, 0x05c0, 0x0600}; /* SAM-5, iSCSI, SPC-5, SBC-4 */

    data[0] = inquiry_unit_there(task) ? 0x00 : INQUIRY_NO_UNIT;
    data[2] = 0x07; /* SPC-5 */
    data[3] = 0x12; /* HISUP, response data format 2 */
    data[4] = 96 - 5;
    data[7] = 0x02; /* CMDQUE */
    memcpy(&data[8], INQUIRY_VENDOR, 8);
    memcpy(&data[16], INQUIRY_PRODUCT, 16);
    memset(&data[32], ' ', 4);
    memcpy(&data[32], MOORING_VERSION, MIN(strlen(MOORING_VERSION), (size_t)4));
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++)
        put_be16(&data[58 + 2 * i], versions[i]);
    return 96;
}

void inquiry_execute(struct scsi_task *task)
{
    uint8_t data[INQUIRY_DATA_MAX] = {0};
    size_t length;

    if (task->cdb[1] & 0x01) {
        data[1] = task->cdb[2];
        length = vpd_find(task->cdb[2])->fill(task->nexus->unit, &data[4]);
        put_be16(&data[2], (uint16_t)length);
        length += 4;
    } else {
        length = inquiry_standard(task, data);
    }
    command_answer_data(task, data, length);
}

static size_t vpd_supported(const struct scsi_unit *unit, uint8_t *data)
{
    (void)unit;
    for (size_t i = 0; i < ARRAY_SIZE(vpd_pages); i++)
        data[i] = vpd_pages[i].code;
    return ARRAY_SIZE(vpd_pages);
}

static size_t vpd_serial(const struct scsi_unit *unit, uint8_t *data)
{
    size_t length = strlen(unit->volume_id);

    memcpy(data, unit->volume_id, length);
    return length;
}

/* One designator's header and body; returns its whole length. */
static size_t vpd_put_designator(uint8_t *data, uint8_t protocol_and_set, uint8_t type, const void *body,
                                 size_t length)
{
    data[0] = protocol_and_set;
    data[1] = type;
    data[2] = 0;
    data[3] = (uint8_t)length;
    memcpy(&data[4], body, length);
    return 4 + length;
}

/*
 * The logical unit: NAA 3h (locally assigned; the volume id's 16 digits are random), the T10 vendor form and
 * the SCSI name string; the target port: its relative number and its name.
 */
static size_t vpd_identification(const struct scsi_unit *unit, uint8_t *data)
{
    char name[256] = {0};
    uint8_t body[256];
    size_t length = 0;
    size_t id_length = strlen(unit->volume_id);
    const char *digits = id_length >= 16 ? unit->volume_id + id_length - 16 : unit->volume_id;

    put_be64(body, UINT64_C(3) << 60 | (strtoull(digits, NULL, 16) & (UINT64_MAX >> 4)));
    length += vpd_put_designator(&data[length], 0x01, 0x03, body, 8);

    memcpy(body, INQUIRY_VENDOR, 8);
    memcpy(&body[8], unit->volume_id, id_length);
    length += vpd_put_designator(&data[length], 0x02, 0x01, body, 8 + id_length);

    /* SPC-5: a SCSI name string ends in a NUL and is padded to a multiple of four. */
    snprintf(name, sizeof(name), ID_IQN_PREFIX "%s,L,0x0000000000000000", unit->volume_id);
    length += vpd_put_designator(&data[length], 0x03, 0x08, name, ROUND_UP(strlen(name) + 1, 4));

    static const uint8_t relative_port[4] = {0, 0, 0, 1};
    length += vpd_put_designator(&data[length], 0x51, 0x94, relative_port, 4);

    memset(name, 0, sizeof(name));
    snprintf(name, sizeof(name), ID_IQN_PREFIX "%s,t,0x0001", unit->volume_id);
    length += vpd_put_designator(&data[length], 0x53, 0x98, name, ROUND_UP(strlen(name) + 1, 4));
    return length;
}

static size_t vpd_limits(const struct scsi_unit *unit, uint8_t *data)
{
    uint32_t block = unit->block_size_bytes;
    uint8_t *page = data - 4; /* offsets as in the standard's table */

    page[4] = 0x01; /* WSNZ: a WRITE SAME of zero blocks is refused */
    put_be16(&page[6], (uint16_t)MAX(1u, 4096 / block));
    put_be32(&page[8], SCSI_TRANSFER_MAX / block);
    put_be32(&page[12], COMMAND_OPTIMAL_BYTES / block);
    put_be32(&page[20], COMMAND_UNMAP_BYTES_MAX / block);
    put_be32(&page[24], COMMAND_UNMAP_DESCRIPTORS_MAX);
    put_be32(&page[28], MAX(1u, COMMAND_UNMAP_GRANULARITY_BYTES / block));
    put_be32(&page[32], UINT32_C(1) << 31); /* UGAVALID, alignment 0 */
    put_be64(&page[36], COMMAND_WRITE_SAME_BYTES_MAX / block);
    return 0x3c;
}

static size_t vpd_characteristics(const struct scsi_unit *unit, uint8_t *data)
{
    (void)unit;
    put_be16(&data[0], 0x0001); /* it does not rotate */
    return 0x3c;
}

static size_t vpd_provisioning(const struct scsi_unit *unit, uint8_t *data)
{
    data[1] = 0xe4; /* LBPU, LBPWS, LBPWS10, LBPRZ = 001b */
    if (unit->thick)
        data[1] |= 0x02;                 /* ANC_SUP */
    data[2] = unit->thick ? 0x01 : 0x02; /* resource provisioned, or thin */
    return 4;
}

static size_t vpd_boot_id(const struct scsi_unit *unit, uint8_t *data)
{
    memcpy(data, unit->boot_id, ID_BOOT_LENGTH);
    return ID_BOOT_LENGTH;
}
