/* mooring node check: can this host be a compute node? Looks, changes nothing. Run by main(). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/csi.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/options.h"
#include "common/record.h"
#include "common/strings.h"

static void add(json_t *rows, const char *name, bool ok, bool required, const char *detail)
{
    json_array_append_new(rows, json_pack("{s:s, s:b, s:b, s:s}", "check", name, "ok", ok, "required",
                                          required, "detail", detail));
}

/* FUSE_NOTIFY_RESEND came with Linux 6.9: with it the kernel sends again what a crashed device process had
 * not answered; elsewhere its successor finds them in the memory that mooring-holder keeps. */
static void check_kernel(json_t *rows)
{
    struct utsname name = {.release = "unknown"};
    long major, minor;
    bool resend;
    char *end;

    uname(&name);
    major = strtol(name.release, &end, 10);
    minor = *end == '.' ? strtol(end + 1, NULL, 10) : 0;
    resend = major > 6 || (major == 6 && minor >= 9);
    add(rows, "kernel resends FUSE requests", resend, false,
        resend ? name.release : "Linux 6.9 or newer has it; before, they are found in the holder's memory");
}

static void check_device(json_t *rows, const char *path, bool required, const char *remedy)
{
    bool ok = access(path, R_OK | W_OK) == 0;

    add(rows, path, ok, required, ok ? "there" : remedy);
}

static bool on_path(const char *program)
{
    static const char *const dirs[] = {"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"};

    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
        _cleanup_free_ char *path = str_format("%s/%s", dirs[i], program);

        if (path && access(path, X_OK) == 0)
            return true;
    }
    return false;
}

static void check_program(json_t *rows, const char *program, bool required, const char *package)
{
    bool ok = on_path(program);
    _cleanup_free_ char *remedy = str_format("apt-get install %s", package);

    add(rows, program, ok, required, ok ? "installed" : remedy ? remedy : "missing");
}

static void check_service(struct cli *cli, json_t *rows)
{
    _cleanup_error_ struct error err = {0};
    Csi__V1__NodeGetInfoRequest request = CSI__V1__NODE_GET_INFO_REQUEST__INIT;
    ProtobufCMessage *message = NULL;

    if (csi_call_node(cli, "NodeGetInfo", &request.base, &message, &err) != E_OK) {
        add(rows, "mooring-node answers", false, true, error_text(&err));
        return;
    }
    add(rows, "mooring-node answers", true, true, ((Csi__V1__NodeGetInfoResponse *)message)->node_id);
    protobuf_c_message_free_unpacked(message, NULL);
}

static int count_missing(json_t *rows, struct error *err)
{
    size_t missing = 0, i;
    json_t *row;

    json_array_foreach(rows, i, row) missing +=
        json_is_true(json_object_get(row, "required")) && !json_is_true(json_object_get(row, "ok"));
    if (missing == 0)
        return E_OK;
    return error_set(err, E_PRECONDITION, "%zu of what a compute node needs is missing", missing);
}

int node_check(struct cli *cli, int argc, char **argv, struct error *err)
{
    static const struct output_column columns[] = {
        {"check", "CHECK", OUTPUT_TEXT},
        {"ok", "OK", OUTPUT_BOOL},
        {"required", "REQUIRED", OUTPUT_BOOL},
        {"detail", "DETAIL", OUTPUT_TEXT},
    };
    const struct option_spec options[] = {
        {.name = "node-socket", .argument = "ENDPOINT", .help = "of mooring-node", .value = &cli->node},
    };
    const struct cli_usage usage = {"mooring node check",
                                    "Check whether this host can be a compute node.",
                                    NULL,
                                    options,
                                    ARRAY_SIZE(options),
                                    0,
                                    0};
    _cleanup_json_ json_t *rows = json_array();
    int operand;
    int r = cli_parse(&usage, argc, argv, &operand, err);

    if (r != E_OK)
        return r;
    check_device(rows, "/dev/fuse", true, "modprobe fuse");
    check_device(rows, "/dev/loop-control", true, "modprobe loop");
    check_kernel(rows);
    check_program(rows, "mkfs.ext4", true, "e2fsprogs");
    check_program(rows, "mkfs.xfs", false, "xfsprogs");
    check_service(cli, rows);
    r = output_rows(cli, stdout, rows, columns, ARRAY_SIZE(columns), err);
    return r == E_OK ? count_missing(rows, err) : r;
}
