/* Any text as each kind of identifier and as a size: what is accepted must come back as it was. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/size.h"
#include "common/strings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_chap_name(const char *text)
{
    char volume_id[ID_VOLUME_MAX + 1], again[ID_CHAP_NAME_MAX + 1];
    uint64_t epoch, generation;

    if (!id_chap_name_parse(text, volume_id, &epoch, &generation))
        return;
    assert(id_volume_valid(volume_id));
    id_chap_name(volume_id, epoch, generation, again);
    assert(str_equal(text, again));
}

static void check_volume(const char *text)
{
    char server_id[ID_SERVER_MAX + 1], iqn[ID_IQN_MAX + 1];

    if (id_volume_server(text, server_id, NULL) != E_OK) {
        assert(!id_volume_valid(text));
        return;
    }
    assert(id_server_valid(server_id) && str_starts_with(text, server_id));
    assert(!strchr(text, '/') && strlen(text) <= ID_VOLUME_MAX);
    id_volume_iqn(text, iqn);
    assert(str_equal(id_iqn_volume(iqn), text));
}

static void check_node(const char *text)
{
    char iqn[ID_IQN_MAX + 1];

    if (!id_node_valid(text))
        return;
    assert(!strchr(text, '/') && text[0] != '.');
    id_node_iqn(text, iqn);
    assert(!id_iqn_volume(iqn));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ char *text = strndup((const char *)data, size);
    uint64_t bytes;

    if (!text)
        return 0;
    check_chap_name(text);
    check_volume(text);
    check_node(text);
    id_iqn_volume(text);
    id_boot_valid(text);
    size_parse(text, &bytes, NULL);
    return 0;
}
