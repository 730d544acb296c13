/* The boot id's page, and what a change of it asks for. Pure; called by identify.c and device.c. */
#include "datapath/device/boot_id.h"

#include <string.h>

#include "common/strings.h"

#define PAGE_HEADER 4

bool boot_id_parse(const uint8_t *page, size_t length, char ret_boot_id[ID_BOOT_LENGTH + 1])
{
    char boot_id[ID_BOOT_LENGTH + 1] = {0};
    if (length < PAGE_HEADER + ID_BOOT_LENGTH || page[1] != BOOT_ID_PAGE)
        return false;
    if ((size_t)(page[2] << 8 | page[3]) < ID_BOOT_LENGTH)
        return false;
    memcpy(boot_id, page + PAGE_HEADER, ID_BOOT_LENGTH);
    if (!id_boot_valid(boot_id))
        return false;
    memcpy(ret_boot_id, boot_id, sizeof boot_id);
    return true;
}

bool boot_id_needs_replay(const struct replay_log *log, const char *boot_id)
{
    if (boot_id[0] == '\0' || replay_log_empty(log))
        return false;
    return !str_equal(replay_log_boot_id(log), boot_id);
}
